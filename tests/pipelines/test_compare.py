"""Two runs side by side: paired by their queries, and honest about what can't be compared."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pages import EVIL, Page, read, require_text_in_markdown

from mgvr_core.errors import MgvrError
from mgvr_core.evaluation.bootstrap import intervals, paired_gain
from mgvr_core.evaluation.comparison import compare as measured
from mgvr_core.evaluation.metrics import Positions, per_query
from mgvr_core.evaluation.render import write_report
from mgvr_core.evaluation.report import Captions, Directions, Macs, Manifest, Report, StageTime
from mgvr_core.evaluation.side_pages import write_comparison
from mgvr_core.evaluation.side_wording import lines, on_terminal
from mgvr_core.evaluation.systems import System, SystemsReport
from mgvr_core.evaluation.systems_pages import write_systems
from mgvr_core.evaluation.trec import write_qrels, write_run
from pipelines.compare import compare, read_side, run
from pipelines.judged import by_qrels, read_lists

POOL, K = 50, 20
QUERIES = [f"q{number}" for number in range(60)]
GENERATOR = np.random.default_rng(0)
RANKS = GENERATOR.integers(1, POOL + 1, 60)
BETTER = np.where(np.arange(60) < 25, 1, RANKS)


def placed(ranks: Sequence[int]) -> Positions:
    """Positions of one right answer a query, without ties."""
    better = np.asarray(ranks) - 1
    return Positions(np.arange(len(better)), better, np.zeros_like(better), len(better), POOL, np.zeros_like(better))


def manifest(**configuration: object) -> Manifest:
    return Manifest("mgvr x", configuration, {"model": "abc"}, {"mgvr": "1"}, {"cpu": "2"}, 0)


def retrieved(
    folder: Path, ranks: Sequence[int], queries: Sequence[str] = QUERIES, pool: int = POOL, k: int = K
) -> Path:
    """A folder as mgvr retrieve leaves it, with the right answer of each query at its rank."""
    direction = dataclasses.replace(measured(placed(ranks), placed(ranks), k, samples=50), pool=pool)
    report = Report(
        f"run {folder.name}",
        "2026-11-25T10:12:00+00:00",
        len(queries),
        pool,
        Captions(len(queries), 32, 0),
        manifest(k=k, out=folder.name, report={"seed": 0}),
        metrics=Directions(direction),
        stages=(StageTime("search", 2.5),),
        macs_per_query=Macs(100, 2000, 9000),
    )
    write_report(report, folder)
    lists = [
        (query, [f"right-{query}" if place == rank else f"v{place}" for place in range(1, k + 1)])
        for query, rank in zip(queries, ranks, strict=True)
    ]
    write_run(folder / "run.trec", lists, "t")
    write_qrels(folder / "qrels.trec", [(query, [f"right-{query}"]) for query in queries])
    return folder


def swept(
    folder: Path,
    systems: dict[str, Sequence[int]],
    queries: Sequence[str] = QUERIES,
    pool: int = POOL,
    settings: Mapping[str, Mapping[str, str]] | None = None,
    warnings: tuple[str, ...] = (),
) -> Path:
    """A folder as mgvr evaluate leaves it; with the settings of its systems, as mgvr sweep does."""
    rows = tuple(
        System(
            name,
            (settings or {}).get(name, {}),
            len(queries),
            pool,
            intervals(per_query(placed(ranks)), samples=50),
            seconds=2.0,
        )
        for name, ranks in systems.items()
    )
    about = manifest(k=1) if settings is None else manifest(grid=[], out=folder.name, parallel=2)
    report = SystemsReport(f"sweep {folder.name}", "2026-11-25T10:12:00+00:00", rows, about, warnings=warnings)
    write_systems(report, folder)
    table = {
        "system": [name for name in systems for _ in queries],
        "direction": ["text_to_video"] * len(queries) * len(systems),
        "query": [*queries] * len(systems),
        "rank": [float(rank) for ranks in systems.values() for rank in ranks],
    }
    pq.write_table(pa.table(table), folder / "ranks.parquet")
    return folder


def test_two_retrieve_runs_are_paired_by_their_queries(tmp_path: Path) -> None:
    order = GENERATOR.permutation(60)
    shuffled = retrieved(tmp_path / "b", BETTER[order], [QUERIES[row] for row in order])

    found = compare(retrieved(tmp_path / "a", RANKS), shuffled)

    (pair,) = (pair for pair in found.pairs if pair.a.name == "two-stage")
    expected = paired_gain((BETTER <= 5).astype(float), (RANKS <= 5).astype(float))
    assert pair.shared == 60
    assert pair.gain["R@5"] == expected
    assert (pair.shared_a["R@10"], pair.shared_b["R@10"]) == ((RANKS <= 10).mean(), (BETTER <= 10).mean())
    assert set(pair.gain) == {"R@1", "R@5", "R@10"}  # the lists end at k, so MRR is not known
    assert pair.a.figures["MRR"].value == pytest.approx((1 / RANKS).mean())


def test_no_difference_is_claimed_below_the_end_of_a_list(tmp_path: Path) -> None:
    found = compare(retrieved(tmp_path / "a", RANKS, k=7), retrieved(tmp_path / "b", BETTER, k=30))

    assert set(found.pairs[1].gain) == {"R@1", "R@5"}


def test_systems_are_paired_by_name_and_the_others_are_listed(tmp_path: Path) -> None:
    a = swept(tmp_path / "a", {"mean pool": RANKS, "old": RANKS})
    b = swept(tmp_path / "b", {"new": RANKS, "mean pool": BETTER})

    found = compare(a, b / "systems.json")

    (pair,) = found.pairs
    assert (pair.a.name, pair.b.name) == ("mean pool", "mean pool")
    assert pair.gain["MRR"] == paired_gain(1 / BETTER, 1 / RANKS)
    assert (found.alone_a, found.alone_b) == ((("text_to_video", "old"),), (("text_to_video", "new"),))


def test_a_single_system_stands_beside_each_of_the_others(tmp_path: Path) -> None:
    found = compare(retrieved(tmp_path / "a", RANKS), swept(tmp_path / "b", {"x": BETTER, "y": RANKS}))

    assert [(pair.a.name, pair.b.name, pair.shared) for pair in found.pairs] == [
        ("two-stage", "x", 60),
        ("two-stage", "y", 60),
    ]
    assert found.pairs[1].gain["R@1"].value == 0


EERCF = {"model": "demo", "scorer": "eercf", "k": "20"}
GRID = {
    "coarse": {"model": "demo", "scorer": "coarse", "k": "all"},
    "eercf on 20": EERCF,
    "eercf on 20, int8": {**EERCF, "codec": "int8"},
    "eercf on 20, dual": {**EERCF, "correction": "dual"},
    "eercf on 50": {**EERCF, "k": "50"},
}


def test_a_retrieve_run_stands_beside_the_same_search_of_a_sweep(tmp_path: Path) -> None:
    retrieve, sweep = (
        retrieved(tmp_path / "a", RANKS),
        swept(tmp_path / "b", dict.fromkeys(GRID, BETTER), settings=GRID),
    )

    found, turned = compare(retrieve, sweep), compare(sweep, retrieve)

    assert [(pair.a.name, pair.b.name) for pair in found.pairs] == [("two-stage", "eercf on 20"), ("coarse", "coarse")]
    assert found.pairs[0].gain["R@1"].value == -turned.pairs[0].gain["R@1"].value > 0
    coarse = found.pairs[1]
    assert (coarse.shared, coarse.gain) == (60, {})  # both have the queries, and only the sweep their places
    other_k = retrieved(tmp_path / "c", RANKS, k=30)
    assert [pair.b.name for pair in compare(other_k, sweep).pairs] == ["coarse"]


def test_names_can_be_paired_that_differ(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = retrieved(tmp_path / "a", RANKS), swept(tmp_path / "b", {"k=5": BETTER, "y": RANKS, "coarse": RANKS})

    assert [(pair.a.name, pair.b.name) for pair in compare(a, b, ["two-stage=k=5", "two-stage = y"]).pairs] == [
        ("two-stage", "k=5"),
        ("two-stage", "y"),
        ("coarse", "coarse"),
    ]
    assert run([str(b), str(a), "--pair", "k=5=coarse"]) == 0
    assert "k=5 (A), coarse (B)" in capsys.readouterr().out
    for wrong in ("two-stage=z", "y=two-stage", "two-stage"):
        assert run([str(a), str(b), "--pair", wrong]) == 2
        said = capsys.readouterr().err
        assert all(name in said for name in (f"'{wrong}'", "'coarse'; 'two-stage'", "'k=5'; 'y'; 'coarse'"))


def test_whole_rankings_have_a_difference_of_mean_ranks_and_none_of_ndcg(tmp_path: Path) -> None:
    missed = np.where(np.arange(60) == 7, POOL + 1, RANKS)

    (pair,) = compare(swept(tmp_path / "a", {"x": missed}), swept(tmp_path / "b", {"x": BETTER})).pairs

    assert pair.gain["MnR"] == paired_gain(BETTER, missed)
    assert [line.name for line in lines(pair)] == ["R@1", "R@5", "R@10", "MdR", "MnR", "MRR"]


def test_mean_ranks_of_short_lists_are_called_so_and_not_subtracted(tmp_path: Path) -> None:
    """The warning is what mgvr evaluate says of such a run."""
    write_run(tmp_path / "run.trec", [("q0", ["v1"]), ("q1", ["v1"])], "t")
    write_qrels(tmp_path / "qrels.trec", [("q0", ["v1"]), ("q1", ["v2"])])
    judged = by_qrels(tmp_path / "qrels.trec", tmp_path / "run.trec", read_lists(tmp_path / "run.trec"), None)
    a = swept(tmp_path / "a", {"x": RANKS}, warnings=judged.warnings)

    found = compare(a, swept(tmp_path / "b", {"x": BETTER}))

    (pair,) = found.pairs
    assert set(pair.gain) == {"R@1", "R@5", "R@10", "MRR"}
    assert {line.name for line in lines(pair) if line.note == "A by short lists"} == {"MdR", "MnR"}
    assert any("A was measured from lists that are shorter than the pool" in warning for warning in found.warnings)
    texts = read(write_comparison(found, tmp_path / "out"))
    for text in (on_terminal(found), texts["compare.html"], texts["compare.md"]):
        assert text.count("A by short lists") == 2


def test_a_rank_behind_the_pool_is_a_miss_at_any_cut_off(tmp_path: Path) -> None:
    """A right answer that is not in a pool of 3 has rank 4, which is no hit at 10."""
    ranks = np.full(60, 4)
    side = read_side("A", swept(tmp_path / "a", {"x": ranks}, pool=3))

    assert set(side.placed["text_to_video", "x"].rank.values()) == {np.inf}


def test_only_shared_queries_are_paired_and_the_page_says_how_many(tmp_path: Path) -> None:
    found = compare(retrieved(tmp_path / "a", RANKS), retrieved(tmp_path / "b", BETTER[:40], QUERIES[:40]))

    pair = found.pairs[1]
    assert pair.shared == 40
    assert pair.shared_a["R@1"] == (RANKS[:40] == 1).mean()
    assert any("40 queries are shared, of 60 in A and 40 in B" in warning for warning in found.warnings)


def test_different_pools_are_compared_and_the_page_says_that_they_cannot_be(tmp_path: Path) -> None:
    found = compare(retrieved(tmp_path / "a", RANKS), retrieved(tmp_path / "b", RANKS, pool=40))

    assert any("50 items in A, 40 in B" in warning and "can't be compared" in warning for warning in found.warnings)
    assert found.pairs[1].shared == 60


def test_queries_of_one_video_are_drawn_together(tmp_path: Path) -> None:
    a, b = retrieved(tmp_path / "a", RANKS), retrieved(tmp_path / "b", BETTER)
    for folder in (a, b):
        write_qrels(folder / "qrels.trec", [(query, [f"v{int(query[1:]) // 3}"]) for query in QUERIES])

    assert compare(a, b).pairs[1].interval_unit == "group"


def test_what_differs_is_named_by_its_key(tmp_path: Path) -> None:
    found = compare(retrieved(tmp_path / "a", RANKS), retrieved(tmp_path / "b", RANKS, k=30))

    assert {(each.kind, each.key, each.a, each.b) for each in found.differences} == {
        ("configuration", "k", "20", "30"),
        ("configuration", "out", '"a"', '"b"'),
    }


def test_what_only_one_kind_of_job_has_is_no_difference(tmp_path: Path) -> None:
    a, b = retrieved(tmp_path / "a", RANKS), swept(tmp_path / "b", {"coarse": RANKS}, settings={})
    document = json.loads((b / "systems.json").read_text())
    document["manifest"]["fingerprints"] = {"model": "abc, snapshot 1", "features, codec int8": "d"}
    document["manifest"]["versions"] = {"mgvr": "2", "ray": "3"}
    (b / "systems.json").write_text(json.dumps(document))

    found = compare(a, b)

    assert [(each.kind, each.key, each.a, each.b) for each in found.differences] == [
        ("configuration", "out", '"a"', '"b"'),
        ("version", "mgvr", "1", "2"),
        ("version", "ray", None, "3"),
    ]
    assert "A is of mgvr retrieve, B of mgvr sweep" in on_terminal(found)


def test_runs_of_other_queries_are_refused_with_both_their_ids(tmp_path: Path) -> None:
    a, b = retrieved(tmp_path / "a", RANKS), retrieved(tmp_path / "b", RANKS, [f"other{n}" for n in range(60)])

    for _ in ("with the lists of both", "with those of one"):
        with pytest.raises(MgvrError, match=r"no query in common.*'q0'.*'other0'"):
            compare(a, b)
        (b / "run.trec").unlink(missing_ok=True)


def test_systems_without_a_common_name_are_refused(tmp_path: Path) -> None:
    a, b = (swept(tmp_path / end, {f"{end}1": RANKS, f"{end}2": RANKS}) for end in "ab")

    with pytest.raises(MgvrError, match=r"a1, a2.*b1, b2"):
        compare(a, b)


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.json").write_text("[]")
    (tmp_path / "y.json").write_text("{")
    retrieved(tmp_path / "a", RANKS)
    swept(tmp_path / "a", {"x": RANKS})

    for name, said in {
        ".": "neither report.json",
        "x.json": "not a retrieval report",
        "y.json": "no JSON document",
        "gone.json": "cannot read",
        "a": "name the one that is meant",
    }.items():
        assert run([str(tmp_path / name), str(tmp_path / "a" / "report.json")]) == 2
        assert said in capsys.readouterr().err


def test_without_lists_the_figures_stand_side_by_side_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = retrieved(tmp_path / "a", RANKS), retrieved(tmp_path / "b", BETTER)
    (b / "run.trec").unlink()

    assert run([str(a), str(b)]) == 0
    text = capsys.readouterr().out
    assert "No paired difference" in text
    assert f"{100 * (BETTER == 1).mean():.1f}" in text


def test_the_terminal_and_the_pages_tell_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = retrieved(tmp_path / "a", RANKS), retrieved(tmp_path / "b", BETTER, k=30)

    assert run([str(a), str(b), "--out", str(tmp_path / "out")]) == 0

    printed = capsys.readouterr().out
    files = {path.name: path for path in (tmp_path / "out").iterdir()}
    assert sorted(files) == ["compare.html", "compare.json", "compare.md"]
    texts = read(files)
    gain = json.loads(texts["compare.json"])["pairs"][1]["gain"]["R@1"]
    for text in (printed, texts["compare.html"], texts["compare.md"]):
        assert f"{100 * gain['value']:+.1f}" in text
        assert "The interval excludes 0" in text
        assert "2 K" in text
    page = Page(texts["compare.html"])
    assert page.open == []
    assert not {"script", "link", "img", "iframe"} & set(page.tags)


def test_text_from_outside_is_text(tmp_path: Path) -> None:
    a, b = swept(tmp_path / "a", {EVIL: RANKS, "x": RANKS}), swept(tmp_path / "b", {EVIL: BETTER, EVIL + "2": RANKS})
    found = compare(a, b)
    about = dataclasses.replace(found.a, title=EVIL, source=EVIL, command=EVIL)
    differing = tuple(dataclasses.replace(each, key=EVIL, a=EVIL) for each in found.differences)
    evil = dataclasses.replace(found, a=about, b=about, warnings=(EVIL,), differences=differing)

    texts = read(write_comparison(evil, tmp_path / "out"))

    page = Page(texts["compare.html"])
    assert page.open == []
    assert not {"script", "a", "em"} & set(page.tags)
    assert page.text.count(EVIL) >= 3
    require_text_in_markdown(texts["compare.md"].replace("## How they were made", "## How it was made"))

"""mgvr retrieve with its options: the certificate, an approximate index, corrections of hubness, and going on."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from killing import Start, launching
from plain_search import RELEASED, Query, plain

from mgvr_core.config import parse
from mgvr_core.errors import MgvrError
from mgvr_core.evaluation.hubness import DUAL_SOFTMAX, QB_NORM, SINKHORN_BANK
from mgvr_core.evaluation.report import Report
from mgvr_core.features.snapshot import Snapshot
from mgvr_core.model.load import ModelConfig
from pipelines.recoding import RecodeConfig, recode
from pipelines.retrieve import RetrieveConfig, retrieve
from pipelines.rows import Rows
from pipelines.searching import Crew

N, K, TOP, BLOCK = 12, 5, 3, 6
PROGRAM = Path(__file__).with_name("retrieve_kills.py")
PATIENCE_S = 120

Settings = dict[str, Any]
Answered = tuple[Report, Path]


@pytest.fixture(scope="module")
def queries(corpus) -> list[Query]:
    """Captions with their video, one text twice, and a search."""
    base = corpus.records("test-queries")
    return [*base, {**base[0], "id": "again"}, {"id": "search", "text": "a small moon", "relevant": []}]


@pytest.fixture(scope="module")
def settings(
    features: Snapshot, model: ModelConfig, queries: list[Query], tmp_path_factory: pytest.TempPathFactory
) -> Settings:
    """Of a run without options, but for `out`."""
    file = tmp_path_factory.mktemp("queries") / "queries.jsonl"
    file.write_text("".join(json.dumps(query) + "\n" for query in queries))
    return {
        "features": features.url,
        "model": model.model_dump(mode="json"),
        "queries": {"uri": str(file)},
        "k": K,
        "report": {"bootstrap": 20},
        "search": {"workers": 1, "queries_at_once": BLOCK},
    }


@pytest.fixture(scope="module")
def bank(corpus, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Training captions, one of which is a query too."""
    captions = [query["text"] for query in corpus.records("train-queries")[:10]]
    file = tmp_path_factory.mktemp("bank") / "bank.jsonl"
    texts = [*captions, corpus.records("test-queries")[3]["text"]]
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return {"uri": str(file)}


def config_of(out: Path, *settings: Settings) -> RetrieveConfig:
    values: Settings = {"out": str(out)}
    for each in settings:
        values |= each
    return parse(RetrieveConfig, values, source="the test")


@pytest.fixture(scope="module")
def run(
    ray_cluster: None, settings: Settings, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[Settings], Answered]:
    def start(more: Settings) -> Answered:
        out = tmp_path_factory.mktemp("answers") / "out"
        return retrieve(config_of(out, settings, more)), out

    return start


@pytest.fixture(scope="module")
def undisturbed(run) -> Answered:
    return run({})


@pytest.fixture(scope="module")
def certified(run, features: Snapshot, tmp_path_factory: pytest.TempPathFactory) -> Answered:
    """On a set that is coded without loss."""
    out = tmp_path_factory.mktemp("coded") / "set"
    values = {"features": features.url, "out": str(out), "codec": {"values": "fp16"}}
    coded = recode(parse(RecodeConfig, values, source="the test"))
    return run({"features": coded.url, "certify": {"top": TOP, "limit": N}})


@pytest.fixture(scope="module")
def indexed(run) -> Answered:
    """With codes too short to tell twelve videos apart: whatever the order that k-means saw, some are not found."""
    return run({"search": {"workers": 1, "index": {"factory": "IVF1,PQ2x1", "search": "nprobe=1"}}})


@pytest.fixture(scope="module")
def corrected(run, bank: Settings) -> Answered:
    kinds = [{"kind": "qb_norm"}, {"kind": "dual_softmax"}, {"kind": "sinkhorn"}]
    return run({"bank": bank, "corrections": kinds})


def lists(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """What each query found, best first."""
    found: dict[str, list[dict[str, Any]]] = {}
    for row in pq.read_table(folder / "results.parquet").to_pylist():
        found.setdefault(row["query_id"], []).append(row)
    return found


def report_of(folder: Path) -> Any:
    return json.loads((folder / "report.json").read_text())


def test_certified_places_are_those_of_scoring_every_video(
    certified: Answered, features: Snapshot, model: ModelConfig, queries: list[Query]
) -> None:
    """And some stand there that stage 1 did not recall."""
    method, found = plain(features, model), lists(certified[1])
    brought_in = 0
    for query in queries:
        rows = found[query["id"]]
        assert [row["video_id"] for row in rows[:TOP]] == method.order(query["text"], N)[:TOP]
        coarse = method.order(query["text"], 0)
        for row in rows:
            assert row["score"] == pytest.approx(method.fused(query["text"], row["video_id"], RELEASED), abs=2e-6)
            rank = coarse.index(row["video_id"]) + 1
            assert row["coarse_rank"] == (rank if rank <= K else None)
            assert (row["coarse_score"] is None) == (row["coarse_rank"] is None)
            brought_in += row["coarse_rank"] is None
        assert [row["score"] for row in rows] == sorted((row["score"] for row in rows), reverse=True)
        assert len({row["video_id"] for row in rows}) == len(rows) == K
    assert brought_in


def test_the_report_of_a_certificate_adds_up(certified: Answered, queries: list[Query]) -> None:
    report, folder = certified
    (work,) = (folder / "work").glob("*/lists")
    scored, proven = np.load(work / "scored.npy"), np.load(work / "certified.npy")
    texts = len({query["text"] for query in queries})
    assert report_of(folder)["certificate"] == {
        "top": TOP,
        "texts": texts,
        "certified": texts,
        "mean_k": pytest.approx(scored.mean()),
        "max_k": scored.max(),
    }
    assert proven.all()
    assert len(scored) == texts
    assert K <= scored.min() <= scored.max() <= N
    assert report.certificate is not None
    assert report_of(folder)["stored"]["code"] == "codec: fp16"


def test_an_index_is_in_the_report_with_its_recall(
    indexed: Answered, undisturbed: Answered, queries: list[Query]
) -> None:
    """That of the candidates it found for each text against those of exact search."""
    report, folder = indexed
    (work,), (exact,) = ((place / "work").glob("*/lists/index.npy") for place in (folder, undisturbed[1]))
    found, wanted = np.load(work), np.load(exact)
    shares = [len(set(mine) & set(true)) / K for mine, true in zip(found, wanted, strict=True)]
    use = report_of(folder)["index"]
    assert use["recall_at_k"] == pytest.approx(np.mean(shares))
    assert 0 < use["recall_at_k"] < 1
    assert (use["factory"], use["search"], use["k"], use["sample"]) == ("IVF1,PQ2x1", "nprobe=1", K, len(found))
    assert {path.name for path in (folder / "index").iterdir()} == {"index.faiss", "index.json"}
    assert undisturbed[0].index is None
    assert report.metrics is not None
    assert all(len({row["video_id"] for row in rows}) == K for rows in lists(folder).values())


def test_corrections_are_rows_of_the_report_and_change_nothing_else(corrected: Answered, undisturbed: Answered) -> None:
    mine, theirs = report_of(corrected[1]), report_of(undisturbed[1])
    direction = mine["metrics"]["text_to_video"]
    assert set(direction["corrected"]) == {
        f"{QB_NORM}; beta 20, activation 1",
        f"{DUAL_SOFTMAX}; beta 100",
        f"{SINKHORN_BANK}; beta 100, 4 rounds",
    }
    for figures in direction["corrected"].values():
        assert figures.keys() == direction["two_stage"].keys()
    assert any(figures != direction["two_stage"] for figures in direction["corrected"].values())
    assert theirs["metrics"]["text_to_video"]["corrected"] == {}
    assert {**direction, "corrected": {}} == theirs["metrics"]["text_to_video"]
    assert mine["metrics"]["video_to_text"] == theirs["metrics"]["video_to_text"]
    for name in ("run.trec", "qrels.trec"):
        assert (corrected[1] / name).read_bytes() == (undisturbed[1] / name).read_bytes()
    # Texts go through the tower with others beside them, and a product's last bits hang on that.
    rows, others = (pq.read_table(folder / "results.parquet").to_pylist() for _, folder in (corrected, undisturbed))
    for one, other in zip(rows, others, strict=True):
        assert one == {**other, **{name: pytest.approx(other[name], abs=1e-6) for name in ("score", "coarse_score")}}


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"certify": {"top": 3}}, r"keeps no bounds.*mgvr corpus recode"),
        ({"corrections": [{"kind": "dual_softmax"}, {"kind": "qb_norm"}]}, r"bank of training captions.*--bank\.uri"),
        ({"bank": {"uri": "nowhere.jsonl"}}, r"nowhere\.jsonl"),
        ({"search": {"index": {"factory": "HNWS32"}}}, "'HNWS32' is no faiss index"),
        ({"search": {"index": {"factory": "IVF64,Flat"}}}, "at least 64 training rows.*12 videos"),
        ({"search": {"index": {"factory": "PQ7"}}}, "64 dimensions"),
        ({"search": {"index": {"factory": "HNSW8", "search": "nprobe=4"}}}, "'nprobe=4' does not fit"),
    ],
)
def test_what_can_not_be_given_is_refused_before_ray_starts(
    features: Snapshot, settings: Settings, no_ray: None, tmp_path: Path, more: Settings, message: str
) -> None:
    with pytest.raises(MgvrError, match=f"(?s){message}"):
        retrieve(config_of(tmp_path / "out", settings, more))
    assert not (tmp_path / "out").exists()


def marks(out: Path) -> dict[str, int]:
    """The finished blocks of both stages, and when."""
    found = (out / "work").glob("*/lists/finished-*")
    return {path.name: path.stat().st_mtime_ns for path in sorted(found)}


def test_a_run_that_stops_goes_on_where_it_was(
    ray_cluster: None,
    settings: Settings,
    undisturbed: Answered,
    queries: list[Query],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """To the same bytes; once more, it answers nothing anew; and another k begins anew."""
    out, finish = tmp_path / "out", Rows.finish
    blocks = -(-len({query["text"] for query in queries}) // BLOCK)
    assert blocks > 3

    def stopping(self: Rows, rows: slice, values: Any) -> None:
        if "fused" in self and rows.start == 2 * BLOCK:
            self["index"][rows.start] = -7  # half a block is written
            raise KeyboardInterrupt
        finish(self, rows, values)

    with monkeypatch.context() as patch:
        patch.setattr(Rows, "finish", stopping)
        with pytest.raises(KeyboardInterrupt):
            retrieve(config_of(out, settings))
    before = marks(out)
    assert len(before) == 2
    assert not (out / "results.parquet").exists()

    retrieve(config_of(out, settings))
    after = marks(out)
    assert len(after) == blocks
    assert {name: after[name] for name in before} == before
    require_same_answers(out, undisturbed[1])

    with monkeypatch.context() as patch:
        patch.setattr(Crew, "__init__", lambda *asked: pytest.fail("what is finished was begun again"))
        report = retrieve(config_of(out, settings))
    assert marks(out) == after
    require_same_answers(out, undisturbed[1])
    assert report.metrics == undisturbed[0].metrics

    retrieve(config_of(out, settings, {"k": K + 1, "video_to_text": False}))
    assert sorted(path.name.split("-")[0] for path in (out / "work").iterdir()) == ["lists", "texts"]
    assert min(marks(out).values()) > max(after.values())
    assert {len(rows) for rows in lists(out).values()} == {K + 1}


def require_same_answers(one: Path, other: Path) -> None:
    for name in ("results.parquet", "run.trec", "qrels.trec"):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


@pytest.fixture
def start() -> Iterator[Start]:
    with launching(PROGRAM) as launch:
        yield launch


@pytest.mark.slow
def test_a_run_that_is_killed_goes_on_where_it_was(
    ray_cluster: None, settings: Settings, undisturbed: Answered, start: Start, tmp_path: Path
) -> None:
    out, file = tmp_path / "out", tmp_path / "settings.json"
    file.write_text(json.dumps({**settings, "out": str(out)}))
    process, until = start(tmp_path / "printed", file), time.monotonic() + PATIENCE_S
    while len(marks(out)) < 2:
        assert process.poll() is None, (tmp_path / "printed").read_text()
        assert time.monotonic() < until
        time.sleep(0.02)
    process.kill()
    process.wait()
    before = marks(out)
    assert not (out / "results.parquet").exists()
    retrieve(config_of(out, settings))
    after = marks(out)
    assert len(after) > len(before)
    assert {name: after[name] for name in before} == before
    require_same_answers(out, undisturbed[1])

"""mgvr retrieve against the method written out a second time, one pair at a time, from the stored features."""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ir_measures
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ir_measures import RR, Success, nDCG
from plain_search import RELEASED, Plain, Query, best_rank, figures, group_ranks, plain

from mgvr_core.config import parse
from mgvr_core.errors import MgvrError
from mgvr_core.evaluation.report import Direction, Report
from mgvr_core.features.contents import Change
from mgvr_core.features.schema import FeatureShape, build_table, feature_schema, tensor_column
from mgvr_core.features.snapshot import Snapshot
from mgvr_core.features.store import FeatureStore
from mgvr_core.identity import Fingerprint
from mgvr_core.model import checkpoint
from mgvr_core.model.load import ModelConfig
from pipelines import retrieve as job
from pipelines.retrieve import RetrieveConfig, retrieve

N, K = 12, 8

LONG = "a red circle that is large and moves left over stripes " * 3


@pytest.fixture(scope="module")
def features(features: Snapshot, commit_tables, tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    """The same rows in other places: the order of shards and rows is not that of the ids."""
    table = pa.concat_tables(features.tables())
    store = FeatureStore(tmp_path_factory.mktemp("shuffled"))
    places = np.random.default_rng(0).permutation(N)
    parts = [table.take(part).combine_chunks() for part in np.split(places, [5, 9])]
    return commit_tables(store, features.fingerprint, parts)


@pytest.fixture(scope="module")
def method(features: Snapshot, model: ModelConfig) -> Plain:
    return plain(features, model)


@pytest.fixture(scope="module")
def queries(corpus) -> list[Query]:
    """Captions with their video, and all that a query file may hold besides."""
    base = corpus.records("test-queries")
    return [
        *base,
        {"id": "same text, another video", "text": base[0]["text"], "relevant": ["test-00005"]},
        {"id": "several", "text": "something red", "relevant": ["test-00001", "test-00004", "test-00009"]},
        {"id": "one of two is missing", "text": "a green star rises", "relevant": ["test-00002", "gone-1"]},
        {"id": "missing", "text": "a heart over bricks", "relevant": ["gone-2"]},
        {"id": "too long", "text": LONG, "relevant": ["test-00006"]},
        {"id": "search", "text": "a small moon", "relevant": []},
        {"id": "search again", "text": "a small moon", "relevant": []},
        *({**query, "relevant": []} for query in corpus.records("train-queries")[8:16]),
    ]


@pytest.fixture(scope="module")
def run(
    ray_cluster: None, features: Snapshot, model: ModelConfig, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., tuple[Report, Path]]:
    """Run the job over some queries; its report and folder."""

    def start(queries: list[Query], **settings: Any) -> tuple[Report, Path]:
        folder = tmp_path_factory.mktemp("answers")
        file = folder / "queries.jsonl"
        file.write_text("".join(json.dumps(query) + "\n" for query in queries))
        values = {"features": features.url, "model": model, "report": {"bootstrap": 50}, **settings}
        config = parse(
            RetrieveConfig, {"out": str(folder / "out"), "queries": {"uri": str(file)}, **values}, source="the test"
        )
        return retrieve(config), folder / "out"

    return start


@pytest.fixture(scope="module")
def whole(run, queries: list[Query]) -> tuple[Report, Path]:
    """Every video of the pool is a candidate."""
    return run(queries, k=N)


@pytest.fixture(scope="module")
def recalled(run, queries: list[Query]) -> tuple[Report, Path]:
    """Stage 2 sees what stage 1 found."""
    return run(queries, k=K)


def results(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """The rows of each query, in the order of their ranks."""
    found: dict[str, list[dict[str, Any]]] = {}
    for row in pq.read_table(folder / "results.parquet").to_pylist():
        found.setdefault(row["query_id"], []).append(row)
    for rows in found.values():
        assert [row["rank"] for row in rows] == list(range(1, len(rows) + 1))
    return found


def assert_figures(direction: dict[str, Any], expected: dict[str, float]) -> None:
    assert {name: direction[name].value for name in expected} == pytest.approx(expected, abs=1e-12)


def test_with_every_video_a_candidate_it_is_exhaustive_fused_search_id_for_id(
    whole: tuple[Report, Path], method: Plain, queries: list[Query], features: Snapshot
) -> None:
    found = results(whole[1])
    assert len(features.shards) > 2
    assert list(found) == [query["id"] for query in queries]
    for query in queries:
        rows = found[query["id"]]
        text = query["text"]
        assert [row["video_id"] for row in rows] == method.order(text, N)
        coarse = method.order(text, 0)
        for row in rows:
            video = row["video_id"]
            assert row["score"] == pytest.approx(method.fused(text, video, RELEASED), abs=2e-6)
            assert row["coarse_score"] == pytest.approx(method.coarse(text, video), abs=2e-6)
            assert row["coarse_rank"] == 1 + coarse.index(video)
            assert row["relevant"] == (video in query["relevant"] if query["relevant"] else None)
            assert (row["text"], Path(row["uri"]).stem) == (text, video)


def test_stage_two_orders_the_candidates_and_leaves_the_rest_below_them(
    recalled: tuple[Report, Path], method: Plain, queries: list[Query]
) -> None:
    report, folder = recalled
    found = results(folder)
    labelled = [query for query in queries if query["relevant"]]
    ranks, coarse_ranks, recall = [], [], []
    for query in queries:
        assert [row["video_id"] for row in found[query["id"]]] == method.order(query["text"], K)[:K]
    for query in labelled:
        coarse = method.order(query["text"], 0)
        ranks.append(best_rank(method.order(query["text"], K), query["relevant"]))
        coarse_ranks.append(best_rank(coarse, query["relevant"]))
        recall.append(bool(set(coarse[:K]) & set(query["relevant"])))
    answerable = [query["id"] != "missing" for query in labelled]
    direction = text_to_video(report)
    assert_figures(direction.two_stage, figures(ranks, answerable))
    assert_figures(direction.coarse, figures(coarse_ranks, answerable))
    assert direction.recall_at_k.value == pytest.approx(np.mean(recall))
    assert ranks != coarse_ranks  # the second stage does something, and so does its limit
    assert 0 < np.mean(recall) < 1


def text_to_video(report: Report) -> Direction:
    assert report.metrics is not None
    return report.metrics.text_to_video


def test_an_outside_judge_finds_the_same_figures(whole: tuple[Report, Path]) -> None:
    """ir-measures on the run and qrels that were written, against the report that was written."""
    _, folder = whole
    judged = ir_measures.calc_aggregate(
        [Success @ 1, Success @ 5, RR, nDCG @ 10],
        list(ir_measures.read_trec_qrels(str(folder / "qrels.trec"))),
        list(ir_measures.read_trec_run(str(folder / "run.trec"))),
    )
    mine = json.loads((folder / "report.json").read_text())["metrics"]["text_to_video"]["two_stage"]
    names = {"Success@1": "R@1", "Success@5": "R@5", "RR": "MRR", "nDCG@10": "nDCG@10"}
    assert {names[str(measure)]: value for measure, value in judged.items()} == pytest.approx(
        {name: mine[name]["value"] for name in names.values()}, abs=1e-9
    )


def test_the_report_counts_what_a_reader_must_know(recalled: tuple[Report, Path], queries: list[Query]) -> None:
    report = json.loads((recalled[1] / "report.json").read_text())
    direction = report["metrics"]["text_to_video"]
    assert (report["pool"], report["queries"], report["unlabelled_queries"]) == (N, len(queries), 10)
    assert (direction["queries"], direction["unanswerable"], direction["k"]) == (len(queries) - 10, 1, K)
    lengths = [len(re.findall(r"\w+", query["text"])) + 2 for query in queries]
    assert report["captions"]["text_length"] == 24
    assert report["captions"]["too_long"] == sum(length > 24 for length in lengths) == 1
    assert report["captions"]["words"] == sum(lengths) - 2 * len(queries)
    # Shares of the released weights at D 64, F 4, P 4.
    pair = 64 + (4 * 64 + 16 + 4) + (4 * 64 + 64) + (16 * 64 + 16)
    assert report["macs_per_query"] == {"coarse": N * 64, "two_stage": N * 64 + K * pair, "exhaustive": N * pair}
    assert set(direction["scores"]) == {"video", "frame_weak", "tib_frame", "patch_weak", "fused"}
    assert direction["scores"]["fused"] == direction["two_stage"]


def test_both_stages_take_their_time_in_the_report(recalled: tuple[Report, Path]) -> None:
    seconds = {stage.name: stage.seconds for stage in recalled[0].stages}
    assert {"encode texts", "stage 1: search", "stage 2: rerank", "video to text: both stages"} <= seconds.keys()
    assert all(value > 0 for value in seconds.values())


def test_the_page_loads_nothing(recalled: tuple[Report, Path]) -> None:
    page = (recalled[1] / "report.html").read_text(encoding="utf-8")
    loaded = re.findall(r"""(?:src|href|srcset|poster|data|action)\s*=\s*["']([^"']*)""", page)
    loaded += re.findall(r"""url\(\s*["']?([^"')]*)""", page) + re.findall(r"@import[^;]*", page)
    outside = [address for address in loaded if not address.startswith(("data:", "#"))]
    assert all((recalled[1] / address).exists() for address in outside)
    assert "<script" not in page
    assert page.count("data:image/jpeg;base64,") >= 1  # thumbnails of what was found


def test_video_to_text_is_a_recall_and_a_rerank_of_its_own(
    recalled: tuple[Report, Path], method: Plain, queries: list[Query]
) -> None:
    report, _ = recalled
    assert report.metrics is not None
    direction = report.metrics.video_to_text
    assert direction is not None
    two_stage, recall = group_ranks(method, queries, K, RELEASED)
    coarse, _ = group_ranks(method, queries, K, None)
    assert direction.queries == len(two_stage) == N
    assert direction.pool == len({frozenset(query["relevant"]) for query in queries if query["relevant"]})
    assert_figures(direction.two_stage, figures(two_stage, [True] * N))
    assert_figures(direction.coarse, figures(coarse, [True] * N))
    assert direction.recall_at_k.value == pytest.approx(np.mean(recall))
    assert direction.searched == len({query["text"] for query in queries if query["relevant"]})
    assert two_stage != coarse
    assert recall != [rank <= K for rank in coarse]  # k captions are fewer groups than k


def test_two_runs_give_the_same_rows_and_a_text_is_encoded_once(
    run, recalled: tuple[Report, Path], queries: list[Query], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[str] = []
    true = job.encode_texts

    def spy(texts: list[str], *rest: Any) -> Any:
        encoded.extend(texts)
        return true(texts, *rest)

    monkeypatch.setattr(job, "encode_texts", spy)
    report, folder = run(queries, k=K)
    assert sorted(encoded) == sorted({query["text"] for query in queries})
    assert len(encoded) < len(queries)
    one, other = (pq.read_table(place / "results.parquet") for place in (folder, recalled[1]))
    assert one.equals(other)
    assert (folder / "run.trec").read_bytes() == (recalled[1] / "run.trec").read_bytes()
    assert report.metrics == recalled[0].metrics


@pytest.fixture(scope="module")
def versions(features: Snapshot, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The feature set with a second snapshot, which holds one shard less."""
    root = tmp_path_factory.mktemp("versions") / "features"
    shutil.copytree(features.url, root)
    places = features.sources().values()
    gone = [source for source in places if source.place and source.place.shard == features.shards[0].path]
    FeatureStore(root).commit(features.fingerprint, Change(gone=gone), {})
    return root


def test_queries_without_right_answers_are_a_plain_search(
    run, versions: Path, features: Snapshot, method: Plain, capsys: pytest.CaptureFixture[str]
) -> None:
    """Over the current snapshot, which holds less than the first."""
    texts = ["a red circle", "a blue square moves left"]
    report, folder = run([{"text": text} for text in texts], features=str(versions))
    assert report.metrics is None
    assert report.pool == N - features.shards[0].rows
    assert not (folder / "qrels.trec").exists()
    assert {path.name for path in folder.iterdir()} == {
        "results.parquet", "run.trec", "report.json", "report.md", "report.html", "work",
    }  # fmt: skip
    current = {row["id"] for shard in features.shards[1:] for row in features.read_shard(shard, ["id"]).to_pylist()}
    for rows in results(folder).values():
        expected = [video for video in method.order(rows[0]["text"], N) if video in current]
        assert [row["video_id"] for row in rows] == expected  # k is 50, and the pool is smaller
        assert {row["relevant"] for row in rows} == {None}
    assert {example.kind for example in report.examples} == {"search"}
    assert report.thumbnails
    assert str(folder / "report.html") in capsys.readouterr().out


def test_every_example_shows_the_right_video_beside_those_that_were_chosen(recalled: tuple[Report, Path]) -> None:
    """The worst queries too, though stage 2 never saw their right video."""
    report, folder = recalled
    worst = [example for example in report.examples if example.kind == "worst"]
    assert worst
    ranks = [example.two_stage_rank for example in worst]
    assert ranks == sorted(ranks, reverse=True)
    for example in report.examples:
        assert sum(hit.right is True for hit in example.hits) >= 1
        assert {hit.video for hit in example.hits} <= set(report.thumbnails)
    assert report.protocol["Candidates reranked"] == str(text_to_video(report).k)
    assert {"report.csv", "report.tex"} <= {path.name for path in folder.iterdir()} & set(report.files)


def test_an_older_snapshot_is_read_by_its_number(
    run, versions: Path, whole: tuple[Report, Path], queries: list[Query]
) -> None:
    """And with all right answers gone, every query is a miss and nothing breaks."""
    gone = [{**query, "relevant": ["gone"]} for query in queries]
    report, folder = run(gone, k=N, features=str(versions), snapshot=1)
    direction = text_to_video(report)
    assert (report.pool, direction.unanswerable, direction.two_stage["R@10"].value) == (N, len(queries), 0)
    columns = ["query_id", "video_id", "score"]
    assert pq.read_table(folder / "results.parquet", columns=columns).equals(
        pq.read_table(whole[1] / "results.parquet", columns=columns)
    )
    assert report.metrics is not None
    assert report.metrics.video_to_text is None  # no video has a caption


@pytest.fixture(scope="module")
def three_frames(features: Snapshot, commit_tables, tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    """The same model's features of three frames, without patches."""
    store = FeatureStore(tmp_path_factory.mktemp("three"))
    shape = FeatureShape(3, 64, 0)
    fingerprint = Fingerprint({**features.fingerprint.parts, "patches": 0})
    schema = feature_schema(shape, fingerprint)
    tables = []
    for table in features.tables():
        columns: dict[str, Any] = {name: table[name].to_pylist() for name in schema.names if name in table.schema.names}
        for name in ("timestamps", "mask", "frames", "frame_norms", "temporal"):
            columns[name] = tensor_column(table, name)[:, :3]
        columns["video"] = tensor_column(table, "video")
        tables.append(build_table(columns, schema))
    return commit_tables(store, fingerprint, tables)


def test_without_patches_and_without_u_the_rest_of_the_scores_is_enough(
    run, three_frames: Snapshot, model: ModelConfig, queries: list[Query]
) -> None:
    settings = {"features": three_frames.url, "frame_mixing": False, "rerank": {"patch_weak": 0}}
    _, folder = run(queries[:3], k=N, **settings)
    method = plain(three_frames, model)
    method.U = np.eye(3)
    weights = {name: weight for name, weight in RELEASED.items() if name != "patch_weak"}
    for query, rows in zip(queries, results(folder).values(), strict=False):
        assert [row["video_id"] for row in rows] == method.order(query["text"], N, weights)


def test_the_fusion_of_the_checkpoint_is_the_default_of_the_rerank(
    no_ray: None, features: Snapshot, make_checkpoint
) -> None:
    """What the command line does not set is as the model was tuned."""
    tuned = make_checkpoint(fusion={"frame_weak": 0.3, "tib_frame": 0.9})
    settings = {"out": "x", "features": features.url, "queries": {"uri": "x"}, "model": tuned}
    config = parse(RetrieveConfig, {**settings, "rerank": {"frame_weak": 0.4}}, source="the test")
    weights = job._reranker(config, checkpoint.load(Path(tuned.checkpoint)), features).weights
    assert (weights.frame_weak, weights.tib_frame, weights.video) == (0.4, 0.9, 0.5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rerank": {"patch_weak": 0}}, r"trained at 4 frames, but the videos have 3.*frame_mixing"),
        ({"frame_mixing": False}, r"no patches.*--rerank\.patch_weak 0"),
        ({"rerank": dict.fromkeys(RELEASED, 0)}, "all weights are 0"),
        ({"snapshot": 7}, "00000007"),
        ({"features": "nowhere"}, "nowhere"),
        ({"queries": {"uri": "nowhere.csv"}}, "nowhere.csv"),
        ({"k": 0}, "k: "),
    ],
)
def test_what_does_not_fit_is_refused_before_ray_starts(
    no_ray: None, three_frames: Snapshot, model: ModelConfig, tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    file = tmp_path / "queries.csv"
    with file.open("w", newline="") as stream:
        csv.writer(stream).writerows([["id", "text", "relevant"], ["1", "a red circle", "test-00001;test-00002"]])
    values = {"features": three_frames.url, "queries": {"uri": str(file)}, "model": model, **settings}
    with pytest.raises(MgvrError, match=f"(?s){message}"):
        retrieve(parse(RetrieveConfig, {"out": str(tmp_path / "out"), **values}, source="the test"))
    assert not (tmp_path / "out").exists()


def test_the_results_have_one_schema(whole: tuple[Report, Path]) -> None:
    schema = pq.read_schema(whole[1] / "results.parquet")
    assert schema.field("rank").type == pa.int32()
    assert not schema.field("video_id").nullable
    assert schema.field("relevant").nullable

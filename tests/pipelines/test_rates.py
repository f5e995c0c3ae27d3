"""What a run says of its speed: by hand from made-up measures, and of a real run against what can be seen outside."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mgvr_core.config import parse
from mgvr_core.features.schema import tensor_column
from mgvr_core.model.load import ModelConfig
from pipelines.decoding import Decode
from pipelines.encode import EncodeConfig, encode
from pipelines.encoding import Encode
from pipelines.models import feature_maker
from pipelines.rates import STAGES, Rates, rate_rows
from pipelines.writing import Write

MEASURES = {"decode_s": 80.0, "encode_s": 20.0, "write_s": 5.0, "video_s": 7200.0, "peak_bytes": 3.0 * 2**30}
WORKERS = {"decode": 4, "encode": 1, "write": 1}


def rates(**changes: object) -> Rates:
    """Of 100 videos of two hours together, through the pipeline in 25 s."""
    given_: dict[str, object] = {"seconds": 25.0, "tried": 100, "workers": WORKERS, "measures": MEASURES}
    return Rates(time.monotonic() - 30, **{**given_, **changes})  # type: ignore[arg-type]


def test_a_stage_makes_what_its_workers_make_while_they_are_at_work() -> None:
    assert rates().stages == {"decode": 4 * 100 / 80, "encode": 100 / 20, "write": 100 / 5}


@pytest.mark.parametrize("slow", STAGES)
def test_the_slowest_stage_holds_the_run_back(slow: str) -> None:
    assert rates(measures={**MEASURES, f"{slow}_s": 1000.0}).bound == slow


@given(
    st.fixed_dictionaries({f"{name}_s": st.floats(1e-3, 1e6) for name in STAGES}),
    st.fixed_dictionaries({name: st.integers(1, 1000) for name in STAGES}),
)
def test_no_stage_is_slower_than_the_one_that_holds_the_run_back(
    measures: dict[str, float], workers: dict[str, int]
) -> None:
    measured = rates(measures=measures, workers=workers)
    assert measured.bound is not None
    assert measured.stages[measured.bound] == min(measured.stages.values())


def test_the_record_of_a_run_by_hand() -> None:
    record = rates(price_per_hour=6.0).record(encoded=98, bytes_per_video=2048.04)
    seconds = record.pop("seconds")
    assert seconds == pytest.approx(30, abs=1)
    assert record.pop("seconds_per_video") == pytest.approx(seconds / 100)
    assert record.pop("cost") == pytest.approx(seconds / 600)
    assert record == {
        "encoded": 98,
        "tried": 100,
        "pipeline_seconds": 25.0,
        "bytes_per_video": 2048.0,
        "videos_per_second": 4.0,
        "video_hours_per_hour": 288.0,
        "decode_videos_per_second": 5.0,
        "encode_videos_per_second": 5.0,
        "write_videos_per_second": 20.0,
        "bound": "decode",
        "peak_bytes": 3 << 30,
        "decode_s": 80.0,
        "encode_s": 20.0,
        "write_s": 5.0,
        "video_s": 7200.0,
    }


def test_the_summary_says_the_same_for_a_reader() -> None:
    lines = rate_rows(rates(price_per_hour=6.0, measures={**MEASURES, "encode_s": 10.0}))
    assert re.fullmatch(r"(29|30)\.\d s", lines["time"])
    assert lines["rate"] == "4.0 videos/s, 288.0 video-hours an hour"
    assert lines["bound"] == (
        "decode-bound: videos/s of each stage while it is at work: decode 5.0, encode 10.0, write 20.0"
    )
    assert lines["memory"] == "3.0 GiB at most in the workers"
    assert lines["cost"] == "0.05 (at 6 an hour)"


def test_a_run_that_had_nothing_to_encode_says_how_long_it_took_and_what_that_cost() -> None:
    idle = Rates(time.monotonic() - 36, price_per_hour=100.0)
    assert rate_rows(idle).keys() == {"time", "cost"}
    assert rate_rows(idle)["cost"] == "1.00 (at 100 an hour)"
    assert idle.record(0, 0).keys() == {"encoded", "tried", "seconds", "cost"}


def test_where_the_measures_are_lost_nothing_is_made_up() -> None:
    """Their keeper lived on a node that is gone: the time is known, the stages are not."""
    lost = rates(measures={}, price_per_hour=None)
    assert rate_rows(lost).keys() == {"time", "rate"}
    record = lost.record(100, 1.0)
    assert record["bound"] is None
    assert record["videos_per_second"] == 4.0
    assert not {"cost", *(f"{name}_videos_per_second" for name in STAGES)} & record.keys()


def job(out: Path, corpus, model: ModelConfig) -> dict[str, Any]:
    return {
        "out": str(out),
        "corpus": corpus.manifest("test"),
        "model": model,
        "features": {"rows_per_shard": 5},
        "decoding": {"workers": 2},
        "price_per_hour": 3.6,
    }


class Recorder:
    """Stands in for the counter's handle: keeps what the stages report."""

    def __init__(self) -> None:
        self.peaks: dict[str, int] = {}
        self.add, self.measure = self, SimpleNamespace(remote=self._measure)

    def remote(self, *values: object) -> None:
        pass

    def _measure(self, measures: dict[str, float], process: str = "", peak: int = 0) -> None:
        self.peaks |= {name: peak for name, value in measures.items() if name != "video_s" and value > 0}


def test_every_stage_reports_its_time_and_its_memory(corpus, model: ModelConfig, tmp_path: Path) -> None:
    recorder, config = Recorder(), parse(EncodeConfig, job(tmp_path, corpus, model), source="the test")
    maker = feature_maker(model, config.sampling, config.decoding.version(), True, config.compute)
    uri = str(corpus.folder / "test" / "test-00000.mp4")
    row = {"id": "a", "uri": uri, "content_hash": "0", "start": None, "end": None}
    threads = torch.get_num_threads()
    decode = Decode(config.decoding, maker.sampling, maker.image_size, 0, recorder)
    model_stage = Encode(model, maker.fingerprint, config.compute.resolved(), maker.shape, recorder)
    write = Write(config.out, "corpus", maker.shape, maker.fingerprint, "pyav", "run", recorder)
    write(model_stage(decode(pa.Table.from_pylist([row]))))
    decode.close()
    torch.set_num_threads(threads)
    assert recorder.peaks.keys() == {"decode_s", "encode_s", "write_s"}
    assert min(recorder.peaks.values()) > 50 << 20  # this process's own, which holds PyTorch


def test_a_real_run_says_what_can_be_seen_from_outside(
    ray_cluster: None, corpus, model: ModelConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    began = time.monotonic()
    snapshot = encode(parse(EncodeConfig, job(tmp_path, corpus, model), source="the test"))
    took = time.monotonic() - began
    run = snapshot.about["run"]
    assert (run["encoded"], run["tried"]) == (12, 12)
    assert run["pipeline_seconds"] < run["seconds"] <= took
    assert run["seconds"] > 0.5 * took  # what is left is the commit
    assert run["seconds_per_video"] == pytest.approx(run["seconds"] / 12, rel=1e-3)
    assert run["videos_per_second"] * run["pipeline_seconds"] == pytest.approx(12, rel=0.01)
    # Of the videos as they were written: nine of two seconds, three of one.
    assert run["video_s"] == pytest.approx(21)
    assert run["video_hours_per_hour"] == pytest.approx(21 / run["pipeline_seconds"], rel=0.01)
    for stage, workers in (("decode", 2), ("encode", 1), ("write", 1)):
        assert 0 < run[f"{stage}_s"] < workers * run["pipeline_seconds"]
        assert run[f"{stage}_videos_per_second"] == pytest.approx(workers * 12 / run[f"{stage}_s"], rel=0.05)
    assert run["bound"] == min(STAGES, key=lambda stage: run[f"{stage}_videos_per_second"])
    # From the files: their sizes, and the bytes of the features that are in them.
    files = list((tmp_path / "shards").iterdir())
    assert run["bytes_per_video"] == pytest.approx(sum(file.stat().st_size for file in files) / 12, rel=1e-3)
    tables = list(snapshot.tables())
    features = sum(tensor_column(table, name).nbytes for table in tables for name in ("patches", "frames", "temporal"))
    assert run["bytes_per_video"] > features / 12
    # Two decoders with a child each, a model (PyTorch alone is some 200 MiB) and a writer.
    assert 0.5 * 2**30 < run["peak_bytes"] < os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert run["cost"] == pytest.approx(run["seconds"] / 1000, abs=1e-5)
    printed = capsys.readouterr().out
    assert f"{run['bound']}-bound" in printed
    assert (
        f"rate         {run['videos_per_second']:.1f} videos/s, {run['video_hours_per_hour']:.1f} video-hours"
        in printed
    )
    assert f"memory       {run['peak_bytes'] / 2**30:.1f} GiB" in printed
    assert "(at 3.6 an hour)" in printed

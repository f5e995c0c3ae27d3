"""The decoding stage by itself, in this process: which frames may be taken for which content, and by what."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from mgvr_core.corpus.files import Look, look_at
from mgvr_core.video.sampling import SamplingConfig
from pipelines import decoding as stage
from pipelines.decoding import Decode, DecodingConfig
from pipelines.progress import Silent


@pytest.fixture
def film(corpus) -> Path:
    return corpus.folder / "test" / "test-00000.mp4"


def decoded(film: Path, expected: str | None = None, **looked: Any) -> dict[str, Any]:
    row = {"id": "x", "uri": str(film), "content_hash": "0" * 64, "start": None, "end": None, **looked}
    decode = Decode(DecodingConfig(attempts=1), SamplingConfig(frames=2), 16, 0, Silent(), expected)
    try:
        return decode(pa.Table.from_pylist([row]))
    finally:
        decode.close()


def test_a_file_that_was_replaced_since_it_was_hashed_is_not_taken_for_what_it_was(film: Path) -> None:
    """Else its frames would be stored under another content's hash, for all files of that content, and for good."""
    seen = look_at(str(film))
    assert isinstance(seen, Look)
    assert decoded(film, size=seen.size, version=seen.version)["fault"][0] == ""
    for looked in ({"size": seen.size, "version": "mtime:1"}, {"size": 1, "version": seen.version}):
        fault = json.loads(decoded(film, **looked)["fault"][0])
        assert (fault["stage"], fault["kind"]) == ("decode", "changed")
        assert str(film) in fault["message"]


def test_a_node_that_decodes_by_another_version_than_the_driver_fails_the_job(film: Path) -> None:
    version = DecodingConfig().version()
    assert decoded(film, version)["fault"][0] == ""
    with pytest.raises(RuntimeError, match=r"this node decodes by pyav .*, the driver by pyav 0"):
        decoded(film, "pyav 0")


@pytest.mark.parametrize(("cpus", "others", "pool"), [(4, 2, 2), (8, 3, 5), (2, 2, 1), (1, 2, 1)])
def test_decoders_leave_a_cpu_to_every_actor_of_the_other_stages(
    monkeypatch: pytest.MonkeyPatch, cpus: int, others: int, pool: int
) -> None:
    monkeypatch.setattr(stage, "cluster_cpus", lambda: cpus)
    assert DecodingConfig().plan(1000, 1800, others)[0] == pool


def test_a_full_disk_is_the_machines_trouble_and_not_the_files(film: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(uri: str) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(stage, "local_copy", full)
    assert json.loads(decoded(film)["fault"][0])["kind"] == "machine"

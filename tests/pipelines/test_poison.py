"""Files that crash, hang or exhaust their decoder, in the middle of a corpus: each costs itself alone."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
import ray
from feature_sets import uris_of

from mgvr_core.config import parse
from mgvr_core.model.load import ModelConfig
from mgvr_core.video.sandbox import Sandbox
from pipelines import encode as job
from pipelines.decoding import Decode
from pipelines.encode import EncodeConfig, encode

CHILD = (sys.executable, str(Path(__file__).with_name("poisoned_child.py")))

# The workers can't import this module, so Ray has to send the class below along.
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])


class Poisoned(Decode):
    def __init__(self, *values: object) -> None:
        super().__init__(*values)
        self._sandbox = Sandbox("pyav", self._decoding.limits, CHILD)


@pytest.mark.parametrize("poison", ["segfault", "hang", "eat"])
def test_a_poisoned_file_costs_itself_alone(
    ray_cluster: None,
    corpus,
    model: ModelConfig,
    poison: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    kind, attempts, words, limit_s = {
        "segfault": ("crash", 1, "SIGSEGV", 60),
        "hang": ("timeout", 1, "not decoded within 5 s", 5),
        "eat": ("memory", 2, "more memory than the limit", 60),  # a fault of the moment: tried again
    }[poison]
    folder = tmp_path / "videos"
    shutil.copytree(corpus.folder / "test", folder)
    shutil.copy(folder / "test-00004.mp4", folder / f"{poison}.mp4")
    with (folder / f"{poison}.mp4").open("ab") as file:
        file.write(b"\0" * 8)  # content of its own
    monkeypatch.setattr(job, "Decode", Poisoned)
    values = {
        "out": str(tmp_path / "out"),
        "corpus": {"uri": str(folder)},
        "model": model,
        "decoding": {"limits": {"timeout_s": limit_s, "memory_mb": 1024}, "attempts": 2, "backoff_s": 0, "workers": 1},
        "max_failure_rate": 0.1,
    }
    snapshot = encode(parse(EncodeConfig, values, source="the test"))
    (failure,) = snapshot.failed().to_pylist()
    assert (Path(failure["uri"]).stem, failure["kind"], failure["attempts"]) == (poison, kind, attempts)
    assert words in failure["message"]
    encoded = {Path(uri).name for uris in uris_of(snapshot).values() for uri in uris}
    assert encoded == {path.name for path in (corpus.folder / "test").iterdir()}

    # Tomorrow: what was the file's own fault is not tried again, what was the moment's is.
    capsys.readouterr()
    monkeypatch.undo()  # and the decoder is mended by then
    again = encode(parse(EncodeConfig, values, source="the test"))
    printed = capsys.readouterr().out
    if kind == "memory":
        assert "1 encoded, 0 failed, 12 unchanged" in printed
        assert again.failed().num_rows == 0
    else:
        assert again.number == snapshot.number == 1
        assert "0 encoded, 0 failed, 12 unchanged" in printed

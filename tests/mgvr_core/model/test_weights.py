"""Weight files are data: whatever they hold, reading them runs nothing of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mgvr_core.errors import MgvrError
from mgvr_core.model.weights import read_weights

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning", "ignore:.*torch.jit:DeprecationWarning")


class Tower(torch.nn.Module):
    """Parameters, buffers, a view and a shared weight, in more than one dtype."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(3, 4)
        self.blocks = torch.nn.ModuleList(torch.nn.LayerNorm(2).half() for _ in range(2))
        self.register_buffer("vocab_size", torch.tensor(49408))
        self.register_buffer("columns", torch.arange(6.0).reshape(2, 3).T)
        self.tied = self.linear.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x)


@pytest.mark.parametrize("form", ["script", "trace"])
def test_a_torchscript_archive_gives_the_weights_that_torch_sees_in_it(tmp_path: Path, form: str) -> None:
    module = torch.jit.script(Tower()) if form == "script" else torch.jit.trace(Tower(), torch.ones(1, 3))
    file = tmp_path / "archive.pt"
    module.save(str(file))
    expected, found = torch.jit.load(file).state_dict(), read_weights(file)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)


class WritesOnLoading(torch.nn.Module):
    """TorchScript runs this class's __setstate__ when an archive is loaded."""

    def __init__(self, place: str) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(2))
        self.place = place

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x

    @torch.jit.export
    def __getstate__(self) -> tuple[torch.Tensor, str, bool]:
        return self.weight, self.place, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[torch.Tensor, str, bool]) -> None:
        self.weight = state[0]
        self.place = state[1]
        self.training = state[2]
        torch.save(state[0], state[1])


def test_a_torchscript_archive_that_would_run_something_is_refused_and_does_not_run(tmp_path: Path) -> None:
    place, file = tmp_path / "it-ran", tmp_path / "archive.pt"
    torch.jit.script(WritesOnLoading(str(place))).save(str(file))
    with pytest.raises(MgvrError, match=r"archive\.pt .*takes running its code"):
        read_weights(file)
    assert not place.exists()
    torch.jit.load(file)  # the archive is what it is meant to be
    assert place.exists()


@pytest.mark.parametrize("name", ["weights.pt", "weights.bin", "weights.safetensors"])
@pytest.mark.parametrize(
    "content", [b"", b"not weights at all", b"PK\x03\x04 cut off"], ids=["empty", "text", "cut zip"]
)
def test_a_damaged_file_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    file = tmp_path / name
    file.write_bytes(content)
    with pytest.raises(MgvrError, match=rf"{name} is not a readable"):
        read_weights(file)


@pytest.mark.parametrize("form", ["checkpoint", "torchscript"])
def test_a_download_that_broke_off_is_named(tmp_path: Path, form: str) -> None:
    file = tmp_path / "half.pt"
    if form == "checkpoint":
        torch.save(Tower().state_dict(), file)
    else:
        torch.jit.script(Tower()).save(str(file))
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(MgvrError, match=r"half\.pt"):
        read_weights(file)


@pytest.mark.parametrize("content", [[torch.ones(2)], {"epoch": 3}, {"state_dict": {"weight": "many"}}])
def test_a_file_without_named_tensors_is_refused(tmp_path: Path, content: object) -> None:
    file = tmp_path / "weights.pt"
    torch.save(content, file)
    with pytest.raises(MgvrError, match=r"weights\.pt holds no mapping of names to tensors"):
        read_weights(file)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(MgvrError, match=r"no weights file .*nowhere\.pt"):
        read_weights(tmp_path / "nowhere.pt")

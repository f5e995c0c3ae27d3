"""Trained scorers on disk: what is read is what was written, and never used where it does not belong."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mgvr_core.errors import MgvrError
from mgvr_core.identity import Fingerprint
from mgvr_core.scorers.catalogue import find
from mgvr_core.scorers.scorer import Scorer, Setting, Sizes
from mgvr_core.training.head_files import CONFIG, WEIGHTS, load_head, read_head, save_head

SIZES = Sizes(frames=3, patches=4, dim=16, words=5)
MADE_BY = Fingerprint({"weights": "a" * 64, "activation": "quick_gelu"})
SET = Fingerprint({**MADE_BY.parts, "sampling": {"frames": 3}, "decoder": "pyav 1"})
"""Features of that model: a fingerprint has more parts than its model."""


def setting(seed: int = 0, sizes: Sizes = SIZES) -> Setting:
    return Setting(sizes, torch.eye(sizes.dim), seed=seed)


@pytest.fixture
def scorer() -> Scorer:
    """As a training leaves it: no weight is what a fresh scorer has."""
    made = find("x_pool")(setting(seed=3))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in made.parameters():
            weight += torch.rand(weight.shape, generator=generator)
    return made


@pytest.fixture
def folder(scorer: Scorer, tmp_path: Path) -> Path:
    save_head(tmp_path / "head", "x_pool", scorer, MADE_BY, {"epochs": 2})
    return tmp_path / "head"


def test_what_is_loaded_is_what_was_saved(folder: Path, scorer: Scorer) -> None:
    loaded = load_head(folder, SET, setting(seed=9))
    assert type(loaded) is type(scorer)
    assert not loaded.training
    assert loaded.setting.seed == 3  # whatever else the scorer draws from it must be as it was trained
    theirs = dict(loaded.named_parameters())
    assert theirs.keys() == dict(scorer.named_parameters()).keys()
    assert all(torch.equal(weight, theirs[name]) for name, weight in scorer.named_parameters())
    head = read_head(folder)
    assert (head.scorer, head.sizes, head.seed, head.about) == ("x_pool", SIZES, 3, {"epochs": 2})


def test_the_model_s_own_weights_are_the_user_s(folder: Path) -> None:
    """W and the temperature come with the setting: a head keeps no copy that could differ from the model's."""
    given = replace(setting(), projection=2 * torch.eye(SIZES.dim), scale=30.0)
    loaded = load_head(folder, MADE_BY, given)
    assert torch.equal(loaded.setting.projection, given.projection)
    assert loaded.scale == 30.0


def test_another_model_s_features_are_refused(folder: Path) -> None:
    other = Fingerprint({**SET.parts, "weights": "b" * 64})
    with pytest.raises(MgvrError, match=r"(?s)trained on another model's features.*weights: .*mgvr train --scorer x_p"):
        load_head(folder, other, setting())


def test_a_head_of_other_sizes_is_refused_by_name(folder: Path) -> None:
    with pytest.raises(MgvrError, match=r"trained at 3 frames, 4 patches, 5 words, 16 dimensions\).*\(16, 16\), not"):
        load_head(folder, MADE_BY, setting(sizes=replace(SIZES, dim=8)))


def test_weights_of_another_scorer_are_refused(folder: Path, tmp_path: Path) -> None:
    save_head(tmp_path / "other", "drl", find("drl")(setting()), MADE_BY, {})
    (folder / WEIGHTS).write_bytes((tmp_path / "other" / WEIGHTS).read_bytes())
    with pytest.raises(MgvrError, match="not a weight of this scorer"):
        load_head(folder, MADE_BY, setting())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda document: {**document, "format": 2}, r"has format 2, this program reads 1"),
        (lambda document: [document], r"has format None"),
        (lambda document: {**document, "scorer": "x_pol"}, r"no scorer 'x_pol'; did you mean x_pool\?"),
        (lambda document: {**document, "sizes": {"frames": 3}}, r"lacks or garbles a key"),
        (lambda document: {name: document[name] for name in ("format", "scorer")}, r"lacks or garbles a key"),
    ],
)
def test_what_is_no_head_is_refused(folder: Path, change, message: str) -> None:
    document = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(change(document)))
    with pytest.raises(MgvrError, match=message):
        load_head(folder, MADE_BY, setting())


def test_a_folder_without_a_head_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MgvrError, match="is not a head of mgvr train --scorer"):
        read_head(tmp_path)


def test_a_head_that_is_written_anew_is_never_half_old(folder: Path, scorer: Scorer) -> None:
    """What can't be written as JSON stops it before the old one is touched."""
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    with torch.no_grad():
        next(scorer.parameters()).zero_()
    with pytest.raises(ValueError, match="not JSON compliant"):
        save_head(folder, "x_pool", scorer, MADE_BY, {"loss": float("nan")})
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before

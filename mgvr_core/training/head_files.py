"""A trained scorer on disk: its own weights as safetensors, and what they belong to as JSON.

HEAD/head.safetensors   the scorer's parameters, by their names
HEAD/head.json          {"format": 1, "scorer", "sizes", "seed", "made_by", "about"}: `made_by` names the model whose
                        features it was trained on, `about` belongs to who trained it

W, U and the temperature are that model's, and are not among the weights: whoever loads a head gives them.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from mgvr_core.errors import MgvrError
from mgvr_core.files import placing, replacing
from mgvr_core.identity import Fingerprint
from mgvr_core.model.weights import read_weights
from mgvr_core.scorers.catalogue import find
from mgvr_core.scorers.scorer import AnyScorer, Scorer, Setting, Sizes

FORMAT = 1
WEIGHTS, CONFIG = "head.safetensors", "head.json"


@dataclass(frozen=True)
class Head:
    """What is known of a trained scorer beside its weights."""

    scorer: str
    """Its name in the catalogue."""
    sizes: Sizes
    """What it was trained at."""
    seed: int
    """Of what it drew when it was made."""
    made_by: Fingerprint
    """The model that made the features it was trained on: the parts `weights` and `activation`."""
    about: dict[str, Any]
    """What its maker recorded: configuration, epochs, figures."""


def save_head(folder: Path, name: str, scorer: Scorer, made_by: Fingerprint, about: dict[str, Any]) -> None:
    """Write a trained scorer; a reader finds the old one, none, or the new one, never parts of both.

    `name` is the scorer's in the catalogue, `made_by` the fingerprint of the model that made its features.
    """
    folder.mkdir(parents=True, exist_ok=True)
    setting = scorer.setting
    document = {
        "format": FORMAT,
        "scorer": name,
        "sizes": asdict(setting.sizes),
        "seed": setting.seed,
        "made_by": dict(made_by.parts),
        "about": about,
    }
    text = json.dumps(document, indent=1, allow_nan=False)
    weights = {name: weight.detach().cpu().contiguous() for name, weight in scorer.named_parameters()}
    with placing(folder / WEIGHTS) as partial:
        save_file(weights, partial)
        (folder / CONFIG).unlink(missing_ok=True)
    with replacing(folder / CONFIG) as file:
        file.write(text)


def read_head(folder: Path) -> Head:
    """What a folder's head is; raises MgvrError where there is none, or a newer program wrote it."""
    file = folder / CONFIG
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise MgvrError(
            f"{folder} is not a head of mgvr train --scorer: {CONFIG} can't be read ({error}). Give the folder `head` "
            "of such a run"
        ) from None
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        found = document.get("format") if isinstance(document, dict) else None
        raise MgvrError(
            f"{file} has format {found!r}, this program reads {FORMAT}: use the version of mgvr that wrote it, or "
            "train the scorer again"
        )
    try:
        return Head(
            scorer=document["scorer"],
            sizes=Sizes(**document["sizes"]),
            seed=document["seed"],
            made_by=Fingerprint(document["made_by"]),
            about=document["about"],
        )
    except (KeyError, TypeError) as error:
        raise MgvrError(f"{file} lacks or garbles a key ({error}): train the scorer again") from None


def load_head(folder: Path, made_by: Fingerprint, setting: Setting) -> AnyScorer:
    """The trained scorer for features of the model `made_by`, in evaluation mode on the CPU.

    `made_by` may be a feature set's fingerprint or a model's. The seed of `setting` gives way to the one that the head
    was trained with. Raises MgvrError for features of another model, and where the weights don't fit the sizes.
    """
    head = read_head(folder)
    different = head.made_by.differences(made_by, head.made_by.parts)
    if different:
        raise MgvrError(
            f"the head in {folder} was trained on another model's features:\n  "
            + "\n  ".join(different)
            + f"\nTrain {head.scorer} on these features (mgvr train --scorer {head.scorer}), or search those that it "
            "was trained on"
        )
    scorer = find(head.scorer)(replace(setting, seed=head.seed))
    try:
        fill(scorer, read_weights(folder / WEIGHTS))
    except MgvrError as error:
        raise MgvrError(
            f"the head in {folder} ({head.scorer}, trained at {_in_words(head.sizes)}) can't be used at "
            f"{_in_words(setting.sizes)}: {error}. Train it again"
        ) from None
    return scorer.eval()


def fill(scorer: Scorer, weights: dict[str, Tensor]) -> None:
    """Put weights into a scorer's parameters; raises MgvrError that names what is missing, left over or misshapen."""
    mine = {name: tuple(weight.shape) for name, weight in scorer.named_parameters()}
    theirs = {name: tuple(weight.shape) for name, weight in weights.items()}
    wrong = [
        f"{name} is {theirs.get(name, 'missing')}, not {mine.get(name, 'a weight of this scorer')}"
        for name in sorted(mine.keys() | theirs.keys())
        if mine.get(name) != theirs.get(name)
    ]
    if wrong:
        raise MgvrError("; ".join(wrong))
    scorer.load_state_dict(weights, strict=False)  # buffers are the model's


def _in_words(sizes: Sizes) -> str:
    return f"{sizes.frames} frames, {sizes.patches} patches, {sizes.words} words, {sizes.dim} dimensions"

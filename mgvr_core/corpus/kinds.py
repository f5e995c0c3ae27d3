"""Kinds of failure as a user picks them: by their names, `transient` for all that may pass, or `all`."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated

from pydantic import AfterValidator

from mgvr_core.video.decoders import FAULTS, TRANSIENT


def _known(kinds: tuple[str, ...]) -> tuple[str, ...]:
    for kind in kinds:
        if kind not in (*FAULTS, "transient", "all"):
            raise ValueError(f"no kind of failure is called {kind!r}; there are transient, all, {', '.join(FAULTS)}")
    return kinds


Kinds = Annotated[tuple[str, ...], AfterValidator(_known)]


def picks(kinds: Collection[str], kind: str) -> bool:
    """Whether a kind of failure is among those picked."""
    return kind in kinds or "all" in kinds or ("transient" in kinds and kind in TRANSIENT)

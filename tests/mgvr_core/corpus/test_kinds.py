"""Failures picked by their kinds."""

from __future__ import annotations

import pytest
from pydantic import TypeAdapter, ValidationError

from mgvr_core.corpus.kinds import Kinds, picks
from mgvr_core.video.decoders import FAULTS, TRANSIENT


def test_a_kind_is_picked_by_its_name_and_no_other() -> None:
    assert [kind for kind in FAULTS if picks(("corrupt", "timeout"), kind)] == ["corrupt", "timeout"]
    assert not any(picks((), kind) for kind in FAULTS)


def test_all_and_transient_stand_for_many() -> None:
    assert all(picks(("all",), kind) for kind in FAULTS)
    assert {kind for kind in FAULTS if picks(("transient",), kind)} == TRANSIENT
    assert {kind for kind in FAULTS if picks(("transient", "crash"), kind)} == {*TRANSIENT, "crash"}


@pytest.mark.parametrize("kind", [*FAULTS, "transient", "all"])
def test_every_kind_there_is_can_be_named(kind: str) -> None:
    assert TypeAdapter(Kinds).validate_python((kind,)) == (kind,)


def test_a_slip_is_refused_with_what_there_is() -> None:
    with pytest.raises(
        ValidationError, match=r"no kind of failure is called 'corupt'; there are transient, all, .*corrupt"
    ):
        TypeAdapter(Kinds).validate_python(("network", "corupt"))

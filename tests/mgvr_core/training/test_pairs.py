"""The order of the pairs: a function of seed and epoch, the same for any number of workers."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mgvr_core.training.pairs import Batches, Captioned

captions = st.lists(st.integers(0, 4), min_size=1, max_size=30).filter(any)


def made(counts: list[int], use: str = "expand") -> Captioned:
    return Captioned.of([(f"v{v}", [f"c{v}.{c}" for c in range(count)]) for v, count in enumerate(counts)], use)


@given(captions, st.integers(0, 2**32), st.integers(0, 50))
def test_an_epoch_has_every_caption_once_with_its_video(counts: list[int], seed: int, epoch: int) -> None:
    captioned = made(counts)
    assert len(captioned) == sum(counts)
    pairs = captioned.pairs(captioned.epoch(seed, epoch))
    assert sorted(pairs) == sorted((f"v{v}", f"c{v}.{c}") for v, count in enumerate(counts) for c in range(count))
    assert pairs == captioned.pairs(made(counts).epoch(seed, epoch))


@given(captions, st.integers(0, 2**32), st.integers(0, 50))
def test_sampling_has_every_video_once_with_a_caption_of_its_own(counts: list[int], seed: int, epoch: int) -> None:
    captioned = made(counts, "sample")
    pairs = captioned.pairs(captioned.epoch(seed, epoch))
    assert len(pairs) == len(captioned) == sum(count > 0 for count in counts)
    assert sorted(name for name, _ in pairs) == sorted(f"v{v}" for v, count in enumerate(counts) if count)
    assert all(caption.startswith(f"c{name[1:]}.") for name, caption in pairs)


def test_sampling_comes_to_every_caption() -> None:
    captioned = made([3, 3, 3], "sample")
    seen = {pair for epoch in range(40) for pair in captioned.pairs(captioned.epoch(0, epoch))}
    assert len(seen) == 9


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    captioned = made([1] * 50)
    orders = {tuple(captioned.epoch(seed, epoch).tolist()) for seed in range(3) for epoch in range(3)}
    assert len(orders) == 9


@given(st.integers(8, 60), st.sampled_from([1, 2, 4]), st.integers(0, 3))
def test_workers_together_take_the_batches_of_one(pairs: int, workers: int, epoch: int) -> None:
    batches = Batches(made([1] * pairs), batch_size=8, epochs=4, seed=3)
    alone = batches.shares(epoch, 0, 0, 1)
    assert len(alone) == batches.steps_per_epoch == pairs // 8
    shared = [batches.shares(epoch, 0, rank, workers) for rank in range(workers)]
    for step, rows in enumerate(alone):
        assert np.concatenate([mine[step] for mine in shared]).tolist() == rows.tolist()
        assert {len(mine[step]) for mine in shared} == {8 // workers}
    seen = np.concatenate(alone)
    assert len(set(seen.tolist())) == len(seen)


@given(st.integers(16, 60), st.integers(0, 3))
def test_an_epoch_goes_on_where_it_stopped(pairs: int, begin: int) -> None:
    batches = Batches(made([1] * pairs), batch_size=4, epochs=1, seed=0)
    rest = batches.shares(0, begin, 0, 1)
    whole = batches.shares(0, 0, 0, 1)
    assert [rows.tolist() for rows in rest] == [rows.tolist() for rows in whole[begin:]]


def test_other_pairs_sit_out_in_every_epoch() -> None:
    batches = Batches(made([1] * 10), batch_size=4, epochs=6, seed=0)
    out = [set(range(10)) - set(np.concatenate(batches.shares(epoch, 0, 0, 1)).tolist()) for epoch in range(6)]
    assert all(len(each) == 2 for each in out)
    assert any(one != other for one, other in pairwise(out))


@pytest.mark.parametrize(
    "other",
    [
        made([2, 1], "sample"),
        made([1, 2]),
        Captioned.of([("v0", ["c0.0", "c0.1"]), ("v1", ["other"])]),
        Captioned.of([("v0", ["c0.0", "c0.1"]), ("other", ["c1.0"])]),
        Captioned.of([("v1", ["c1.0"]), ("v0", ["c0.0", "c0.1"])]),
    ],
)
def test_what_changes_the_training_changes_the_digest(other: Captioned) -> None:
    assert made([2, 1]).digest() == made([2, 1]).digest()
    assert made([2, 1]).digest() != other.digest()

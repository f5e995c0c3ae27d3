"""The step of a scorer's training: the same for any number of workers, and from a checkpoint."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from drawn import near_features
from torch import Tensor
from torch.nn.functional import normalize

from mgvr_core.errors import MgvrError
from mgvr_core.identity import Fingerprint
from mgvr_core.scorers.catalogue import catalogue
from mgvr_core.scorers.scorer import Scorer, Setting, Sizes, Texts
from mgvr_core.scoring.features import VideoFeatures
from mgvr_core.training import head_state
from mgvr_core.training.head_step import Descent, HeadOptimiserConfig, Taken, pool_ranks, pool_scores
from mgvr_core.training.state import Progress

SIZES = Sizes(frames=3, patches=2, dim=8, words=4)
B, STEPS = 6, 6
CONFIG = HeadOptimiserConfig(lr=1e-2)
MADE_BY = Fingerprint({"weights": "w", "activation": "quick_gelu"})


def setting() -> Setting:
    return Setting(SIZES, torch.eye(SIZES.dim), torch.eye(SIZES.frames), scale=20.0, seed=1)


LEARNED = [name for name, kind in catalogue().items() if kind(setting()).learned]
KINDS = [name for name in ("drl", "ucofia", "token_binder") if name in LEARNED]
"""A scorer of pairs, one that normalises a matrix, and one of lists."""


@pytest.fixture(autouse=True)
def _one_thread(one_thread: None) -> None:
    """For all tests here."""


@pytest.fixture(scope="module")
def batch() -> tuple[Texts, VideoFeatures]:
    return drawn(0, B, B)


def drawn(seed: int, T: int, V: int) -> tuple[Texts, VideoFeatures]:
    """Text i is about video i mod V."""
    F, P, D, L = SIZES.frames, SIZES.patches, SIZES.dim, SIZES.words
    videos = VideoFeatures(**near_features(seed, V, (F, P, D), 0.5, (1.0, 0.7, 0.5, 0.7)))
    generator = torch.Generator().manual_seed(seed)
    about = videos.video[torch.arange(T) % V]
    vector = normalize(about + torch.randn(T, D, generator=generator) / D**0.5, dim=-1)
    words = normalize(vector[:, None] + torch.randn(T, L, D, generator=generator) / D**0.5, dim=-1)
    return Texts(vector, words, torch.ones(T, L, dtype=torch.bool)), videos


def made(name: str) -> tuple[Scorer, Descent]:
    scorer = catalogue()[name](setting()).eval()
    return scorer, Descent(scorer, CONFIG, STEPS)


@pytest.mark.parametrize("name", LEARNED)
def test_every_learned_scorer_learns(name: str, batch: tuple[Texts, VideoFeatures]) -> None:
    scorer, descent = made(name)
    losses = [descent.step(step, *batch, slice(0, B)).loss for step in range(STEPS)]
    assert losses[-1] < losses[0]
    assert all(torch.isfinite(weight).all() for weight in scorer.parameters())


@pytest.fixture
def summing(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Makes threads into workers: `all_reduce` adds up what all of them bring."""

    def start(workers: int) -> None:
        barrier, held, guard = threading.Barrier(workers), [], threading.Lock()

        def all_reduce(mine: Tensor) -> None:
            with guard:
                held.append(mine.clone())
            barrier.wait(timeout=30)
            mine.copy_(torch.stack(held).sum(dim=0))
            if barrier.wait(timeout=30) == 0:
                held.clear()
            barrier.wait(timeout=30)

        monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
        monkeypatch.setattr(torch.distributed, "get_world_size", lambda: workers)
        monkeypatch.setattr(torch.distributed, "all_reduce", all_reduce)

    return start


@pytest.mark.parametrize("name", KINDS)
def test_unequal_shares_of_several_workers_make_the_same_steps(
    name: str, batch: tuple[Texts, VideoFeatures], summing: Callable[[int], None]
) -> None:
    _, alone = made(name)
    expected = [alone.step(step, *batch, slice(0, B)) for step in range(3)]
    shares = [slice(0, 1), slice(1, 3), slice(3, B)]
    workers = [made(name) for _ in shares]
    found: dict[int, list[Taken]] = {}

    def work(rank: int) -> None:
        found[rank] = [workers[rank][1].step(step, *batch, shares[rank]) for step in range(3)]

    summing(len(shares))
    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(len(shares))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for taken in found.values():
        assert [each.loss for each in taken] == pytest.approx([each.loss for each in expected], abs=1e-5)
        assert [each.grad_norm for each in taken] == pytest.approx([each.grad_norm for each in expected], rel=1e-4)
    for scorer, _ in workers:
        for one, other in zip(scorer.parameters(), workers[0][0].parameters(), strict=True):
            assert torch.equal(one, other)  # workers never drift apart


@pytest.mark.parametrize("name", KINDS)
def test_a_continued_training_is_the_uninterrupted_one_to_the_bit(
    name: str, batch: tuple[Texts, VideoFeatures], tmp_path: Path
) -> None:
    whole, alone = made(name)
    expected = [alone.step(step, *batch, slice(0, B)) for step in range(STEPS)]
    scorer, descent = made(name)
    taken = [descent.step(step, *batch, slice(0, B)) for step in range(3)]
    progress = Progress(3, {}, ({"step": 3, "epoch": 1, "R@1_validation": 0.5},))
    place = head_state.save(tmp_path, name, scorer, descent.optimiser, MADE_BY, progress, "a run")

    scorer, descent = made(name)
    with pytest.raises(MgvrError, match="belongs to another run, a run, not another"):
        head_state.load(place, scorer, descent.optimiser, "another")
    assert head_state.load(place, scorer, descent.optimiser, "a run") == progress
    taken += [descent.step(step, *batch, slice(0, B)) for step in range(3, STEPS)]
    assert taken == expected
    for one, other in zip(scorer.parameters(), whole.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_checkpoint_that_was_damaged_says_what_to_do(batch: tuple[Texts, VideoFeatures], tmp_path: Path) -> None:
    scorer, descent = made("drl")
    descent.step(0, *batch, slice(0, B))
    place = head_state.save(tmp_path, "drl", scorer, descent.optimiser, MADE_BY, Progress(1), "a run")
    file = place / "optimiser.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(MgvrError, match=r"can't go on from .*step-00000001: .*Remove that folder"):
        head_state.load(place, scorer, descent.optimiser, "a run")


def test_a_loss_that_is_no_number_leaves_the_weights_alone(batch: tuple[Texts, VideoFeatures]) -> None:
    texts, videos = batch
    assert texts.words is not None
    scorer, descent = made("drl")
    before = [weight.detach().clone() for weight in scorer.parameters()]
    broken = Texts(texts.vector, texts.words * torch.nan, texts.word_mask)
    assert not np.isfinite(descent.step(0, broken, videos, slice(0, B)).loss)
    assert all(torch.equal(one, other) for one, other in zip(before, scorer.parameters(), strict=True))


@pytest.mark.parametrize("name", KINDS)
def test_a_pool_is_scored_alike_in_blocks_and_at_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    texts, videos = drawn(2, 9, 5)
    scorer, _ = made(name)
    monkeypatch.setattr("mgvr_core.training.head_step._TEXTS", 2)
    monkeypatch.setattr("mgvr_core.training.head_step._LISTED", 11)
    with torch.no_grad():
        blocks = pool_scores(scorer, texts, videos)
        monkeypatch.undo()
        assert blocks == pytest.approx(pool_scores(scorer, texts, videos), abs=1e-5)
    assert blocks.shape == (9, 5)


def test_ranks_in_a_pool_are_those_of_the_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    texts, videos = drawn(2, 3, 4)
    scores = torch.tensor([[0.1, 0.4, 0.3, 0.2], [0.5, 0.5, 0.5, 0.1], [0.0, 0.1, 0.2, 0.3]])
    monkeypatch.setattr("mgvr_core.training.head_step.pool_scores", lambda *_: scores)
    found = pool_ranks(made("drl")[0], texts, videos, np.array([2, 0, 3]))
    assert found.tolist() == [2.0, 2.0, 1.0]  # second; the middle of three that are tied; first

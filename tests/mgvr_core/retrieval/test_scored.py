"""Any scorer over stored features, shard by shard: the same numbers as on all features at once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from retrieval_sets import D, F, P, made_set, near_features, order_of
from torch.nn.functional import normalize

from mgvr_core.errors import MgvrError
from mgvr_core.features.layout import CodecConfig
from mgvr_core.features.snapshot import Snapshot
from mgvr_core.retrieval import scored
from mgvr_core.retrieval.scored import Shards, columns_read, decoded, score_candidates, score_lists, score_pool
from mgvr_core.scorers.catalogue import catalogue, find
from mgvr_core.scorers.scorer import Scorer, Setting, Sizes, Texts, take_videos
from mgvr_core.scoring.features import VideoFeatures

NAMES = [["m", "c", "x"], ["a", "q", "b", "z"], ["k", "d"]]
N, T, L, K = 9, 7, 5, 4
SETTING = Setting(Sizes(F, P, D, L), torch.eye(D))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    return made_set(tmp_path_factory.mktemp("set"), NAMES)


@pytest.fixture(scope="module")
def texts() -> Texts:
    generator = torch.Generator().manual_seed(1)
    mask = torch.arange(L) < torch.tensor([[5], [3], [4], [5], [2], [5], [3]])
    words = normalize(torch.randn(T, L, D, generator=generator), dim=-1) * mask.unsqueeze(-1)
    return Texts(normalize(torch.randn(T, D, generator=generator), dim=-1), words, mask)


def shards(snapshot: Snapshot, scorer: Scorer) -> Shards:
    codec = snapshot.codec()
    for number, place in order_of(snapshot).items():
        table = snapshot.read_shard(snapshot.shards[number], columns_read(scorer.reads, codec))
        yield place, decoded(table, scorer.reads, codec)


def whole(snapshot: Snapshot) -> VideoFeatures:
    """All features in the order of ids, as stored in fp16."""
    features = near_features(0, N)
    place = np.concatenate(list(order_of(snapshot).values()))
    rows = torch.from_numpy(np.argsort(place))
    return VideoFeatures(
        **{name: values[rows] if name == "mask" else values[rows].half().float() for name, values in features.items()}
    )


def lists() -> NDArray[np.int64]:
    random = np.random.default_rng(0)
    return np.stack([random.permutation(N)[:K] for _ in range(T)])


@pytest.mark.parametrize("name", [name for name in catalogue() if find(name).kind != "list"])
def test_shard_by_shard_is_all_at_once(
    name: str, plain: Snapshot, texts: Texts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over the whole pool in small blocks, and for candidates alone; nothing is read that the scorer does not read."""
    scorer = find(name)(SETTING).eval()
    with torch.inference_mode():
        expected = scorer.parts(texts, whole(plain))  # (C, T, N)
    monkeypatch.setattr(scored, "_NUMBERS", 100)
    torch.testing.assert_close(score_pool(scorer, texts, shards(plain, scorer), N), expected, atol=2e-5, rtol=1e-5)
    index = lists()
    among = expected.gather(2, torch.from_numpy(index).expand(len(expected), -1, -1))
    torch.testing.assert_close(
        score_candidates(scorer, texts, shards(plain, scorer), index), among, atol=2e-5, rtol=1e-5
    )


@pytest.mark.parametrize("name", [name for name in catalogue() if find(name).kind == "list"])
def test_lists_are_those_of_their_videos(
    name: str, plain: Snapshot, texts: Texts, monkeypatch: pytest.MonkeyPatch
) -> None:
    scorer, index = find(name)(SETTING).eval(), lists()
    prior = np.random.default_rng(1).random((T, K), np.float32)
    rows = torch.from_numpy(index.reshape(-1))
    with torch.inference_mode():
        expected = scorer.score_lists(texts, take_videos(whole(plain), rows), torch.from_numpy(prior))
    monkeypatch.setattr(scored, "_NUMBERS", 1)
    found = score_lists(scorer, texts, shards(plain, scorer), index, prior)
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-5)


def test_coded_features_are_decoded(plain: Snapshot, texts: Texts, tmp_path: Path) -> None:
    scorer = find("max_sim")(SETTING)
    coded = made_set(tmp_path, NAMES, config=CodecConfig(values="int8"))
    exact, near = (score_pool(scorer, texts, shards(each, scorer), N) for each in (plain, coded))
    assert 0 < float((exact - near).abs().max()) < 0.02
    hidden = next(iter(shards(coded, scorer)))[1]
    assert not hidden.frames[~hidden.mask].any()


def test_merged_patches_are_refused(texts: Texts, tmp_path: Path) -> None:
    scorer = find("patch_weak")(SETTING)
    merged = made_set(tmp_path, NAMES, config=CodecConfig(values="fp16", tokens=2))
    with pytest.raises(MgvrError, match="merged patches stand for several each"):
        score_pool(scorer, texts, shards(merged, scorer), N)


def test_a_pool_without_a_video_is_no_pool(texts: Texts) -> None:
    nothing: Iterator[tuple[NDArray[np.int64], VideoFeatures]] = iter(())
    with pytest.raises(ValueError, match="no video"):
        score_pool(find("coarse")(SETTING), texts, nothing, 0)

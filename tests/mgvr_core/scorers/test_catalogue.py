"""What holds for every scorer there is: nothing but the pair, no trace of padding, and nothing read unsaid."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from mgvr_core.errors import MgvrError
from mgvr_core.scorers.catalogue import catalogue, find
from mgvr_core.scorers.scorer import Scorer, Setting, Sizes, Texts, take_videos
from mgvr_core.scoring.features import VideoFeatures

NAMES = list(catalogue())
SEPARATE = [name for name in NAMES if catalogue()[name].kind != "list"]
BANKED = [name for name in NAMES if catalogue()[name].reads_bank]

Pairs = Callable[..., tuple[Texts, VideoFeatures]]
Settings = Callable[..., Setting]
Parts = Callable[[Scorer, Texts, VideoFeatures, Tensor], Tensor]

every_scorer = pytest.mark.parametrize("name", NAMES)


def made(name: str, setting: Setting) -> Scorer:
    """The scorer with weights that are no longer those it starts with: a zero or an identity would hide much."""
    scorer = find(name)(setting).eval()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weights in scorer.parameters():
            weights += 0.1 * torch.randn(weights.shape, generator=generator)
    return scorer


def priors(texts: Texts, videos: VideoFeatures) -> Tensor:
    return texts.vector @ videos.video.T


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@every_scorer
def test_a_score_depends_on_nothing_but_its_pair(name: str, pairs: Pairs, setting: Settings, parts: Parts) -> None:
    """And that of a list on nothing but its text and its candidates."""
    scorer, (texts, videos) = made(name, setting()), pairs(0, T=3, V=4)
    prior = priors(texts, videos)
    together = parts(scorer, texts, videos, prior)
    assert together.shape[1:] == (3, 4)
    assert together.isfinite().all()
    assert together.std(dim=(1, 2)).min() > 1e-3, "else this test could not fail"
    for t in range(3):
        one = texts.take(slice(t, t + 1))
        if name not in SEPARATE:
            close(parts(scorer, one, videos, prior[t : t + 1]), together[:, t : t + 1])
            continue
        for v in range(4):
            alone = parts(scorer, one, take_videos(videos, slice(v, v + 1)), prior[t : t + 1, v : v + 1])
            close(alone, together[:, t : t + 1, v : v + 1])


@every_scorer
def test_the_order_of_texts_and_videos_is_the_order_of_scores(
    name: str, pairs: Pairs, setting: Settings, parts: Parts
) -> None:
    scorer, (texts, videos) = made(name, setting()), pairs(1)
    prior, across, down = priors(texts, videos), torch.randperm(7), torch.randperm(5)
    found = parts(scorer, texts.take(down), take_videos(videos, across), prior[down][:, across])
    close(found, parts(scorer, texts, videos, prior)[:, down][:, :, across])


def enlarged(name: str, small: Scorer, setting: Setting) -> Scorer:
    """The same weights for more frames and words; what they say of the places beyond is no matter."""
    large = made(name, setting)
    theirs = dict(small.named_parameters())
    with torch.no_grad():
        for key, weights in large.named_parameters():
            weights[tuple(slice(size) for size in theirs[key].shape)] = theirs[key]
    return large


@every_scorer
def test_padded_frames_and_words_have_no_influence(
    name: str, pairs: Pairs, setting: Settings, parts: Parts, sizes: Sizes
) -> None:
    texts, videos = pairs(2)
    longer = replace(sizes, frames=sizes.frames + 2, words=sizes.words + 3)

    def padded(tensor: Tensor, places: int) -> Tensor:
        return torch.cat([tensor, tensor.new_zeros(len(tensor), places, *tensor.shape[2:])], dim=1)

    of_small, of_large = setting(sizes=sizes), setting(sizes=longer)
    mixing = of_large.mixing.clone()
    mixing[: sizes.frames, : sizes.frames] = of_small.mixing
    of_large = replace(of_small, sizes=longer, mixing=mixing)
    small = made(name, of_small)
    large = enlarged(name, small, of_large)
    more_texts = Texts(texts.vector, padded(texts.words, 3), padded(texts.word_mask, 3))
    more_videos = VideoFeatures(
        videos.video, *(padded(getattr(videos, key), 2) for key in ("frames", "temporal", "patches", "mask"))
    )
    prior = priors(texts, videos)
    close(parts(large, more_texts, more_videos, prior), parts(small, texts, videos, prior))


@every_scorer
def test_a_scorer_reads_what_it_says_and_no_more(name: str, pairs: Pairs, setting: Settings, parts: Parts) -> None:
    scorer, (texts, videos) = made(name, setting()), pairs(3)
    reads, prior = scorer.reads, priors(texts, videos)
    unread = {
        key: torch.full_like(getattr(videos, key), torch.nan)
        for key in ("video", "frames", "temporal")
        if key not in reads
    }
    if "patches" not in reads:
        unread["patches"] = None
    blind = texts if "words" in reads else Texts(texts.vector, None, None)
    expected = parts(scorer, texts, videos, prior)
    assert torch.equal(parts(scorer, blind, replace(videos, **unread), prior), expected)
    for key in reads:
        if key == "words":
            changed = parts(scorer, replace(texts, words=-texts.words), videos, prior)
        else:
            changed = parts(scorer, texts, replace(videos, **{key: -getattr(videos, key)}), prior)
        assert not torch.allclose(changed, expected), f"{key} is said to be read"


@pytest.mark.parametrize("name", BANKED)
def test_what_is_normalised_against_a_bank_depends_on_no_other_candidate(
    name: str, pairs: Pairs, setting: Settings
) -> None:
    scorer, (texts, videos), (bank_texts, _) = made(name, setting()), pairs(5), pairs(6, T=9)
    columns = torch.stack([torch.randperm(7)[:3] for _ in range(5)])  # (T, 3)
    with torch.no_grad():
        every, bank = scorer.parts(texts, videos), scorer.parts(bank_texts, videos)
        some = every.gather(2, columns.expand(len(every), -1, -1))  # (C, T, 3)
        close(scorer.combine(some, columns, bank), scorer.combine(every, None, bank).gather(1, columns))


@every_scorer
def test_weights_are_drawn_by_the_setting_alone(name: str, setting: Settings) -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = find(name)(setting(1))
    assert torch.equal(torch.get_rng_state(), before), "else what is built changes what is drawn after it"
    torch.manual_seed(1)
    again = find(name)(setting(1)).state_dict()
    assert first.state_dict().keys() == again.keys()
    for key, weights in first.state_dict().items():
        assert torch.equal(weights, again[key]), key


@every_scorer
def test_a_scorer_says_what_it_is(name: str) -> None:
    scorer = find(name)
    assert scorer.__module__ == f"mgvr_core.scorers.{name}"
    assert len(vars(scorer)["__doc__"]) > 60
    for line in (scorer.title, scorer.source, scorer.formula):
        assert line
        assert line == line.strip()
        assert "\n" not in line


def test_no_two_scorers_share_a_title() -> None:
    titles = [scorer.title for scorer in catalogue().values()]
    assert len(set(titles)) == len(titles)


def test_a_name_that_no_scorer_has_is_refused_with_the_nearest() -> None:
    with pytest.raises(MgvrError, match=r"there is no scorer 'mean_pol'.*mean_pool.*It is one of: coarse, "):
        find("mean_pol")


@every_scorer
def test_the_cost_grows_with_what_is_read(name: str) -> None:
    scorer, usual = find(name), Sizes(frames=12, patches=49, dim=512, words=32)
    cost = scorer.multiply_adds(usual)
    assert isinstance(cost, int)
    assert cost > 0
    more = {key: scorer.multiply_adds(replace(usual, **{key: 2 * getattr(usual, key)})) for key in vars(usual)}
    assert min(more.values()) >= cost
    assert more["dim"] > cost
    if "patches" not in scorer.reads:
        assert more["patches"] == cost
    if "words" not in scorer.reads:
        assert more["words"] == cost


PUBLISHED = {
    "mean_pool": 0.5,
    "coarse": 0.5,
    "rap": 0.5,
    "query_scoring": 12.8,
    "tib_frame": 12.8,
    "ts2_net": 6.1,
    "x_pool": 537,
    "x_clip": 239,
    "drl": 197,
    "token_interaction": 197,
    "ucofia": 794,
    "max_sim": 393,
}
"""Thousand multiply-adds a pair at D = 512, 12 frames and 32 words, ViT-B/32."""


@pytest.mark.parametrize(("name", "thousands"), PUBLISHED.items())
def test_the_cost_is_the_one_that_systems_are_compared_by(name: str, thousands: float) -> None:
    cost = find(name).multiply_adds(Sizes(frames=12, patches=49, dim=512, words=32))
    assert round(cost / 1000, 1 if thousands < 100 else 0) == thousands

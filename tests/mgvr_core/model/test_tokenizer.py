"""Captions to ids: what is cut and what is unknown is counted, never lost in silence."""

from __future__ import annotations

import open_clip
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mgvr_core.errors import MgvrError
from mgvr_core.model.spec import ModelSpec, TokenizerSpec
from mgvr_core.model.tokenizer import (
    BytePairTokenizer,
    WordTokenizer,
    build_tokenizer,
    learn_vocabulary,
    split_words,
    tokenizer_of,
)

TEXTS = [
    "a red circle moves left",
    "A man's  dog &amp; cat: 3 × 2 = 6?!",
    "女孩在跳舞",
    "",
    "word " * 100,
]
VOCABULARY = ("a", "circle", "moves", "red", ".")


@pytest.mark.parametrize("words", [4, 32, 77])
def test_byte_pairs_are_those_of_open_clip(words: int) -> None:
    expected = open_clip.get_tokenizer("ViT-B-32-quickgelu")(TEXTS, context_length=words)
    assert torch.equal(BytePairTokenizer()(TEXTS, words).ids, expected)


def test_byte_pairs_beyond_the_length_are_marked_as_cut() -> None:
    tokenize = BytePairTokenizer()
    five = "a red circle moves left"  # five tokens and the two end markers
    assert tokenize([five, five + " again", ""], 7).truncated.tolist() == [False, True, False]
    assert tokenize(TEXTS, 77).truncated.tolist() == [False, False, False, False, True]


@pytest.mark.parametrize("tokenize", [BytePairTokenizer(), WordTokenizer(VOCABULARY)], ids=["byte pairs", "words"])
@pytest.mark.parametrize("words", [4, 32])
def test_every_text_ends_with_the_highest_id_and_then_zeros(
    tokenize: BytePairTokenizer | WordTokenizer, words: int
) -> None:
    ids = tokenize(TEXTS, words).ids
    assert ids.dtype == torch.int64
    assert ids.shape == (len(TEXTS), words)
    end = ids.max()
    for row in ids:
        place = int(row.argmax())
        assert row[place] == end
        assert (row == end).sum() == 1
        assert not row[place + 1 :].any()


def test_words_of_a_closed_vocabulary() -> None:
    tokens = WordTokenizer(VOCABULARY)(["A red circle.", "a blue, blue circle", "red " * 9], 6)
    start, end = 7, 8
    assert WordTokenizer.size(VOCABULARY) == end + 1
    assert tokens.ids.tolist() == [
        [start, 2, 5, 3, 6, end],
        [start, 2, 1, 1, 1, end],
        [start, 5, 5, 5, 5, end],
    ]
    assert tokens.unknown.tolist() == [0, 3, 0]
    assert tokens.truncated.tolist() == [False, True, True]


@settings(deadline=None)
@given(
    texts=st.lists(st.lists(st.sampled_from([*VOCABULARY, "blue", "naïve"]), max_size=12).map(" ".join), max_size=4),
    words=st.integers(3, 10),
)
def test_counts_are_of_the_text_and_not_of_what_is_left_of_it(texts: list[str], words: int) -> None:
    tokens = WordTokenizer(VOCABULARY)(texts, words)
    assert tokens.ids.shape == (len(texts), words)
    assert tokens.truncated.tolist() == [len(text.split()) > words - 2 for text in texts]
    assert tokens.unknown.tolist() == [sum(word in ("blue", "naïve") for word in text.split()) for text in texts]


def test_a_vocabulary_is_the_same_whatever_the_order_of_the_captions() -> None:
    captions = ["a red circle", "A blue circle, red.", "the circle"]
    assert learn_vocabulary(captions) == ("circle", "a", "red", ",", ".", "blue", "the")
    assert learn_vocabulary(captions[::-1]) == learn_vocabulary(captions)
    tokens = WordTokenizer(learn_vocabulary(captions))(captions, 8)
    assert not tokens.unknown.any()


def test_words_are_lower_case_and_punctuation_stands_alone() -> None:
    assert split_words("Don't stop, Éva!") == ["don", "'", "t", "stop", ",", "éva", "!"]


def test_the_specification_chooses_the_tokenizer() -> None:
    assert isinstance(build_tokenizer(TokenizerSpec()), BytePairTokenizer)
    words = build_tokenizer(TokenizerSpec(kind="words", vocabulary=VOCABULARY))
    assert words(["red"], 3).ids.tolist() == [[7, 5, 8]]


def test_a_tokenizer_that_would_have_to_be_fetched_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(name: str) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(open_clip, "get_tokenizer", offline)
    with pytest.raises(MgvrError, match=r"tokenizer of ViT-B-16-SigLIP .*no route to host"):
        build_tokenizer(TokenizerSpec(name="ViT-B-16-SigLIP"))


def test_a_text_tower_of_another_vocabulary_is_refused_before_it_reads_a_text() -> None:
    small = ModelSpec(architecture={"embed_dim": 64, "vision_cfg": {}, "text_cfg": {"vocab_size": 600}})
    with pytest.raises(MgvrError, match="knows 600 tokens, CLIP's byte pairs are 49408"):
        tokenizer_of(small)
    whole = small.model_copy(update={"architecture": {**small.architecture, "text_cfg": {}}})
    assert isinstance(tokenizer_of(whole), BytePairTokenizer)

"""Captions to ids, counting what does not fit instead of cutting it in silence."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import open_clip
import torch
from open_clip.tokenizer import SimpleTokenizer
from torch import Tensor

from mgvr_core.errors import MgvrError
from mgvr_core.model.spec import ModelSpec, TokenizerSpec

_BYTE_PAIRS = 49408
"""Tokens of CLIP's byte pair encoding."""
_WORD = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True)
class Tokens:
    """A batch of tokenised texts."""

    ids: Tensor
    """(B, length) int64: start, tokens, end, zero padding."""
    truncated: Tensor
    """(B,) bool: the text was longer than `length` tokens and has been cut."""
    unknown: Tensor
    """(B,) int64: words of the text that a closed vocabulary does not hold."""


class Tokenizer(Protocol):
    """Texts to ids of a fixed length."""

    def __call__(self, texts: Sequence[str], length: int) -> Tokens:
        """Tokenise; a text longer than `length` tokens, end markers included, is cut and marked."""


class BytePairTokenizer:
    """CLIP's byte pair encoding by open_clip, which ships its vocabulary."""

    def __init__(self) -> None:
        self._bpe = SimpleTokenizer()

    def __call__(self, texts: Sequence[str], length: int) -> Tokens:
        """See `Tokenizer`."""
        lengths = torch.tensor([len(self._bpe.encode(text)) + 2 for text in texts], dtype=torch.int64)
        ids = self._bpe(list(texts), context_length=length)
        return Tokens(ids, lengths > length, torch.zeros(len(texts), dtype=torch.int64))


class HubTokenizer:
    """The tokenizer that open_clip names for a model with a text tower of its own (SigLIP, multilingual CLIP)."""

    def __init__(self, name: str) -> None:
        try:
            self._tokenizer = open_clip.get_tokenizer(name)
        except Exception as error:  # the hub's client raises a dozen kinds, all of them meaning "not to be had"
            raise MgvrError(
                f"the tokenizer of {name} comes from a model hub and is not on this machine: {error}. "
                "Fetch it once on a machine with access and copy its cache."
            ) from error

    def __call__(self, texts: Sequence[str], length: int) -> Tokens:
        """See `Tokenizer`."""
        whole = self._tokenizer.tokenizer(list(texts))["input_ids"]
        lengths = torch.tensor([len(ids) for ids in whole])
        ids = self._tokenizer(list(texts), context_length=length)
        return Tokens(ids, lengths > length, torch.zeros(len(texts), dtype=torch.int64))


class WordTokenizer:
    """A closed vocabulary of words, for the small models that the project trains itself.

    Ids: 0 padding, 1 an unknown word, then the vocabulary, then start and end. The end has the highest id, because
    CLIP's text tower finds the end of a text by the largest id.
    """

    def __init__(self, vocabulary: Sequence[str]) -> None:
        self._ids = {word: index for index, word in enumerate(vocabulary, start=2)}
        self._start, self._end = len(vocabulary) + 2, len(vocabulary) + 3

    @staticmethod
    def size(vocabulary: Sequence[str]) -> int:
        """Rows that the token embedding needs."""
        return len(vocabulary) + 4

    def __call__(self, texts: Sequence[str], length: int) -> Tokens:
        """See `Tokenizer`."""
        ids = torch.zeros(len(texts), length, dtype=torch.int64)
        truncated = torch.zeros(len(texts), dtype=torch.bool)
        unknown = torch.zeros(len(texts), dtype=torch.int64)
        for row, text in enumerate(texts):
            found = [self._ids.get(word, 1) for word in split_words(text)]
            truncated[row], unknown[row] = len(found) + 2 > length, found.count(1)
            line = [self._start, *found[: length - 2], self._end]
            ids[row, : len(line)] = torch.tensor(line)
        return Tokens(ids, truncated, unknown)


def split_words(text: str) -> list[str]:
    """Lower-case words and punctuation marks, in order."""
    return _WORD.findall(text.lower())


def learn_vocabulary(captions: Iterable[str]) -> tuple[str, ...]:
    """All words of the captions, the most frequent first, equal counts by the alphabet."""
    counts = Counter(word for caption in captions for word in split_words(caption))
    return tuple(sorted(counts, key=lambda word: (-counts[word], word)))


def tokenizer_of(spec: ModelSpec) -> Tokenizer:
    """The tokenizer of a model; raises MgvrError where its ids would not fit the model's token embedding."""
    rows = int(spec.architecture["text_cfg"].get("vocab_size", _BYTE_PAIRS))
    if spec.tokenizer == TokenizerSpec() and rows < _BYTE_PAIRS:
        raise MgvrError(
            f"the model's text tower knows {rows} tokens, CLIP's byte pairs are {_BYTE_PAIRS}: it was trained with "
            "another tokenizer, which its weights do not hold. It can encode videos, but no texts."
        )
    return build_tokenizer(spec.tokenizer)


def build_tokenizer(spec: TokenizerSpec) -> Tokenizer:
    """The tokenizer of a model; raises MgvrError where it would have to be fetched and can't be."""
    if spec.kind == "words":
        return WordTokenizer(spec.vocabulary)
    return BytePairTokenizer() if spec.name is None else HubTokenizer(spec.name)

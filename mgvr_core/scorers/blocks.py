"""What the scorers with attention of their own share: masked pre-norm blocks, and weights drawn from a seed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

HEAD_WIDTH = 32
"""Dimensions of one attention head, at most."""

_SHARPNESS = 10.0
"""Of an untrained match: what cosines are multiplied by before the softmax, as in TIB's gate."""

Keys = tuple[Tensor, Tensor]
"""Keys and values of N tokens."""


@contextmanager
def drawn_from(seed: int) -> Iterator[None]:
    """Weights drawn inside come from the seed; the global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def heads_of(dim: int) -> int:
    """Attention heads of a scorer for features of D dimensions: one for every 64 of them."""
    return max(1, dim // (2 * HEAD_WIDTH))


def width_of(dim: int) -> int:
    """W, inner dimensions of such a scorer: half of D."""
    heads = heads_of(dim)
    return heads * min(HEAD_WIDTH, -(-dim // 2))


def seen(mask: Tensor) -> Tensor:
    """mask (B, N) bool with the first place of an empty row open: softmax of nothing is NaN. That token is zero."""
    opened = mask.clone()
    opened[:, 0] |= ~mask.any(dim=1)
    return opened


def sinusoids(mask: Tensor, width: int) -> Tensor:
    """The fixed places of Transformer (Vaswani et al., 2017) of a video's valid frames: mask (V, F) -> (V, F, W).

    Frames are counted without the padded ones, so that padding moves no frame to another place.
    """
    place = (mask.long().cumsum(dim=1) - 1).clamp_min(0).unsqueeze(-1)  # (V, F, 1)
    index = torch.arange(width, device=mask.device)
    angle = place / 10_000.0 ** (index // 2 * 2 / width)  # (V, F, W)
    return torch.where(index % 2 == 0, angle.sin(), angle.cos())


class Embedding(nn.Module):
    """Tokens of D dimensions in W: one projection for texts and videos, which are in one space, then LayerNorm."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.project = nn.Linear(dim, width_of(dim), bias=False)
        nn.init.orthogonal_(self.project.weight)  # keeps what is near near
        self.norm = nn.LayerNorm(width_of(dim))

    def forward(self, tokens: Tensor) -> Tensor:
        """(..., D) -> (..., W)."""
        embedded: Tensor = self.norm(self.project(tokens))
        return embedded


def zero_linear(inside: int, outside: int) -> nn.Linear:
    """A linear layer that starts as zero, so that what it is added to starts as it was."""
    layer = nn.Linear(inside, outside)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


class Match(nn.Module):
    """What queries read from tokens of a video, multiplied by the queries: attention in the space of the features.

        y = sum_n softmax_n(10 <Q q, K p_n>) V p_n,  likeness <Q q, y>,  match O (D * Q q (*) y)

    Q, K and V (D x D) start as the identity, so that the likeness starts as TIB's score without its normalisation; the
    match, in W dimensions, says in which dimensions query and video agree. Queries, keys and values are computed once.
    """

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(dim, dim, bias=False) for _ in range(3))
        for linear in (self.query, self.key, self.value):
            nn.init.eye_(linear.weight)
        self.out = nn.Linear(dim, width)

    def keys(self, tokens: Tensor) -> Keys:
        """Keys and values of tokens (B, N, D), as given."""
        return self.key(tokens), self.value(tokens)

    def forward(self, query: Tensor, keys: Keys, mask: Tensor) -> tuple[Tensor, Tensor]:
        """query Q q (B, n, D), keys of N tokens, mask (B, N) bool -> match (B, n, W), likeness (B, n)."""
        read = scaled_dot_product_attention(query, *keys, attn_mask=seen(mask).unsqueeze(1), scale=_SHARPNESS)
        product = query * read  # (B, n, D)
        return self.out(query.shape[-1] * product), product.sum(dim=-1)


class Attention(nn.Module):
    """What queries read from tokens by multi-head attention, both normalised first; to be added to the queries."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query_norm, self.token_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width, bias=False)
        self.value, self.out = nn.Linear(width, width), nn.Linear(width, width)

    def keys(self, tokens: Tensor) -> Keys:
        """Keys and values of tokens (B, N, W): computed once, whatever asks; each (B, heads, N, W / heads)."""
        tokens = self.token_norm(tokens)
        return self._by_head(self.key(tokens)), self._by_head(self.value(tokens))

    def forward(self, asking: Tensor, keys: Keys, mask: Tensor) -> Tensor:
        """asking (B, n, W), keys of N tokens, mask (B, N) bool -> (B, n, W)."""
        query = self._by_head(self.query(self.query_norm(asking)))  # (B, heads, n, W / heads)
        read = scaled_dot_product_attention(query, *keys, attn_mask=seen(mask)[:, None, None])
        out: Tensor = self.out(read.transpose(1, 2).flatten(2))  # (B, n, W)
        return out

    def _by_head(self, tokens: Tensor) -> Tensor:
        B, n, W = tokens.shape
        return tokens.view(B, n, self.heads, W // self.heads).transpose(1, 2)


class Mlp(nn.Sequential):
    """Pre-norm two-layer perceptron, twice as wide inside; to be added to what it reads."""

    def __init__(self, width: int) -> None:
        super().__init__(nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))


class Layer(nn.Module):
    """A pre-norm transformer layer."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention, self.mlp = Attention(width, heads), Mlp(width)

    def forward(self, asking: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        """asking (B, n, W) over tokens (B, N, W), mask (B, N) bool -> (B, n, W)."""
        asking = asking + self.attention(asking, self.attention.keys(tokens), mask)
        out: Tensor = asking + self.mlp(asking)
        return out


class Encoder(nn.ModuleList):
    """Layers of self-attention, of which the first token is all that counts at the end."""

    def __init__(self, layers: int, width: int, heads: int) -> None:
        super().__init__(Layer(width, heads) for _ in range(layers))

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """tokens (B, N, W), mask (B, N) bool -> the first (B, W)."""
        for number, layer in enumerate(self):
            tokens = layer(tokens[:, :1] if number == len(self) - 1 else tokens, tokens, mask)
        return tokens[:, 0]


class Head(nn.Module):
    """A logit from a state and from likenesses, which starts as zero: the latter times the model's temperature."""

    def __init__(self, width: int, likenesses: int, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.norm, self.of_state = nn.LayerNorm(width), zero_linear(width, 1)
        self.of_likeness = zero_linear(likenesses, 1)

    def forward(self, state: Tensor, likeness: Tensor) -> Tensor:
        """state (..., W), likeness (..., n) -> (...)."""
        logit: Tensor = self.of_state(self.norm(state)) + self.of_likeness(self.scale * likeness)
        return logit.squeeze(-1)


def first_and_mean(likeness: Tensor, mask: Tensor) -> Tensor:
    """Of t^, and of all text tokens on average: likeness and mask (B, n), the sentence's first -> (B, 2)."""
    mean = (likeness * mask).sum(dim=1) / mask.sum(dim=1)
    return torch.stack([likeness[:, 0], mean], dim=1)


def match_macs(dim: int, queries: int, tokens: int) -> int:
    """Multiply-adds of `Match`, queries and keys being there: logits and sum 2 n N D, products n D, output n D W."""
    return 2 * queries * tokens * dim + queries * dim + queries * dim * width_of(dim)


def layer_macs(width: int, queries: int, tokens: int) -> int:
    """Multiply-adds of `Layer`: keys 2 N W^2, queries and output 2 n W^2, attention 2 n N W, perceptron 4 n W^2."""
    return 2 * tokens * width**2 + 6 * queries * width**2 + 2 * queries * tokens * width


def encoder_macs(layers: int, width: int, tokens: int) -> int:
    """Multiply-adds of `Encoder`: all tokens ask in every layer but the last, where one does."""
    return (layers - 1) * layer_macs(width, tokens, tokens) + layer_macs(width, 1, tokens)

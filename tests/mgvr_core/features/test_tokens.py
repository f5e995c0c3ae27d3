"""Stored tokens: similarities are inner products with the vectors as they are decoded, in whatever code."""

from __future__ import annotations

from unittest.mock import patch

import numpy as np
import pytest
import torch
from drawn import normal
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import normalize

from mgvr_core.features import tokens as module
from mgvr_core.features.tokens import Asking, DenseTokens, Int8Tokens, PqTokens, Texts, Tokens, quantise

CODES = ["fp16", "fp32", "int8", "pq", "pq turned"]


pytestmark = pytest.mark.usefixtures("one_thread")


def tokens_of(random: np.random.Generator, code: str, V: int, N: int, D: int) -> tuple[Tokens, Tensor]:
    """Tokens, and what they are as vectors (V, N, D) in float64, by the code's definition. D is even."""
    if not code.startswith("pq"):
        vectors = normalize(normal(random, V, N, D), dim=-1)
        vectors[random.integers(V), -1] = 0.0  # padding
        if code == "int8":
            codes, scale = quantise(vectors)
            return Int8Tokens(codes, scale), codes.double() * scale.double().unsqueeze(-1)
        values = vectors.half() if code == "fp16" else vectors
        return DenseTokens(values), values.double()
    M = D // 2
    codes = torch.from_numpy(random.integers(0, 256, (V, N, M)).astype(np.uint8))
    codebook = normal(random, M, 256, 2) / D**0.5
    vectors = torch.stack([codebook[m, codes[..., m].long()] for m in range(M)], dim=2).reshape(V, N, D).double()
    if code == "pq":
        return PqTokens(codes, codebook, None), vectors
    rotation = torch.linalg.qr(normal(random, D, D)).Q
    return PqTokens(codes, codebook, rotation), vectors @ rotation.T.double()


def texts_of(random: np.random.Generator, T: int, D: int) -> Texts:
    text = normalize(normal(random, T, D), dim=-1)
    return Texts(text, text @ normal(random, D, D))


@pytest.mark.parametrize("code", CODES)
@settings(deadline=None, max_examples=40)
@given(
    V=st.integers(1, 6),
    N=st.integers(1, 20),
    D=st.integers(1, 40),
    n=st.integers(1, 20),
    seed=st.integers(0, 999),
    data=st.data(),
)
def test_similarities_are_inner_products_with_the_vectors(
    code: str, V: int, N: int, D: int, n: int, seed: int, data: st.DataObject
) -> None:
    """Of any videos in any order, one of them perhaps more than once."""
    random = np.random.default_rng(seed)
    tokens, vectors = tokens_of(random, code, V, N, 2 * D)
    videos = torch.tensor(data.draw(st.lists(st.integers(0, V - 1), min_size=1, max_size=8)))
    texts = texts_of(random, 5, 2 * D)
    rows = torch.from_numpy(random.integers(0, 5, (len(videos), n)))
    text = texts.text.double()
    if code == "int8":  # such texts are rounded as the tokens are
        codes, scale = texts.int8
        text = codes.double() * scale.double().unsqueeze(-1)
    expected = torch.einsum("bnd,bmd->bnm", text[rows], vectors[videos])
    found = tokens.similarity(Asking(texts, rows), videos)
    assert (found.shape, found.dtype) == ((len(videos), n, N), torch.float32)
    torch.testing.assert_close(found.double(), expected, atol=1e-6 * (2 * D) ** 0.5, rtol=0)
    decoded = tokens.vectors(videos)
    assert decoded.dtype == torch.float32
    torch.testing.assert_close(decoded.double(), vectors[videos], atol=1e-6, rtol=0)
    assert tokens.number == N
    assert tokens.bytes == 4 * N * 2 * D


@pytest.mark.parametrize("code", CODES)
@settings(deadline=None, max_examples=25)
@given(n=st.integers(1, 30), N=st.integers(1, 20), D=st.sampled_from([8, 24, 64, 512]), seed=st.integers(0, 99))
def test_the_bits_of_a_pair_do_not_depend_on_what_is_asked_beside_it(
    code: str, n: int, N: int, D: int, seed: int
) -> None:
    random = np.random.default_rng(seed)
    V = 3
    tokens, _ = tokens_of(random, code, V, N, D)
    texts = texts_of(random, 6, D)
    rows = torch.from_numpy(random.integers(0, 6, (V, n)))
    whole = tokens.similarity(Asking(texts, rows), torch.arange(V))
    order = random.permutation(V)
    turned = tokens.similarity(Asking(texts, rows[order]), torch.from_numpy(order))
    assert torch.equal(turned, whole[order])
    for v in range(V):
        at = random.integers(n)
        alone = tokens.similarity(Asking(texts, rows[v : v + 1, at : at + 1]), torch.tensor([v]))
        assert torch.equal(alone[0, 0], whole[v, at])


@settings(deadline=None, max_examples=50)
@given(n=st.integers(1, 20), N=st.integers(1, 20), D=st.integers(1, 130) | st.just(1040), seed=st.integers(0, 999))
def test_sums_of_int8_are_exact_integers_by_either_way(n: int, N: int, D: int, seed: int) -> None:
    """A product of integers video by video, and one of floats for small videos, or on another device."""
    random = np.random.default_rng(seed)
    V = 3

    def bytes_of(*shape: int) -> Tensor:
        ends = random.random() < 0.3  # the largest sums that there can be
        values = random.choice([-127, 127], shape) if ends else random.integers(-127, 128, shape)
        return torch.from_numpy(values.astype(np.int8))

    tokens = Int8Tokens(bytes_of(V, N, D), torch.ones(V, N))
    texts = Texts(torch.empty(0, D), torch.empty(0, D))
    texts.__dict__["int8"] = bytes_of(5, D), torch.ones(5)  # exact numbers, where rounding would hide a wrong one
    asking = Asking(texts, torch.from_numpy(random.integers(0, 5, (V, n))))
    exact = torch.einsum("bnd,bmd->bnm", asking.int8[0].long(), tokens.codes.long())
    for large in (1, 1 << 30):
        with patch.object(module, "_LARGE", large):
            assert torch.equal(tokens.similarity(asking, torch.arange(V)).long(), exact)


@settings(deadline=None)
@given(
    values=st.lists(
        st.lists(st.floats(-(2.0**99), 2.0**99, width=32, allow_subnormal=False), min_size=3, max_size=3),
        min_size=1,
        max_size=5,
    )
)
def test_quantised_numbers_are_off_by_half_a_step_at_most(values: list[list[float]]) -> None:
    vectors = torch.tensor(values)
    codes, scale = quantise(vectors)
    assert (codes.dtype, scale.dtype, scale.shape) == (torch.int8, torch.float32, vectors.shape[:1])
    step = scale.double().unsqueeze(-1)
    error = (codes.double() * step - vectors.double()).abs()
    assert (error <= step * (0.5 + 1e-4) + 2.0**-126).all()  # below that, nothing is left of a scale
    assert (codes.abs().amax(dim=-1) == torch.where(scale > 2.0**-120, 127, codes.abs().amax(dim=-1))).all()


def test_zeros_have_no_scale_and_the_ends_are_symmetric() -> None:
    codes, scale = quantise(torch.tensor([[0.0, -0.0, 0.0], [-2.54, 2.54, 0.01]]))
    assert codes.tolist() == [[0, 0, 0], [-127, 127, 0]]
    assert scale.tolist() == pytest.approx([0.0, 0.02])


def test_more_dimensions_than_an_exact_sum_has_room_for_are_refused() -> None:
    quantise(torch.ones(1, 1040))
    with pytest.raises(ValueError, match="1041 dimensions are not exact in fp32: at most 1040"):
        quantise(torch.ones(1, 1041))


@pytest.mark.parametrize("code", CODES)
def test_what_is_moved_to_another_device_is_the_same(code: str) -> None:
    tokens, _ = tokens_of(np.random.default_rng(0), code, 3, 4, 8)
    moved = tokens.to(torch.device("cpu"))
    assert torch.equal(moved.vectors(torch.arange(3)), tokens.vectors(torch.arange(3)))

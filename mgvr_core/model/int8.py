"""The image tower in int8 on a CPU: the weights once, the activations as they come, the sums in int32.

A layer y = x W^T + b becomes, with integer codes q (0 … 255) for each row of x and v (-63 … 63) for each row of W,

    x ≈ low + step q        low = min x, step = (max x - min x) / 255, both of the row
    W ≈ scale v             scale = max |W| / 63 of the row
    y ≈ step (q v^T) scale + low sum(W) + b

Why so, and not with PyTorch's own dynamic quantisation: that is deprecated, does not reach nn.MultiheadAttention, and
takes one range for a whole batch, so that a video's features depend on the videos beside it. Here each token has its
own range. The product is oneDNN's, by the operators that torch.compile uses for quantised models.

Why 63: processors without VNNI add pairs of products in 16 bits and clip what is over. 2 x 255 x 63 is not, so every
processor finds the same integers.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from mgvr_core.errors import MgvrError
from mgvr_core.model.eercf import EERCF

ACTIVATION_CODES, WEIGHT_CODES = 255, 63
TINY = 1e-12
"""The least step: a row that is all the same has none of its own."""


def quantise(model: EERCF) -> EERCF:
    """The same model with an image tower whose linear layers run in int8; `model` itself stays as it is.

    Quantised are the layers of every block of the tower: attention's projections in and out, and both of the MLP.
    Everything else stays fp32: the patch embedding, attention's own products, norms, the projection to D, the text
    tower, the temporal encoder. Inputs and outputs are as before, fp32 with the same shapes, and every feature (video,
    frames, temporal, patches) keeps a cosine of at least 0.999 to its fp32 twin: the tests hold small models to it, and
    tests/benchmarks/bench_int8.py measures ViT-B/32 and a trained model on real frames. A frame's features depend on
    that frame alone. They are not fp32's: the fingerprint has to tell them apart.

    The result runs on a CPU, in fp32 (no autocast), for inference: it can't be moved to a GPU, trained, copied or
    saved, and weights_hash of it means nothing. Take the hash of `model`, and quantise in the process that computes.
    What is not quantised shares its memory with `model`.

    Raises MgvrError where `require_int8` does.
    """
    require_int8(model)
    # The memo stands in for copies of the weights: a second model would double the memory.
    frozen: dict[int, Any] = {id(w): nn.Parameter(w.detach(), requires_grad=False) for w in model.parameters()}
    result = copy.deepcopy(model, frozen)
    for block in result.clip.visual.transformer.resblocks:
        block.attn = _Attention(block.attn)
        block.mlp.c_fc = _Linear(block.mlp.c_fc.weight, block.mlp.c_fc.bias)
        block.mlp.c_proj = _Linear(block.mlp.c_proj.weight, block.mlp.c_proj.bias)
    return result.eval()


def require_int8(model: EERCF) -> None:
    """Raise MgvrError for a model that is not on a CPU, a tower that is not a plain ViT, a PyTorch without oneDNN."""
    if any(weight.device.type != "cpu" for weight in model.parameters()):
        raise MgvrError("int8 runs on a CPU, and the model is not on one: set the device to cpu, or take bfloat16")
    has_engine: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if not has_engine or not hasattr(torch.ops.onednn, "qlinear_pointwise"):
        raise MgvrError(f"PyTorch {torch.__version__} has no oneDNN here, and int8 needs it: set precision to float32")
    if not _is_plain(model.clip.visual):
        raise MgvrError(
            f"int8 is for plain ViT towers, and the image tower of {model.spec.name or 'this model'} is another: "
            "set precision to float32"
        )


def _is_plain(visual: nn.Module) -> bool:
    return isinstance(visual, VisionTransformer) and all(
        type(block) is ResidualAttentionBlock and isinstance(block.attn, nn.MultiheadAttention)
        for block in visual.transformer.resblocks
    )


class _Linear(nn.Module):
    """x (…, K) fp32 -> (…, N) fp32, for weight (N, K) and bias (N)."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        weight = weight.detach().float()
        # Plain attributes: oneDNN's own layout of a weight can be neither moved nor saved.
        self._scale = (weight.abs().amax(dim=1) / WEIGHT_CODES).clamp(min=TINY)  # (N)
        codes = (weight / self._scale[:, None]).round().to(torch.int8)  # (N, K)
        self._weight = torch.ops.onednn.qlinear_prepack(codes, None)
        self._zeros = torch.zeros(len(weight), dtype=torch.int64)
        # Of the codes and not of the weights: a row's `low` is multiplied by what the product is made of.
        self._tail = torch.stack([codes.sum(dim=1) * self._scale, bias.detach().float()])  # (2, N)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])  # (M, K)
        low, high = rows.aminmax(dim=1, keepdim=True)  # (M, 1)
        step = ((high - low) / ACTIVATION_CODES).clamp(min=TINY)
        codes = (rows - low).div_(step).round_().to(torch.uint8)  # (M, K)
        # A step of 1 and a zero of 0 for the operator, which takes one of each: rows get theirs after it.
        y: Tensor = torch.ops.onednn.qlinear_pointwise(
            codes, 1.0, 0, self._weight, self._scale, self._zeros, None, 1.0, 0, torch.float32, "none", [], ""
        )  # (M, N)
        y = y.mul_(step).addmm_(torch.cat([low, torch.ones_like(low)], dim=1), self._tail)
        return y.reshape(*x.shape[:-1], -1)


class _Attention(nn.Module):
    """nn.MultiheadAttention of one sequence with itself, as open_clip's blocks call it."""

    def __init__(self, attention: nn.MultiheadAttention) -> None:
        super().__init__()
        self._heads = attention.num_heads
        self._in = _Linear(attention.in_proj_weight, attention.in_proj_bias)
        self._out = _Linear(attention.out_proj.weight, attention.out_proj.bias)

    def forward(self, x: Tensor, *_: Tensor, **__: object) -> tuple[Tensor, None]:
        N, L, W = x.shape  # images, tokens, width; keys and values are x too, and an image tower has no mask
        query, key, value = (
            self._in(x).view(N, L, 3, self._heads, -1).permute(2, 0, 3, 1, 4)
        )  # (N, heads, L, W / heads)
        mixed = scaled_dot_product_attention(query, key, value)
        return self._out(mixed.transpose(1, 2).reshape(N, L, W)), None

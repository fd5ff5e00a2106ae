"""torch's own attention: by cuDNN, with the modulation as a dense bias, and with the bias as low-rank factors."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import one_hot, pad, scaled_dot_product_attention

from fame_accel.bench.dense import dense_bias
from fame_accel.bench.inputs import AttentionInputs
from fame_accel.bench.prepared import CannotRun, PreparedCall, require_memory

_EXCLUDED = -1000.0  # in place of -inf, which factors cannot give: exp of it is 0 in every dtype
NO_BIAS = "scores move toward extremes of their row, which no bias known before the call can express"


def sdpa_cudnn(inputs: AttentionInputs) -> PreparedCall:
    """Plain attention by cuDNN."""
    if inputs.device.type != "cuda":
        raise CannotRun("needs CUDA")
    if inputs.operation.excludes or inputs.operation.modulates:
        raise CannotRun("timed on plain attention alone")

    def call() -> Tensor:
        with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
            return scaled_dot_product_attention(inputs.query, inputs.key, inputs.value)

    return PreparedCall(call)


def sdpa_bias(inputs: AttentionInputs) -> PreparedCall:
    """Hard mask and decay as one dense bias, for each head."""
    if not inputs.operation.excludes:
        raise CannotRun(NO_BIAS if inputs.operation.modulates else "no bias to give")
    batch, heads, queries, _ = inputs.query.shape
    pairs, dtype = queries * inputs.shape.keys * len(inputs.query_layout.region), inputs.query.dtype
    require_memory(pairs * (dtype.itemsize + 9), inputs.device, "the bias and the indices it is made of")
    backend = SDPBackend.EFFICIENT_ATTENTION if inputs.device.type == "cuda" else SDPBackend.FLASH_ATTENTION
    kept: dict[str, Tensor] = {}

    def plan() -> None:
        kept.clear()
        kept["bias"] = dense_bias(inputs, dtype)[:, None].expand(batch, heads, -1, -1)

    def call() -> Tensor:
        with sdpa_kernel(backend):
            return scaled_dot_product_attention(inputs.query, inputs.key, inputs.value, attn_mask=kept["bias"])

    plan()
    return PreparedCall(call, plan, note=f"the bias takes {pairs * dtype.itemsize / 2**20:.0f} MiB")


def sdpa_low_rank(inputs: AttentionInputs) -> PreparedCall:
    """The bias as a product of factors, more columns of q and k (FlashBias, arXiv 2505.12044).

    Exact here: a key is one of a few kinds (bitset, frame), so q's factor holds its bias toward each kind and k's is
    the kind, one-hot.
    """
    if not inputs.operation.excludes:
        raise CannotRun(NO_BIAS if inputs.operation.modulates else "no bias to factor")
    if inputs.query_layout.batch is not None:
        raise CannotRun("as many kinds of keys as pixels have regions: written for one layout of all items")
    batch, heads, _, head_dim = inputs.query.shape
    factors: dict[str, Tensor] = {}

    def plan() -> None:
        factors.clear()
        factors.update(_factors(inputs))

    def call() -> Tensor:
        extra = [factors[name].expand(batch, heads, -1, -1) for name in ("query", "key")]
        query, key = (torch.cat([x, more], -1) for x, more in zip((inputs.query, inputs.key), extra, strict=True))
        value = pad(inputs.value, (0, query.shape[-1] - head_dim))  # the fast kernels take one width
        return scaled_dot_product_attention(query, key, value, scale=head_dim**-0.5)[..., :head_dim]

    plan()
    return PreparedCall(call, plan, note=f"head_dim {head_dim} + {factors['key'].shape[-1]}")


def _factors(inputs: AttentionInputs) -> dict[str, Tensor]:
    """query [Nq, K] and key [Nk, K] for K kinds of keys, a multiple of 8."""
    layout, keys, dtype = inputs.query_layout, inputs.key_layout, inputs.query.dtype
    tokens = torch.stack([keys.region[0], keys.frame[0]], 1)
    kinds, kind = tokens.unique(dim=0, return_inverse=True)
    same = (layout.region[0][:, None] & kinds[None, :, 0]) != 0
    table = inputs.modulation.bias_table.to(inputs.device)
    bias = table[same.long(), layout.frame[0].long()[:, None], kinds[None, :, 1].long()].clamp(min=_EXCLUDED)
    wide = math.ceil(len(kinds) / 8) * 8 - len(kinds)
    scaled = pad(bias * inputs.shape.head_dim**0.5, (0, wide)).to(dtype)
    return {"query": scaled, "key": pad(one_hot(kind, len(kinds)), (0, wide)).to(dtype)}

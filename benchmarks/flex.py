"""The same operations on torch's FlexAttention, as someone who knows it well would write them.

Hard mask with decay: block_mask for the regions, score_mod for the decay; also on tokens sorted by region, where nearly
every block is full or empty (q, k and v are sorted and the result put back inside the timed call).

Modulations that need row extremes take three calls, since a score_mod sees one score: the row maxima by max_scores of
AuxRequest, the minima as maxima of the negated scores, both with 16 columns of v to waste little on the product they
do not need, and then the attention, whose score_mod reads both. high and low are buffers that live on, so nothing is
compiled anew from call to call.

Compiled without max-autotune on a GPU, with torch's own tiles; where it has none for the head_dim (40, 80, 160), with
those it has for the next power of two (for 40 those of 128: with those of 64 these score_mods spill registers).
Elsewhere eager, which materialises the scores and returns no maxima, so that they come from the scores: enough to try
the functions out.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import AuxRequest, create_block_mask, flex_attention

from benchmarks.inputs import Inputs

# (BLOCK_M, BLOCK_N, num_warps) of torch 2.11 for half precision on Hopper, by head_dim
_TILES = {64: (128, 64, 8), 128: (128, 64, 8), 256: (64, 32, 4)}
_NARROW = 16  # columns of v that a pass for an extreme drags along; the least that Triton's tl.dot takes


def masked(inputs: Inputs, sort: bool) -> tuple[Callable[[], Tensor], Callable[[], None]]:
    """(the call, what makes its plan) for a hard mask with decay; the plan has been made."""
    attend, make_mask = _functions(inputs)
    layout, rate, per_frame = inputs.query_layout, inputs.operation.decay, inputs.shape.size**2
    bits, frames = layout.region[0].clone(), layout.frame[0].clone()
    plan: dict[str, object] = {}

    def same(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return (bits[i] & bits[j]) != 0

    def decayed(score: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return score - rate * (i // per_frame - j // per_frame).abs()

    def decayed_sorted(score: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return score - rate * (frames[i] - frames[j]).abs()

    def make() -> None:
        if sort:
            order = (layout.region[0].long() * layout.num_frames + layout.frame[0]).argsort(stable=True)
            plan["order"], plan["inverse"] = order, order.argsort()
            bits.copy_(layout.region[0][order])
            frames.copy_(layout.frame[0][order])
        plan["mask"] = make_mask(same, None, None, layout.num_tokens, layout.num_tokens, device=inputs.device)

    def call() -> Tensor:
        tensors = (inputs.query, inputs.key, inputs.value)
        if not sort:
            return attend(*tensors, score_mod=decayed, block_mask=plan["mask"])
        tensors = tuple(x.index_select(2, plan["order"]) for x in tensors)
        return attend(*tensors, score_mod=decayed_sorted, block_mask=plan["mask"]).index_select(2, plan["inverse"])

    make()
    return call, make


def three_passes(inputs: Inputs) -> Callable[[], Tensor]:
    """The call for a modulation that pulls scores to their row's extremes and excludes no pair."""
    attend, _ = _functions(inputs)
    query, key, value = inputs.query, inputs.key, inputs.value
    operation, per_frame = inputs.operation, inputs.shape.size**2
    bits_q, bits_k = inputs.query_layout.region[0], inputs.key_layout.region[0]
    strength, weight = inputs.row_strength, inputs.key_weight
    rate, on_strength = operation.decay, operation.decay_on == "strength"
    high, low = (torch.empty(query.shape[:3], device=query.device) for _ in range(2))

    def same_score(score: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return score

    def negated(score: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return -score

    def pulled(score: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        pull = strength[i]
        if weight is not None:
            pull = pull * weight[j]
        target = torch.where((bits_q[i] & bits_k[j]) != 0, high[b, h, i], low[b, h, i])
        if not rate:
            return score + pull * (target - score)
        decay = rate * (i // per_frame - j // per_frame).abs()
        if on_strength:
            return score + pull * torch.exp(-decay) * (target - score)
        return score + pull * (target - score) - decay

    def maxima(score_mod: Callable[..., Tensor], narrow: Tensor) -> Tensor:
        if query.device.type != "cuda":
            scores = query.float() @ key.float().transpose(-1, -2) * query.shape[-1] ** -0.5
            return score_mod(scores, *(None,) * 4).amax(-1)
        return attend(query, key, narrow, score_mod=score_mod, return_aux=AuxRequest(max_scores=True))[1].max_scores

    def call() -> Tensor:
        narrow = value[..., :_NARROW].contiguous()
        high.copy_(maxima(same_score, narrow))
        low.copy_(maxima(negated, narrow).neg_())
        return attend(query, key, value, score_mod=pulled)

    return call


def _functions(inputs: Inputs) -> tuple[Callable, Callable]:
    """flex_attention and create_block_mask, compiled on a GPU. Forgets what was compiled before: dynamo counts the
    variants of one function and stops compiling after eight."""
    torch.compiler.reset()
    if inputs.device.type != "cuda":
        warnings.filterwarnings("ignore", message="flex_attention called without torch.compile")
        return flex_attention, create_block_mask
    head_dim, options = inputs.shape.head_dim, None
    if head_dim & (head_dim - 1):
        block_m, block_n, num_warps = _TILES[max(64, 1 << head_dim.bit_length())]
        options = dict(BLOCK_M=block_m, BLOCK_N=block_n, num_warps=num_warps, num_stages=3)
    attend = partial(torch.compile(flex_attention, dynamic=False, fullgraph=True), kernel_options=options)
    return attend, torch.compile(create_block_mask, dynamic=False)

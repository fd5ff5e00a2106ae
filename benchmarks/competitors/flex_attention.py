"""The same operations on torch's FlexAttention, written with care for its speed.

Hard mask with decay: block_mask for the regions, score_mod for the decay; also on tokens sorted by region, where nearly
every block is full or empty (q, k and v are sorted and the result put back inside the timed call).

Modulations that need row extremes take passes before the attention, since a score_mod sees one score. On a GPU those
are calls of FlexAttention: the row maxima by max_scores of AuxRequest, the minima as maxima of the negated scores, both
with 16 columns of v to waste little on the product they do not need. On a CPU FlexAttention gives no maxima, and they
come from the scores, a head at a time. high and low are buffers that live on, so nothing is compiled anew from call to
call.

Compiled without max-autotune, on a GPU with torch's own tiles; where it has none for the head_dim (40, 80, 160), with
those it has for the next power of two (for 40 those of 128: with those of 64 these score_mods spill registers).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import AuxRequest, create_block_mask, flex_attention

from fame_accel.bench.inputs import AttentionInputs
from fame_accel.bench.prepared import CannotRun, PreparedCall

# (BLOCK_M, BLOCK_N, num_warps) of torch 2.11 for half precision on Hopper, by head_dim
_TILES = {64: (128, 64, 8), 128: (128, 64, 8), 256: (64, 32, 4)}
compiled = torch.compile  # without it FlexAttention materializes the scores
_NARROW = 16  # columns of v in a pass for an extreme; the least that Triton's tl.dot takes


def flex(inputs: AttentionInputs) -> PreparedCall:
    """Tokens in their own order."""
    _refuse(inputs, "flex_three_pass does it")
    return _masked(inputs, ordered=False)


def flex_sorted(inputs: AttentionInputs) -> PreparedCall:
    """Tokens sorted by region."""
    _refuse(inputs, "flex_three_pass does it")
    if not inputs.operation.excludes:
        raise CannotRun("no mask: nothing to gain from an order")
    return _masked(inputs, ordered=True)


def flex_three_pass(inputs: AttentionInputs) -> PreparedCall:
    """Passes for the row maxima and minima, then the attention."""
    _refuse(inputs, "")
    if not inputs.operation.modulates:
        raise CannotRun("flex does it in one pass")
    return _three_passes(inputs)


def _refuse(inputs: AttentionInputs, instead: str) -> None:
    """Raise CannotRun for what FlexAttention does not do; `instead` says what does it where one pass is too few."""
    if inputs.shape.motion:
        raise CannotRun("not tried: sequences of a few frames leave its blocks of 128 nearly empty")
    if instead and inputs.operation.modulates:
        raise CannotRun(f"a score_mod sees one score, not the extremes of its row: {instead}")


def _masked(inputs: AttentionInputs, ordered: bool) -> PreparedCall:
    """Plain attention, or a hard mask with decay."""
    attend, make_mask = _functions(inputs)
    if not inputs.operation.excludes:
        return PreparedCall(lambda: attend(inputs.query, inputs.key, inputs.value))
    layout, rate, per_frame = inputs.query_layout, inputs.operation.decay, inputs.shape.height * inputs.shape.width
    bits, frames = layout.region[0].clone(), layout.frame[0].clone()
    plan: dict[str, object] = {}
    tensors = (inputs.query, inputs.key, inputs.value)

    def same(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return (bits[i] & bits[j]) != 0

    def decayed(score: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return score - rate * (i // per_frame - j // per_frame).abs()

    def decayed_sorted(score: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return score - rate * (frames[i] - frames[j]).abs()

    def make() -> None:
        if ordered:
            order = (layout.region[0].long() * layout.num_frames + layout.frame[0]).argsort(stable=True)
            plan["order"], plan["inverse"] = order, order.argsort()
            bits.copy_(layout.region[0][order])
            frames.copy_(layout.frame[0][order])
        plan["mask"] = make_mask(same, None, None, layout.num_tokens, layout.num_tokens, device=inputs.device)

    def sort() -> list[Tensor]:
        return [x.index_select(2, plan["order"]) for x in tensors]

    def put_back(out: Tensor) -> Tensor:
        return out.index_select(2, plan["inverse"])

    make()
    if not ordered:
        return PreparedCall(lambda: attend(*tensors, score_mod=decayed, block_mask=plan["mask"]), make)
    return PreparedCall(
        lambda: put_back(attend(*sort(), score_mod=decayed_sorted, block_mask=plan["mask"])), make,
        sort=lambda: put_back(sort()[0]), note="sorting and putting back are part of the time",
    )  # fmt: skip


def _three_passes(inputs: AttentionInputs) -> PreparedCall:
    """For a modulation that moves scores toward their row's extremes and excludes no pair."""
    attend, _ = _functions(inputs)
    query, key, value = inputs.query, inputs.key, inputs.value
    operation, per_frame = inputs.operation, inputs.shape.height * inputs.shape.width
    bits_q, bits_k = inputs.query_layout.region[0], inputs.key_layout.region[0]
    strength, weight = inputs.row_strength, inputs.key_weight
    rate, on_strength = operation.decay, operation.decay_on == "strength"
    high, low = (torch.empty(query.shape[:3], device=query.device) for _ in range(2))

    def same_score(score: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return score

    def negated(score: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return -score

    def modulated(score: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        share = strength[i]
        if weight is not None:
            share = share * weight[j]
        target = torch.where((bits_q[i] & bits_k[j]) != 0, high[b, h, i], low[b, h, i])
        if not rate:
            return score + share * (target - score)
        decay = rate * (i // per_frame - j // per_frame).abs()
        if on_strength:
            return score + share * torch.exp(-decay) * (target - score)
        return score + share * (target - score) - decay

    def maxima(score_mod: Callable[..., Tensor], narrow: Tensor) -> Tensor:
        return attend(query, key, narrow, score_mod=score_mod, return_aux=AuxRequest(max_scores=True))[1].max_scores

    def extremes_by_flex() -> None:
        narrow = value[..., :_NARROW].contiguous()
        high.copy_(maxima(same_score, narrow))
        low.copy_(maxima(negated, narrow).neg_())

    def extremes_of_scores() -> None:
        scale = inputs.shape.head_dim**-0.5
        for head in range(query.shape[1]):
            scores = query[:, head].float() @ key[:, head].float().transpose(-1, -2)
            torch.mul(scores.amax(-1), scale, out=high[:, head])
            torch.mul(scores.amin(-1), scale, out=low[:, head])

    extremes = extremes_by_flex if query.device.type == "cuda" else extremes_of_scores

    def call() -> Tensor:
        extremes()
        return attend(query, key, value, score_mod=modulated)

    return PreparedCall(
        call,
        note="maxima, minima, attention" if query.device.type == "cuda" else "extremes of the scores, then attention",
    )


def _functions(inputs: AttentionInputs) -> tuple[Callable, Callable]:
    """flex_attention and create_block_mask, compiled."""
    head_dim, options = inputs.shape.head_dim, None
    if inputs.device.type == "cuda" and head_dim & (head_dim - 1):
        block_m, block_n, num_warps = _TILES[max(64, 1 << head_dim.bit_length())]
        options = dict(BLOCK_M=block_m, BLOCK_N=block_n, num_warps=num_warps, num_stages=3)
    attend = partial(compiled(flex_attention, dynamic=False, fullgraph=True), kernel_options=options)
    return attend, compiled(create_block_mask, dynamic=False)

"""The formula on dense matrices, as VideoGrain runs it, and torch.compile of the same.

VideoGrain keeps a mask [N, N] a resolution and runs self-attention over all frames one head at a time, for its memory;
cross-attention and short sequences fit at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from fame_accel.bench.inputs import Inputs
from fame_accel.bench.providers.prepared import CannotRun, Prepared
from fame_accel.tools.measure import free_bytes

# N x N matrices that a head's call holds at most, masks and how far they raise and lower included: measured
_PLAIN, _BIASED, _PULLED = 2.1, 3.1, 7.1
_ROWS = 256  # of masks that are made at once


def eager(inputs: Inputs) -> Prepared:
    return _dense(inputs, dense_formula)


def compiled(inputs: Inputs) -> Prepared:
    return _dense(inputs, torch.compile(dense_formula, dynamic=False))


def _dense(inputs: Inputs, formula: Callable[..., Tensor]) -> Prepared:
    _refuse_too_large(inputs)
    masks: dict[str, Tensor] = {}

    def plan() -> None:
        masks.clear()
        masks.update(dense_masks(inputs))

    plan()
    step = "at once" if _at_once(inputs) else "one at a time"
    return Prepared(lambda: dense_attention(inputs, masks, formula), plan if masks else None, note=f"heads {step}")


def dense_attention(inputs: Inputs, masks: dict[str, Tensor], formula: Callable[..., Tensor]) -> Tensor:
    """`formula`, or what it was compiled to, with the masks that `dense_masks` made: [B, H, Nq, D]."""
    x = inputs
    out = torch.empty_like(x.query)
    raised, lowered = _strengths(inputs, masks)
    for place in _slices(inputs):
        tensors = (x.query[place], x.key[place], x.value[place])
        out[place] = formula(*tensors, raised, lowered, masks.get("bias"), masks.get("hidden"))
    return out


def dense_formula(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    raised: Tensor | None,
    lowered: Tensor | None,
    bias: Tensor | None,
    hidden: Tensor | None,
) -> Tensor:
    """In place, with the scale inside the product, as VideoGrain's code has it."""
    batch, heads, queries, head_dim = query.shape
    scores = torch.baddbmm(
        query.new_empty(()).expand(batch * heads, queries, key.shape[2]), query.flatten(0, 1),
        key.flatten(0, 1).transpose(-1, -2), beta=0, alpha=head_dim**-0.5,
    ).view(batch, heads, queries, -1)  # fmt: skip
    if raised is not None:
        highest, lowest = _extremes(scores, hidden)
        scores += raised * (highest - scores)
        scores -= lowered * (scores - lowest)
    if bias is not None:
        scores += bias
    return scores.softmax(-1) @ value


def dense_bias(inputs: Inputs, dtype: torch.dtype) -> Tensor:
    """B of every pair, [1 or B, Nq, Nk]."""
    return _at_pairs(inputs, inputs.modulation.bias_table, dtype)


def _at_pairs(inputs: Inputs, table: Tensor, dtype: torch.dtype) -> Tensor:
    """table [2, Fq, Fk] at every pair, [1 or B, Nq, Nk]; by rows, as the indices take more than the result."""
    x = inputs
    table = table.to(x.device, dtype)
    same = _same(inputs)
    found = same.new_empty(same.shape, dtype=dtype)
    query_frame, key_frame = x.query_layout.frame.long()[:, :, None], x.key_layout.frame.long()[:, None, :]
    for row in range(0, same.shape[1], _ROWS):
        rows = slice(row, row + _ROWS)
        found[:, rows] = table[same[:, rows].long(), query_frame[:, rows], key_frame]
    return found


def _same(inputs: Inputs) -> Tensor:
    """bool [1 or B, Nq, Nk]"""
    return (inputs.query_layout.region[:, :, None] & inputs.key_layout.region[:, None, :]) != 0


def dense_masks(inputs: Inputs) -> dict[str, Tensor]:
    """Of all pairs, [1 or B, 1, Nq, Nk] in the inputs' dtype: same, strength and bias as far as the operation has them;
    hidden (bool): pairs that the bias excludes."""
    x, dtype = inputs, inputs.query.dtype
    masks: dict[str, Tensor] = {}
    if x.operation.pulled:
        masks["same"] = _same(inputs)[:, None].to(dtype)
        table = x.modulation.strength_table
        if bool((table != 1).any()):
            masks["strength"] = _at_pairs(inputs, table, dtype)[:, None]
    if x.modulation is not None and x.modulation.bias_table is not None:
        masks["bias"] = dense_bias(inputs, dtype)[:, None]
        hidden = masks["bias"] == -math.inf
        if x.operation.pulled and bool(hidden.any()):
            masks["hidden"] = hidden
    return masks


def _strengths(inputs: Inputs, masks: dict[str, Tensor]) -> tuple[Tensor | None, Tensor | None]:
    """How far pairs of the same region are raised, and the others lowered: they change with the timestep."""
    if "same" not in masks:
        return None, None
    dtype = inputs.query.dtype
    strength = torch.atleast_2d(inputs.row_strength).to(dtype)[:, None, :, None]
    if inputs.key_weight is not None:
        strength = strength * inputs.key_weight.to(dtype)
    if "strength" in masks:
        strength = strength * masks["strength"]
    return masks["same"] * strength, (1 - masks["same"]) * strength


def _extremes(scores: Tensor, hidden: Tensor | None) -> tuple[Tensor, Tensor]:
    if hidden is None:
        return scores.amax(-1, keepdim=True), scores.amin(-1, keepdim=True)
    high = scores.masked_fill(hidden, -math.inf).amax(-1, keepdim=True)
    return high, scores.masked_fill(hidden, math.inf).amin(-1, keepdim=True)


def _at_once(inputs: Inputs) -> bool:
    return inputs.shape.text is not None or inputs.shape.motion


def _slices(inputs: Inputs) -> Iterator[tuple[slice, slice]]:
    batch, heads = inputs.query.shape[:2]
    if _at_once(inputs):
        yield slice(None), slice(None)
        return
    for item in range(batch):
        for head in range(heads):
            yield slice(item, item + 1), slice(head, head + 1)


def _refuse_too_large(inputs: Inputs) -> None:
    shape = inputs.shape
    heads = shape.items * shape.heads if _at_once(inputs) else 1
    matrices = _PULLED if inputs.operation.pulled else _BIASED if inputs.operation.hard else _PLAIN
    size = int(matrices * heads * shape.queries * shape.keys * inputs.query.element_size())
    require_memory(size, inputs.device, "N x N matrices")


def require_memory(size: int, device: torch.device, what: str) -> None:
    """CannotRun where `size` bytes are not free."""
    free = free_bytes(device)
    if free is not None and size > free:
        raise CannotRun(f"out of memory: {what} take about {size / 2**30:.0f} GiB, {free / 2**30:.0f} are free")

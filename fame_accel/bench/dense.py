"""The formula on dense matrices, as VideoGrain runs it.

VideoGrain keeps a mask [N, N] for each resolution. It runs self-attention over all frames one head at a time, to save
memory; cross-attention and short sequences run all heads at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from fame_accel.bench.inputs import AttentionInputs
from fame_accel.bench.prepared import PreparedCall, require_memory

# N x N matrices that the call of a head holds at most, its masks and strengths included: measured
_PLAIN, _BIASED, _MODULATED = 2.1, 3.1, 7.1


def eager(inputs: AttentionInputs) -> PreparedCall:
    """The formula as VideoGrain runs it, in the dtype of the inputs."""
    return dense(inputs, dense_formula)


def dense(inputs: AttentionInputs, formula: Callable[..., Tensor]) -> PreparedCall:
    """The call of `dense_formula`, or of what it was compiled to, with masks that are kept from call to call.

    Raises:
        CannotRun: its N x N matrices would not fit the memory.
    """
    heads = inputs.shape.items * inputs.shape.heads if _all_heads_at_once(inputs) else 1
    matrices = _MODULATED if inputs.operation.modulates else _BIASED if inputs.operation.excludes else _PLAIN
    size = matrices * heads * inputs.shape.queries * inputs.shape.keys * inputs.query.element_size()
    require_memory(int(size), inputs.device, "N x N matrices")
    masks: dict[str, Tensor] = {}

    def plan() -> None:
        masks.clear()
        masks.update(dense_masks(inputs))

    plan()
    note = "heads at once" if _all_heads_at_once(inputs) else "heads one at a time"
    return PreparedCall(lambda: dense_attention(inputs, masks, formula), plan if masks else None, note=note)


def dense_attention(inputs: AttentionInputs, masks: dict[str, Tensor], formula: Callable[..., Tensor]) -> Tensor:
    """Call `formula` with the masks that `dense_masks` made: [B, H, Nq, D]."""
    x = inputs
    out = torch.empty_like(x.query)
    raised, lowered = _strengths(inputs, masks)
    for one in _slices(inputs):
        tensors = (x.query[one], x.key[one], x.value[one])
        out[one] = formula(*tensors, raised, lowered, masks.get("bias"))
    return out


def dense_formula(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    raised: Tensor | None,
    lowered: Tensor | None,
    bias: Tensor | None,
) -> Tensor:
    """Attention by the formula, with the scale inside the product and scores changed in place, as VideoGrain does.

    Args:
        query: [B, H, Nq, D].
        key: [B, H, Nk, D].
        value: [B, H, Nk, D].
        raised: how far scores move toward their row's maximum, broadcast to [B, H, Nq, Nk].
        lowered: how far they move toward its minimum, likewise.
        bias: added to the scores, likewise.
    """
    batch, heads, queries, head_dim = query.shape
    scores = torch.baddbmm(
        query.new_empty(()).expand(batch * heads, queries, key.shape[2]), query.flatten(0, 1),
        key.flatten(0, 1).transpose(-1, -2), beta=0, alpha=head_dim**-0.5,
    ).view(batch, heads, queries, -1)  # fmt: skip
    if raised is not None and lowered is not None:
        highest, lowest = scores.amax(-1, keepdim=True), scores.amin(-1, keepdim=True)
        scores += raised * (highest - scores)
        scores -= lowered * (scores - lowest)
    if bias is not None:
        scores += bias
    return scores.softmax(-1) @ value


def dense_bias(inputs: AttentionInputs, dtype: torch.dtype) -> Tensor:
    """The bias of every pair, [1 or B, Nq, Nk]; the modulation must have a bias table."""
    assert inputs.modulation is not None and inputs.modulation.bias_table is not None
    return _at_pairs(inputs, inputs.modulation.bias_table, dtype)


def _at_pairs(inputs: AttentionInputs, table: Tensor, dtype: torch.dtype) -> Tensor:
    """A table [2, Fq, Fk] at every pair, [1 or B, Nq, Nk]."""
    different, same = table.to(inputs.device, dtype).unbind()
    frames = (inputs.query_layout.frame.long()[:, :, None], inputs.key_layout.frame.long()[:, None, :])
    return torch.where(_same(inputs), same[frames], different[frames])


def _same(inputs: AttentionInputs) -> Tensor:
    """Whether tokens share a region, bool [1 or B, Nq, Nk]."""
    return (inputs.query_layout.region[:, :, None] & inputs.key_layout.region[:, None, :]) != 0


def dense_masks(inputs: AttentionInputs) -> dict[str, Tensor]:
    """Masks of all pairs, [1 or B, 1, Nq, Nk] in the inputs' dtype: "same", "strength" and "bias", as far as the
    operation has them. An operation that modulates must exclude no pair."""
    x, dtype = inputs, inputs.query.dtype
    masks: dict[str, Tensor] = {}
    if x.operation.modulates:
        masks["same"] = _same(inputs)[:, None].to(dtype)
    table = None if x.modulation is None else x.modulation.strength_table
    if table is not None and x.operation.modulates and not torch.equal(table, torch.ones_like(table)):
        masks["strength"] = _at_pairs(inputs, table, dtype)[:, None]
    if x.modulation is not None and x.modulation.bias_table is not None:
        masks["bias"] = dense_bias(inputs, dtype)[:, None]
    return masks


def _strengths(inputs: AttentionInputs, masks: dict[str, Tensor]) -> tuple[Tensor | None, Tensor | None]:
    """How far pairs of the same region are raised and the others lowered; this changes with the timestep."""
    if "same" not in masks or inputs.row_strength is None:
        return None, None
    dtype = inputs.query.dtype
    strength = torch.atleast_2d(inputs.row_strength).to(dtype)[:, None, :, None]
    if inputs.key_weight is not None:
        strength = strength * inputs.key_weight.to(dtype)
    if "strength" in masks:
        strength = strength * masks["strength"]
    return masks["same"] * strength, (1 - masks["same"]) * strength


def _all_heads_at_once(inputs: AttentionInputs) -> bool:
    return inputs.shape.text is not None or inputs.shape.motion


def _slices(inputs: AttentionInputs) -> Iterator[tuple[slice, slice]]:
    """The batch items and heads of each call of the formula."""
    batch, heads = inputs.query.shape[:2]
    if _all_heads_at_once(inputs):
        yield slice(None), slice(None)
        return
    for item in range(batch):
        for head in range(heads):
            yield slice(item, item + 1), slice(head, head + 1)

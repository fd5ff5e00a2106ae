"""The operator on the Triton kernels over the pure tiles of a plan."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from .device import family, precision, require, run
from .library import declare, empty_outputs

if TYPE_CHECKING:
    from fame_accel.kernels.launch import Launch


def tile_shape(
    device: torch.device, dtype: torch.dtype, head_dim: int, modulated: bool, one_pass: bool
) -> tuple[int, int]:
    """(block_q, block_k) to which a plan for `tile_attention` with these arguments is best cut."""
    launch = _launch(device, head_dim, dtype.itemsize, modulated, one_pass)
    return launch.block_q, launch.block_k


class TileBuffers(NamedTuple):
    """What a call of `tile_attention` allocates.

    Attributes:
        out, lse: as `empty_outputs` makes them.
        packed_k, packed_v: [B, H, Nk, width], keys and values in the plan's order.
        high, low: float32 [B, H, Nq], the extremes of the logits; None without strength.
        parked, group_lse: float32 [B, H, Nq, width] and [B, H, Nq], the results of the first group; of one pass.
        again: int32 [tiles * B * H], the tiles to do again; of two passes.
    """

    out: Tensor
    lse: Tensor
    packed_k: Tensor
    packed_v: Tensor
    high: Tensor | None = None
    low: Tensor | None = None
    parked: Tensor | None = None
    group_lse: Tensor | None = None
    again: Tensor | None = None


def allocate_buffers(query: Tensor, key: Tensor, num_tiles: int, modulated: bool, one_pass: bool) -> TileBuffers:
    """The buffers of a call with `num_tiles` query tiles."""
    from fame_accel.kernels.launch import split_head_dim

    out, lse = empty_outputs(query)
    width = sum(split_head_dim(query.shape[-1]))
    packed_k, packed_v = (key.new_empty(*key.shape[:3], width) for _ in range(2))
    if not modulated:
        return TileBuffers(out, lse, packed_k, packed_v)
    high, low = torch.empty_like(lse), torch.empty_like(lse)
    if one_pass:
        parked, group_lse = lse.new_empty(*lse.shape, width), torch.empty_like(lse)
        return TileBuffers(out, lse, packed_k, packed_v, high, low, parked, group_lse)
    again = lse.new_empty(num_tiles * lse.shape[0] * lse.shape[1], dtype=torch.int32)
    return TileBuffers(out, lse, packed_k, packed_v, high, low, again=again)


def _tile_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    query_order: Tensor,
    key_order: Tensor,
    tiles: Tensor,
    pair_span: Tensor,
    pair_value: Tensor,
    row_strength: Tensor | None,
    key_weight: Tensor | None,
    scale: float,
    modulated: bool,
    one_pass: bool,
    strength_other: float,
    strength_same: float,
    max_bias: float,
    block_q: int,
    block_k: int,
    exact_lse: bool,
) -> tuple[Tensor, Tensor]:
    """Layout attention over the pure tiles of a plan cut to block_q and block_k; see kernels/attention.py for shapes.

    Without exact_lse, lse is as exact as the query's dtype where that is cheaper.
    """
    require(query)
    from fame_accel.kernels.attention import attention_call
    from fame_accel.kernels.extremes import extremes_call
    from fame_accel.kernels.launch import split_head_dim
    from fame_accel.kernels.modulated import modulated_call
    from fame_accel.kernels.one_pass import one_pass_call
    from fame_accel.kernels.pack import pack_call

    # the plan's blocks, whatever the table has come to say since
    launch = _launch(query.device, query.shape[-1], query.element_size(), modulated, one_pass)
    launch = launch._replace(block_q=block_q, block_k=block_k)
    width = sum(split_head_dim(query.shape[-1]))
    if key.shape[2] * width >= 2**31:
        raise ValueError(
            f"key has {key.shape[2]} tokens, the kernels take fewer than {2**31 // width} of {width} channels "
            "(head_dim padded): split the keys and merge by lse"
        )
    product_precision = precision(query.dtype)
    buffers = allocate_buffers(query, key, tiles.shape[1], modulated, one_pass)
    out, lse, packed_k, packed_v, high, low, parked, group_lse, again = buffers
    run(pack_call(key, value, packed_k, packed_v, key_order), query)
    plan = (query_order, tiles, pair_span, pair_value)
    if not modulated:
        run(
            attention_call(query, packed_k, packed_v, out, lse, *plan, scale, product_precision, launch, exact_lse),
            query,
        )
        return out, lse
    tensors = (query, packed_k, packed_v, out, lse, high, low)
    if one_pass:
        for last in (False, True):
            run(one_pass_call(
                *tensors, parked, group_lse, row_strength, *plan,
                strength_same, strength_other, scale, product_precision, last, launch, exact_lse,
            ), query)  # fmt: skip
        return out, lse
    if key_weight is not None:
        items = max(len(key_weight), len(key_order))
        key_weight = key_weight.expand(items, -1).gather(1, key_order.expand(items, -1).long())
    run(extremes_call(query, packed_k, high, low, *plan[:3], product_precision, launch), query)
    for pinned in (True, False):
        run(modulated_call(
            *tensors, row_strength, key_weight, again, *plan, max_bias, scale, product_precision, pinned, launch,
            exact_lse,
        ), query)  # fmt: skip
    return out, lse


def _launch(device: torch.device, head_dim: int, element_size: int, modulated: bool, one_pass: bool) -> Launch:
    from fame_accel.kernels.launch_table import choose_launch, planned_kernel

    launch = choose_launch(planned_kernel(modulated, one_pass), family(device), head_dim, element_size)
    assert launch is not None  # only few_keys may have none
    return launch


tile_attention = declare(
    "tile_attention",
    "Tensor query, Tensor key, Tensor value, Tensor query_order, Tensor key_order, Tensor tiles, "
    "Tensor pair_span, Tensor pair_value, Tensor? row_strength, Tensor? key_weight, float scale, bool modulated, "
    "bool one_pass, float strength_other, float strength_same, float max_bias, SymInt block_q, SymInt block_k, "
    "bool exact_lse",
    _tile_attention,
    ("CUDA", "CPU"),
)

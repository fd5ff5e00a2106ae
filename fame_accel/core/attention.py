"""layout_attention: the public operator and its choice of backend."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fame_accel import bindings
from fame_accel.core import reference
from fame_accel.core.layout import TokenLayout
from fame_accel.core.modulation import Modulation
from fame_accel.core.named import by_name
from fame_accel.core.planning import GroupPlan, Tables, TilePlan, group_plan, merge_frames, tile_plan
from fame_accel.core.validation import Arguments, check

UNPLANNED_KEYS = 512  # of one frame, that are attended to without a plan
# Sequences and batches of the short-sequences kernel: from SHORT_BATCH items, the most that one of its programs holds,
# its programs are full; fewer items go to the other kernels, which divide a single item among programs.
SHORT_SEQUENCE, SHORT_BATCH = 32, 4
BACKENDS = ("auto", "triton", "sdpa", "reference")


def layout_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    query_layout: TokenLayout,
    key_layout: TokenLayout | None = None,
    modulation: Modulation | None = None,
    *,
    row_strength: Tensor | None = None,
    key_weight: Tensor | None = None,
    scale: float | None = None,
    return_lse: bool = False,
    backend: str = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """Attention modulated by regions and frames.

    With s = scale * <q_i, k_j>, same = (region_i & region_j) != 0 and the extremes of s over the keys j whose bias
    is above -inf:

        a_ij  = row_strength_i * key_weight_j * A[same, frame_i, frame_j]
        z_ij  = s_ij + a_ij * ((max_j s_ij if same else min_j s_ij) - s_ij) + B[same, frame_i, frame_j]
        out_i = softmax_j(z_ij) @ v                  0, with lse -inf, where every key is excluded

    query: [B, H, Nq, D]; key, value: [B, H, Nk, D]; float16, bfloat16 or float32 (float64 with
        backend="reference"), one dtype and device, any strides, D from 1 to 256.
    query_layout, key_layout: regions and frames of the tokens; key_layout defaults to query_layout.
    modulation: the tables A (strength) and B (bias); None is plain attention.
    row_strength: [Nq] or [B, Nq] in [0, 1], default 1. key_weight: [Nk] or [B, Nk] in [0, 1], default 1.
    scale: finite and > 0, default D ** -0.5.
    backend: "triton" (fused kernels), "sdpa" (torch's own attention, any device), "reference" (eager, N x N) or
        "auto" (triton on GPUs where it is installed, otherwise sdpa). A named backend is never swapped.

    Returns out [B, H, Nq, D] in the query's dtype and, with return_lse, lse [B, H, Nq] float32, natural log.
    Raises TypeError, ValueError or RuntimeError naming the argument. Forward only: inputs that require grad raise.
    On CUDA, row_strength and key_weight out of range are reported by the device, without a synchronisation.
    After FAME (arXiv 2510.22960) and VideoGrain (arXiv 2502.17258).
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, got {backend!r}")
    arguments = check(
        query, key, value, query_layout, key_layout, modulation, row_strength, key_weight, scale,
        doubles=backend == "reference",
    )  # fmt: skip
    if backend == "auto":
        on_gpu = query.device.type == "cuda" and bindings.triton_unavailable(query.device, query.dtype) is None
        backend = "triton" if on_gpu else "sdpa"
    if backend == "triton":
        reason = bindings.triton_unavailable(query.device, query.dtype)
        if reason is not None:
            raise RuntimeError(f"backend='triton' cannot run here: {reason}")
    if 0 in (*query.shape, *key.shape):  # no row, or no key for any row
        out, lse = torch.zeros_like(query), query.new_full(query.shape[:3], -math.inf, dtype=torch.float32)
    else:
        out, lse = _RUN[backend](arguments, return_lse)
    return (out, lse) if return_lse else out


def _triton(x: Arguments, exact_lse: bool) -> tuple[Tensor, Tensor]:
    layouts = (x.query_layout.name, x.key_layout.name, x.modulation.name)
    if _many_short_sequences(x.query, x.key):
        query_frame, key_frame = _frames(*layouts[:2])
        return bindings.short_sequences_attention(
            x.query, x.key, x.value, x.query_layout.region, query_frame, x.key_layout.region, key_frame,
            *_frame_tables(*layouts), x.row_strength, x.key_weight, x.scale,
        )  # fmt: skip
    if x.key.shape[2] <= UNPLANNED_KEYS and _tables(*layouts).key_classes == 1:
        strength, bias = _frame_tables(*layouts)
        return bindings.few_keys_attention(
            x.query, x.key, x.value, x.query_layout.region, x.query_layout.frame, x.key_layout.region,
            _first_key_frame(strength), _first_key_frame(bias), x.row_strength, x.key_weight, x.scale,
        )  # fmt: skip
    tables = _tables(*layouts)
    way = (tables.strength is not None, tables.strength_pair is not None and x.key_weight is None)
    blocks = bindings.tile_shape(x.query.device, x.query.dtype, x.query.shape[-1], *way)
    plan = _tile_plan(*layouts, *blocks)
    return bindings.tile_attention(
        x.query, x.key, x.value, plan.query_order, plan.key_order, plan.tiles, plan.pair_span, plan.pair_value,
        x.row_strength, x.key_weight, x.scale, *way, *(tables.strength_pair or (0.0, 0.0)), plan.most_bias,
        plan.block_q, plan.block_k, exact_lse,
    )  # fmt: skip


def _many_short_sequences(query: Tensor, key: Tensor) -> bool:
    """Motion modules: a batch of pixels, whose tokens are a few frames. float32 rows past 160 would not fit every
    chip's shared memory."""
    fits = query.shape[-1] * query.element_size() <= 640
    return fits and query.shape[0] >= SHORT_BATCH and max(query.shape[2], key.shape[2]) <= SHORT_SEQUENCE


def _sdpa(x: Arguments, with_lse: bool) -> tuple[Tensor, Tensor]:
    layouts = (x.query_layout.name, x.key_layout.name, x.modulation.name)
    tables = _tables(*layouts)
    if tables.strength is None or (x.key_weight is None and x.key.shape[2] > UNPLANNED_KEYS):
        plan = _group_plan(*layouts)
        if plan is not None:
            return bindings.grouped_attention(
                x.query, x.key, x.value, plan.query.order, plan.key.order, plan.query.table, plan.key.table,
                tables.strength, tables.bias, x.row_strength, x.scale, with_lse,
            )  # fmt: skip
    strength, bias = _frame_tables(*layouts)
    return bindings.chunked_attention(
        x.query, x.key, x.value, x.query_layout.region, x.query_layout.frame, x.key_layout.region,
        x.key_layout.frame, strength, bias, x.row_strength, x.key_weight, x.scale, with_lse,
    )  # fmt: skip


def _reference(x: Arguments, with_lse: bool) -> tuple[Tensor, Tensor]:
    return reference.evaluate(x)


_RUN = {"triton": _triton, "sdpa": _sdpa, "reference": _reference}


# Plans are made once per pair of layouts and modulation and kept on the query's layout. To torch.compile they are
# constants: it runs these functions while tracing, which take the names of the layouts and of the modulation.


@torch.compiler.assume_constant_result
def _tables(query: str, key: str, modulation: str) -> Tables:
    query_layout, key_layout, tables = map(by_name, (query, key, modulation))
    frames = (query_layout.num_frames, key_layout.num_frames)
    return query_layout.cached(("tables", frames, tables), lambda: merge_frames(tables, *frames))


@torch.compiler.assume_constant_result
def _tile_plan(query: str, key: str, modulation: str, block_q: int, block_k: int) -> TilePlan:
    query_layout, key_layout = by_name(query), by_name(key)
    return query_layout.cached(
        ("tiles", key_layout, by_name(modulation), block_q, block_k),
        lambda: tile_plan(query_layout, key_layout, _tables(query, key, modulation), block_q, block_k),
    )


@torch.compiler.assume_constant_result
def _group_plan(query: str, key: str, modulation: str) -> GroupPlan | None:
    query_layout, key_layout = by_name(query), by_name(key)
    return query_layout.cached(
        ("groups", key_layout, by_name(modulation)),
        lambda: group_plan(query_layout, key_layout, _tables(query, key, modulation)),
    )


@torch.compiler.assume_constant_result
def _frame_tables(query: str, key: str, modulation: str) -> tuple[Tensor | None, Tensor | None]:
    """Strength and bias [2, Fq, Fk] on the layouts' device, None where zero everywhere."""
    layout, modulation = by_name(query), by_name(modulation)

    def build() -> tuple[Tensor | None, Tensor | None]:
        tables = (modulation.strength_table, modulation.bias_table)
        return tuple(t.to(layout.device) if t is not None and bool(t.any()) else None for t in tables)

    return layout.cached(("frame tables", modulation), build)


@torch.compiler.assume_constant_result
def _frames(query: str, key: str) -> tuple[Tensor, Tensor]:
    """Frames of both sides, [1, N] where all items have the same, as pixels do."""

    def shared(layout: TokenLayout) -> Tensor:
        one = layout.frame[:1]
        return layout.cached("frames", lambda: one if bool((layout.frame == one).all()) else layout.frame)

    return shared(by_name(query)), shared(by_name(key))


def _first_key_frame(table: Tensor | None) -> Tensor | None:
    return None if table is None else table[:, :, 0].contiguous()

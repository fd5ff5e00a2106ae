"""layout_attention: the public operation."""

from __future__ import annotations

from typing import Literal, overload

from torch import Tensor

from fame_accel.core.backend import resolve_backend
from fame_accel.core.checks import check_choice, check_flag
from fame_accel.core.dispatch import empty_result, layout_attention_op, run_plan
from fame_accel.core.layout import TokenLayout
from fame_accel.core.limits import BACKENDS
from fame_accel.core.modulation import Modulation
from fame_accel.core.planning import AttentionPlan, find_plan
from fame_accel.core.tracing import call_operator, is_recorded
from fame_accel.core.validation import Call, check_call, check_factors, check_scale, check_tensors


@overload
def layout_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    query_layout: TokenLayout | None = None,
    key_layout: TokenLayout | None = None,
    modulation: Modulation | None = None,
    *,
    row_strength: Tensor | None = None,
    key_weight: Tensor | None = None,
    scale: float | None = None,
    return_lse: Literal[False] = False,
    backend: str = "auto",
    plan: AttentionPlan | None = None,
) -> Tensor: ...
@overload
def layout_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    query_layout: TokenLayout | None = None,
    key_layout: TokenLayout | None = None,
    modulation: Modulation | None = None,
    *,
    row_strength: Tensor | None = None,
    key_weight: Tensor | None = None,
    scale: float | None = None,
    return_lse: Literal[True],
    backend: str = "auto",
    plan: AttentionPlan | None = None,
) -> tuple[Tensor, Tensor]: ...
@overload
def layout_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    query_layout: TokenLayout | None = None,
    key_layout: TokenLayout | None = None,
    modulation: Modulation | None = None,
    *,
    row_strength: Tensor | None = None,
    key_weight: Tensor | None = None,
    scale: float | None = None,
    return_lse: bool,
    backend: str = "auto",
    plan: AttentionPlan | None = None,
) -> Tensor | tuple[Tensor, Tensor]: ...
def layout_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    query_layout: TokenLayout | None = None,
    key_layout: TokenLayout | None = None,
    modulation: Modulation | None = None,
    *,
    row_strength: Tensor | None = None,
    key_weight: Tensor | None = None,
    scale: float | None = None,
    return_lse: bool = False,
    backend: str = "auto",
    plan: AttentionPlan | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Attention modulated by regions and frames.

    With s = scale * <q_i, k_j>, same = (region_i & region_j) != 0, and the extremes of s over the keys j whose bias is
    above -inf:

        a_ij  = row_strength_i * key_weight_j * A[same, frame_i, frame_j]
        z_ij  = s_ij + a_ij * ((max_j s_ij if same else min_j s_ij) - s_ij) + B[same, frame_i, frame_j]
        out_i = softmax_j(z_ij) @ v                  0, with lse -inf, where every key is excluded

    After FAME (arXiv 2510.22960) and VideoGrain (arXiv 2502.17258). Forward only. The plan of the layouts is made by
    the first call and kept on `query_layout`; compiled and exported code makes it when it runs, or takes it as `plan`.

    Args:
        query: [B, H, Nq, D]; float16, bfloat16 or float32 (float64 with backend="reference"), any strides, D from 1 to
            256.
        key, value: [B, H, Nk, D], of the dtype and on the device of the query.
        query_layout, key_layout: regions and frames of the tokens; `key_layout` defaults to `query_layout`.
        modulation: the tables A (strength) and B (bias); None is plain attention.
        row_strength: floating [Nq] or [B, Nq] in [0, 1], default 1.
        key_weight: floating [Nk] or [B, Nk] in [0, 1], default 1.
        scale: finite and > 0, default D ** -0.5.
        return_lse: whether to return lse, too.
        backend: "triton" (fused kernels), "sdpa" (torch's own attention, any device), "reference" (eager, N x N), or
            "auto": triton on GPUs where it runs, otherwise sdpa. A named backend is never replaced by another.
        plan: from `plan_attention`, in place of `query_layout`, `key_layout` and `modulation`.

    Returns:
        out [B, H, Nq, D] in the query's dtype and, with `return_lse`, lse [B, H, Nq] (natural logarithm), float32, or
        float64 for a float64 query.

    Raises:
        TypeError, ValueError, RuntimeError: the message names the argument, what came and what was wanted. On CUDA and
            in compiled code, factors out of range are reported by the device, without a synchronization.
    """
    check_choice("backend", backend, BACKENDS)
    check_flag("return_lse", return_lse)
    if plan is not None:
        if query_layout is not None or key_layout is not None or modulation is not None:
            raise ValueError("plan replaces query_layout, key_layout and modulation: pass it, or them, not both")
        out, lse = _planned(plan, query, key, value, row_strength, key_weight, scale, return_lse, backend)
        return (out, lse) if return_lse else out
    call = check_call(
        query, key, value, query_layout, key_layout, modulation, row_strength, key_weight, scale,
        doubles=backend == "reference",
    )  # fmt: skip
    if is_recorded(query):
        out, lse = _recorded(call, query, key, value, backend, return_lse)
    else:
        backend = resolve_backend(backend, query.device, query.dtype)
        if 0 in (*query.shape, *key.shape):
            out, lse = empty_result(query)
        else:
            plan = find_plan(
                call.query_layout, call.key_layout, call.modulation, backend, query.shape[0], query.shape[-1],
                query.dtype, key_weight is not None,
            )  # fmt: skip
            out, lse = run_plan(plan, query, key, value, call.row_strength, call.key_weight, call.scale, return_lse)
    return (out, lse) if return_lse else out


def _planned(
    plan: AttentionPlan,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    row_strength: Tensor | None,
    key_weight: Tensor | None,
    scale: float | None,
    return_lse: bool,
    backend: str,
) -> tuple[Tensor, Tensor]:
    """A call that was given its plan."""
    if not isinstance(plan, AttentionPlan):
        raise TypeError(f"plan must be a fame_accel.AttentionPlan or None, got {type(plan).__name__}")
    if backend not in ("auto", plan.backend):
        raise ValueError(f"backend must be 'auto' or that of the plan, {plan.backend!r}, got {backend!r}")
    check_tensors(query, key, value, doubles=plan.backend == "reference")
    plan.check_fit(query, key)
    row_strength, key_weight = check_factors(query, key, row_strength, key_weight)
    scale = check_scale(scale, query.shape[-1])
    if 0 in (*query.shape, *key.shape):
        return empty_result(query)
    return run_plan(plan, query, key, value, row_strength, key_weight, scale, return_lse)


def _recorded(
    call: Call, query: Tensor, key: Tensor, value: Tensor, backend: str, return_lse: bool
) -> tuple[Tensor, Tensor]:
    """A call that is compiled, exported or traced: one operator, which makes its plan when it runs."""
    query_layout, key_layout, modulation = call.query_layout, call.key_layout, call.modulation
    return call_operator(
        layout_attention_op, query, key, value, query_layout.region, query_layout.frame, query_layout.num_frames,
        key_layout.region, key_layout.frame, key_layout.num_frames, modulation.strength_table, modulation.bias_table,
        call.row_strength, call.key_weight, call.scale, backend, return_lse,
    )  # fmt: skip

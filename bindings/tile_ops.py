"""Operators on the Triton kernels: CUDA and ROCm devices, and CPU tensors under TRITON_INTERPRET=1.

fp32 matrix products run in full precision unless torch.set_float32_matmul_precision asks for "high" or "medium"
(then tf32).
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from .library import declare, empty_outputs

try:
    import triton

    _INTERPRETED = triton.knobs.runtime.interpret  # as it was when the kernels were decorated
except ImportError:
    triton, _INTERPRETED = None, False


def triton_unavailable(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why the kernels cannot run on this device and dtype, with the remedy; None where they can."""
    if triton is None:
        return "triton is not installed: pip install triton, or use backend='sdpa'"
    if device.type in ("cuda", "meta"):
        return None
    if device.type != "cpu":
        return f"the Triton kernels do not run on {device.type} devices: use backend='sdpa'"
    if not _INTERPRETED:
        return (
            "the Triton kernels run on CPU tensors only in the interpreter: set TRITON_INTERPRET=1 before Python "
            "starts, or use backend='sdpa'"
        )
    if dtype == torch.bfloat16:
        return "Triton's interpreter computes bfloat16 matrix products wrongly: use float16 or float32 there"
    return None


@torch.compiler.assume_constant_result
def tile_shape(device: torch.device, dtype: torch.dtype, head_dim: int) -> tuple[int, int]:
    """(block_q, block_k) that a plan for `tile_attention` must be cut to."""
    launch = _launch(device, head_dim, dtype.itemsize)
    return launch.block_q, launch.block_k


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
) -> tuple[Tensor, Tensor]:
    """Layout attention over the pure tiles of a plan; see kernels/attention.py for shapes."""
    _require(query)
    from fame_accel.kernels.attention import attention_call
    from fame_accel.kernels.extremes import extremes_call

    out, lse = empty_outputs(query)
    launch = _launch(query.device, query.shape[-1], query.element_size())
    precision, high, low = _precision(query.dtype), None, None
    if modulated:
        high, low = torch.empty_like(lse), torch.empty_like(lse)
        _run(extremes_call(
            query, key, high, low, query_order, key_order, tiles, pair_span, precision, launch
        ), query)  # fmt: skip
    _run(attention_call(
        query, key, value, out, lse, high, low, row_strength, key_weight,
        query_order, key_order, tiles, pair_span, pair_value, scale, precision, launch,
    ), query)  # fmt: skip
    return out, lse


def _few_keys_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    query_region: Tensor,
    query_frame: Tensor,
    key_region: Tensor,
    strength: Tensor | None,
    bias: Tensor | None,
    row_strength: Tensor | None,
    key_weight: Tensor | None,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """Layout attention over few keys; see kernels/few_keys.py for shapes."""
    _require(query)
    from fame_accel.kernels.few_keys import few_keys_call
    from fame_accel.kernels.launch import few_keys_launch

    out, lse = empty_outputs(query)
    launch = few_keys_launch(_family(query.device), key.shape[2], query.shape[-1], query.element_size())
    _run(few_keys_call(
        query, key, value, out, lse, query_region, query_frame, key_region, strength, bias, row_strength, key_weight,
        scale, _precision(query.dtype), _programs(query.device), launch,
    ), query)  # fmt: skip
    return out, lse


def _short_sequences_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    query_region: Tensor,
    query_frame: Tensor,
    key_region: Tensor,
    key_frame: Tensor,
    strength: Tensor | None,
    bias: Tensor | None,
    row_strength: Tensor | None,
    key_weight: Tensor | None,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """Layout attention over many sequences of up to 32 tokens; see kernels/short_sequences.py for shapes."""
    _require(query)
    from fame_accel.kernels.launch import short_sequences_launch
    from fame_accel.kernels.short_sequences import short_sequences_call

    out, lse = empty_outputs(query)
    launch = short_sequences_launch(
        _family(query.device), query.shape[2], key.shape[2], query.shape[-1], query.element_size()
    )
    programs = 4 * _programs(query.device)  # several rounds of them, as the last may leave much of the chip idle
    _run(short_sequences_call(
        query, key, value, out, lse, query_region, query_frame, key_region, key_frame, strength, bias, row_strength,
        key_weight, scale, _precision(query.dtype), programs, launch,
    ), query)  # fmt: skip
    return out, lse


def _require(query: Tensor) -> None:
    reason = triton_unavailable(query.device, query.dtype)
    if reason is not None:
        raise RuntimeError(reason)


def _run(call, like: Tensor) -> None:
    with torch.cuda.device_of(like):
        call.kernel[call.grid](**call.arguments, **call.options)


def _precision(dtype: torch.dtype) -> str:
    """How fp32 products are computed: tf32 where torch is told to, on NVIDIA chips."""
    if dtype != torch.float32 or torch.version.hip:
        return "ieee"
    return "tf32" if torch.backends.cuda.matmul.fp32_precision == "tf32" else "ieee"


def _launch(device: torch.device, head_dim: int, element_size: int):
    from fame_accel.kernels.launch import choose_launch

    return choose_launch(_family(device), head_dim, element_size)


@cache
def _family(device: torch.device) -> str:
    """The launch table's name for the chip."""
    if device.type != "cuda":
        return "interpreter"
    if torch.version.hip:
        arch = torch.cuda.get_device_properties(device).gcnArchName.split(":")[0]
        return "cdna" if arch.startswith("gfx9") else "rdna" if arch.startswith(("gfx11", "gfx12")) else arch
    major, minor = torch.cuda.get_device_capability(device)
    small = {(8, 6), (8, 7), (8, 9), (12, 0), (12, 1)}
    return "sm86" if (major, minor) in small else f"sm{major}{minor}"


@cache
def _programs(device: torch.device) -> int:
    """Programs of the few-keys kernel that fill the device: four a multiprocessor; few in the interpreter."""
    return 4 * torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 4


tile_attention = declare(
    "tile_attention",
    "(Tensor query, Tensor key, Tensor value, Tensor query_order, Tensor key_order, Tensor tiles, "
    "Tensor pair_span, Tensor pair_value, Tensor? row_strength, Tensor? key_weight, float scale, bool modulated)",
    _tile_attention,
    ("CUDA", "CPU"),
)
few_keys_attention = declare(
    "few_keys_attention",
    "(Tensor query, Tensor key, Tensor value, Tensor query_region, Tensor query_frame, Tensor key_region, "
    "Tensor? strength, Tensor? bias, Tensor? row_strength, Tensor? key_weight, float scale)",
    _few_keys_attention,
    ("CUDA", "CPU"),
)
short_sequences_attention = declare(
    "short_sequences_attention",
    "(Tensor query, Tensor key, Tensor value, Tensor query_region, Tensor query_frame, Tensor key_region, "
    "Tensor key_frame, Tensor? strength, Tensor? bias, Tensor? row_strength, Tensor? key_weight, float scale)",
    _short_sequences_attention,
    ("CUDA", "CPU"),
)

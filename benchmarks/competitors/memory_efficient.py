"""xformers' memory-efficient attention, where it is installed."""

from __future__ import annotations

from torch import Tensor

from benchmarks.competitors.torch_sdpa import NO_BIAS
from fame_accel.bench.dense import dense_bias
from fame_accel.bench.inputs import AttentionInputs
from fame_accel.bench.prepared import CannotRun, PreparedCall, require_memory


def xformers(inputs: AttentionInputs) -> PreparedCall:
    """Plain attention, or hard mask and decay as a dense bias."""
    if inputs.operation.modulates:
        raise CannotRun(NO_BIAS)
    try:
        from xformers.ops import memory_efficient_attention
    except ImportError as error:
        raise CannotRun("xformers is not installed") from error
    batch, heads, queries, _ = inputs.query.shape
    keys, dtype = inputs.shape.keys, inputs.query.dtype
    kept: dict[str, Tensor | None] = {"bias": None}

    def plan() -> None:
        kept.clear()
        wide = -(-keys // 8) * 8  # rows must be aligned
        padded = inputs.query.new_empty(batch, heads, queries, wide)[..., :keys]
        kept["bias"] = padded.copy_(dense_bias(inputs, dtype)[:, None])

    def call() -> Tensor:
        tensors = (x.transpose(1, 2) for x in (inputs.query, inputs.key, inputs.value))
        return memory_efficient_attention(*tensors, attn_bias=kept["bias"]).transpose(1, 2)

    if not inputs.operation.excludes:
        return PreparedCall(call)
    size = (batch * heads + 2) * queries * keys * dtype.itemsize + queries * keys * 8
    require_memory(size, inputs.device, "the bias, which it takes for each head,")
    plan()
    return PreparedCall(call, plan)

"""The registry: what this library is measured against, by name.

eager, sdpa_plain, ours_triton, ours_sdpa   as `fame-accel bench` has them
sdpa_cudnn       plain attention by cuDNN, on the plain operation alone
sdpa_bias        torch's attention with hard mask and decay as one dense bias
sdpa_low_rank    the same bias as extra columns of q and k, as FlashBias has it
compiled         torch.compile of eager
flex             FlexAttention, compiled, tokens in their own order
flex_sorted      the same on tokens sorted by region
flex_three_pass  FlexAttention with the row extremes taken by passes before it
xformers         its memory-efficient attention
yardstick        plain flash attention in our kernels' style and with their tiles
"""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.competitors.flex_attention import flex, flex_sorted, flex_three_pass
from benchmarks.competitors.memory_efficient import xformers
from benchmarks.competitors.torch_sdpa import sdpa_bias, sdpa_cudnn, sdpa_low_rank
from fame_accel import bindings
from fame_accel.bench import providers
from fame_accel.bench.dense import dense, dense_formula
from fame_accel.bench.inputs import AttentionInputs
from fame_accel.bench.prepared import CannotRun, PreparedCall, Provider
from fame_accel.bench.providers import EAGER, FLOOR

_FAMILIES = {(8, 0): "sm80", (9, 0): "sm90", (10, 0): "sm100"}


def compiled(inputs: AttentionInputs) -> PreparedCall:
    """torch.compile of the eager formula."""
    return dense(inputs, torch.compile(dense_formula, dynamic=False))


def yardstick(inputs: AttentionInputs) -> PreparedCall:
    """Plain flash attention with our kernels' tiles."""
    if inputs.operation.excludes or inputs.operation.modulates:
        raise CannotRun("plain attention alone")
    reason = bindings.triton_unavailable(inputs.device, inputs.query.dtype)
    if reason is not None:
        raise CannotRun(reason)
    from benchmarks.yardstick import yardstick_call
    from fame_accel.kernels.launch_table import choose_launch

    query, key, value = inputs.query, inputs.key, inputs.value
    head_dim, device = query.shape[-1], inputs.device
    family = "interpreter"
    if device.type == "cuda":
        family = _FAMILIES.get(torch.cuda.get_device_capability(device), "sm86")
    launch = choose_launch("tiled", family, head_dim, query.element_size())
    if query.shape[2] % launch.block_q or key.shape[2] % launch.block_k:
        raise CannotRun(f"needs lengths that are multiples of {launch.block_q} and {launch.block_k}")
    scale = head_dim**-0.5

    def call() -> Tensor:
        out = torch.empty_like(query)
        launched = yardstick_call(query, key, value, out, scale, launch)
        launched.kernel[launched.grid](**launched.arguments, **launched.options)
        return out

    return PreparedCall(call, note=f"tiles {launch.block_q}x{launch.block_k}")


PROVIDERS: dict[str, Provider] = {
    EAGER: providers.eager,
    FLOOR: providers.sdpa_plain,
    "sdpa_cudnn": sdpa_cudnn,
    "ours_triton": providers.ours_triton,
    "ours_sdpa": providers.ours_sdpa,
    "sdpa_bias": sdpa_bias,
    "sdpa_low_rank": sdpa_low_rank,
    "compiled": compiled,
    "flex": flex,
    "flex_sorted": flex_sorted,
    "flex_three_pass": flex_three_pass,
    "xformers": xformers,
    "yardstick": yardstick,
}
COMPILED = ("compiled", "flex", "flex_sorted", "flex_three_pass")  # the first call takes seconds, and much memory

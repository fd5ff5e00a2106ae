"""The registry: what users can be measured against, and the yardstick, plain flash attention in our kernels' style."""

from __future__ import annotations

import torch
from torch import Tensor

from fame_accel import bindings
from fame_accel.bench.inputs import Inputs
from fame_accel.bench.providers import PROVIDERS as _PROVIDERS
from fame_accel.bench.providers import CannotRun, Prepared, Provider

_FAMILIES = {(8, 0): "sm80", (9, 0): "sm90", (10, 0): "sm100"}


def yardstick(inputs: Inputs) -> Prepared:
    if inputs.operation.hard or inputs.operation.pulled:
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

    return Prepared(call, note=f"tiles {launch.block_q}x{launch.block_k}")


PROVIDERS: dict[str, Provider] = _PROVIDERS | {"yardstick": yardstick}

"""Where the Triton kernels run: CUDA and ROCm devices, and CPU tensors under TRITON_INTERPRET=1.

fp32 matrix products run in full precision unless torch.set_float32_matmul_precision asks for "high" or "medium"
(then tf32).
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

try:
    import triton

    _VERSION = tuple(int(part) for part in triton.__version__.split(".")[:2])
    # as it was when the kernels were decorated
    _INTERPRETED = _VERSION >= (3, 6) and triton.knobs.runtime.interpret
except ImportError:
    triton, _VERSION, _INTERPRETED = None, (0, 0), False


def triton_unavailable(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why the kernels cannot run on this device and dtype, with the remedy; None where they can."""
    if triton is None:
        return "triton is not installed: pip install triton, or use backend='sdpa'"
    if _VERSION < (3, 6):
        return f"the kernels need triton 3.6 or newer, found {triton.__version__}: upgrade it, or use backend='sdpa'"
    if device.type == "meta":
        return None
    if device.type == "cuda":
        return _too_old(device)
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


def require(query: Tensor) -> None:
    reason = triton_unavailable(query.device, query.dtype)
    if reason is not None:
        raise RuntimeError(reason)


def run(call, like: Tensor) -> None:
    with torch.cuda.device_of(like):
        call.kernel[call.grid](**call.arguments, **call.options)


def precision(dtype: torch.dtype) -> str:
    """How fp32 products are computed: tf32 where torch is told to, on NVIDIA chips."""
    if dtype != torch.float32 or torch.version.hip:
        return "ieee"
    return "tf32" if torch.backends.cuda.matmul.fp32_precision == "tf32" else "ieee"


@cache
def _too_old(device: torch.device) -> str | None:
    if not torch.cuda.is_available():  # a fake device: nothing runs there
        return None
    if torch.version.hip:
        chip = torch.cuda.get_device_properties(device).gcnArchName.split(":")[0]
        new = chip.startswith(("gfx9", "gfx11", "gfx12"))
    else:
        major, minor = torch.cuda.get_device_capability(device)
        chip, new = f"sm_{major}{minor}", (major, minor) >= (7, 5)
    return (
        None if new else f"the Triton kernels need sm_75 or newer, gfx9, gfx11 or gfx12, not {chip}: use backend='sdpa'"
    )


@cache
def family(device: torch.device) -> str:
    """The launch table's name for the chip."""
    if device.type != "cuda":
        return "interpreter"
    if torch.version.hip:
        arch = torch.cuda.get_device_properties(device).gcnArchName.split(":")[0]
        return "cdna" if arch.startswith("gfx9") else "rdna" if arch.startswith(("gfx11", "gfx12")) else arch
    major, minor = torch.cuda.get_device_capability(device)
    small = {(8, 6), (8, 7), (8, 9), (12, 0), (12, 1)}
    return "sm86" if (major, minor) in small else "sm100" if major == 10 else f"sm{major}{minor}"


@cache
def programs(device: torch.device) -> int:
    """Programs that keep the device busy, for kernels that divide their work among as many: four a multiprocessor; few
    in the interpreter."""
    return 4 * torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 4

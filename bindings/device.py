"""Where the Triton kernels run: CUDA and ROCm devices, and CPU tensors under TRITON_INTERPRET=1.

float32 matrix products run in full precision unless torch.set_float32_matmul_precision asks for "high" or "medium"
(then tf32).
"""

from __future__ import annotations

import re
from functools import cache
from types import ModuleType
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from fame_accel.kernels.launch import Call

OLDEST_TRITON = (3, 6)


def triton_unavailable(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why the kernels cannot run on this device and dtype, with the remedy; None where they can."""
    problem = _import_triton()[1]
    if problem is not None:
        return problem
    if device.type == "meta":
        return None
    if device.type == "cuda":
        return _too_old(device)
    if device.type != "cpu":
        return f"the Triton kernels do not run on {device.type} devices: use backend='sdpa'"
    if not _is_interpreted():
        return (
            "the Triton kernels run on CPU tensors only in the interpreter: set TRITON_INTERPRET=1 before Python "
            "starts, or use backend='sdpa'"
        )
    if dtype == torch.bfloat16:
        return "Triton's interpreter computes bfloat16 matrix products wrongly: use float16 or float32 there"
    return None


@cache
def _import_triton() -> tuple[ModuleType | None, str | None]:
    """The module, or None and what is wrong with it; imported on first use, as it takes a while."""
    try:
        import triton
    except ModuleNotFoundError as error:
        if error.name == "triton":
            return None, "triton is not installed: pip install triton, or use backend='sdpa'"
        return None, _broken(error)
    except Exception as error:  # a broken installation may raise anything
        return None, _broken(error)
    version = getattr(triton, "__version__", None)
    numbers = re.match(r"(\d+)\.(\d+)", version) if isinstance(version, str) else None
    if numbers is None or (int(numbers[1]), int(numbers[2])) < OLDEST_TRITON:
        oldest = ".".join(map(str, OLDEST_TRITON))
        return None, (
            f"the kernels need triton {oldest} or newer, found version {version!r}: upgrade it, or use backend='sdpa'"
        )
    return triton, None


def _broken(error: Exception) -> str:
    reason = " ".join(str(error).split())
    return (
        f"triton is installed but cannot be imported ({type(error).__name__}: {reason}): reinstall it, or use "
        "backend='sdpa'"
    )


@cache
def _is_interpreted() -> bool:
    """As it is when the kernels are first asked for."""
    triton = _import_triton()[0]
    return triton is not None and bool(triton.knobs.runtime.interpret)


def require(query: Tensor) -> None:
    """RuntimeError where the kernels cannot run on the query's device and dtype."""
    reason = triton_unavailable(query.device, query.dtype)
    if reason is not None:
        raise RuntimeError(reason)


def run(call: Call, like: Tensor) -> None:
    """Launch a kernel on the device of `like`."""
    with torch.cuda.device_of(like):
        call.kernel[call.grid](**call.arguments, **call.options)


def precision(dtype: torch.dtype) -> str:
    """Triton's name for the precision of float32 products: tf32 where torch is set to it, on NVIDIA chips."""
    if dtype != torch.float32 or torch.version.hip:
        return "ieee"
    return "tf32" if torch.backends.cuda.matmul.fp32_precision == "tf32" else "ieee"


@cache
def _too_old(device: torch.device) -> str | None:
    if not torch.cuda.is_available():  # a fake device: nothing runs there
        return None
    if torch.version.hip:
        chip = torch.cuda.get_device_properties(device).gcnArchName.split(":")[0]
        supported = chip.startswith(("gfx9", "gfx11", "gfx12"))
    else:
        major, minor = torch.cuda.get_device_capability(device)
        chip, supported = f"sm_{major}{minor}", (major, minor) >= (7, 5)
    if supported:
        return None
    return f"the Triton kernels need sm_75 or newer, gfx9, gfx11 or gfx12, not {chip}: use backend='sdpa'"


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
    """How many programs keep the device busy: four on each multiprocessor; few in the interpreter."""
    return 4 * torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 4

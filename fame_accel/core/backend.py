"""Which backend runs a call, and on which device a command works: decided here and nowhere else."""

from __future__ import annotations

import torch

from fame_accel import bindings
from fame_accel.core.checks import check_choice
from fame_accel.core.limits import BACKENDS


def resolve_backend(backend: str, device: torch.device, dtype: torch.dtype) -> str:
    """The backend that `backend` names on a device: "auto" is triton on GPUs where its kernels run, otherwise sdpa.

    Raises:
        ValueError: `backend` is none of BACKENDS.
        RuntimeError: backend="triton" cannot run on this device and dtype; the message says why and what to do.
    """
    check_choice("backend", backend, BACKENDS)
    if backend == "auto":
        on_gpu = device.type == "cuda" and bindings.triton_unavailable(device, dtype) is None
        return "triton" if on_gpu else "sdpa"
    if backend == "triton" and (reason := bindings.triton_unavailable(device, dtype)) is not None:
        raise RuntimeError(f"backend='triton' cannot run here: {reason}")
    return backend


def default_device() -> torch.device:
    """The GPU where torch has one, otherwise the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")

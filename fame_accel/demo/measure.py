"""Time in attention layers and peak memory of a run."""

from __future__ import annotations

import ctypes
import gc
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch


@dataclass
class Measurement:
    """seconds: the whole run; attention_s: inside attention layers, projections included; peak_mib: peak memory above
    the level before the run, None where the system does not tell."""

    seconds: float = 0.0
    attention_s: float = 0.0
    peak_mib: float | None = None
    _started: list[float] = field(default_factory=list)


@contextmanager
def measured(unet: torch.nn.Module) -> Iterator[Measurement]:
    """Measure the block, timing every attn1 and attn2 module of the UNet."""
    device = next(unet.parameters()).device
    result = Measurement()

    def before(*_: object) -> None:
        result._started.append(now(device))

    def after(*_: object) -> None:
        result.attention_s += now(device) - result._started.pop()

    hooks = []
    for name, module in unet.named_modules():
        if name.endswith((".attn1", ".attn2")):
            hooks += [module.register_forward_pre_hook(before), module.register_forward_hook(after)]
    base = reset_peak(device)
    start = now(device)
    try:
        yield result
    finally:
        result.seconds = now(device) - start
        peak = peak_bytes(device)
        result.peak_mib = None if peak is None or base is None else (peak - base) / 2**20
        for hook in hooks:
            hook.remove()


def now(device: torch.device) -> float:
    """Seconds on a monotonic clock, once the device has finished what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def reset_peak(device: torch.device) -> int | None:
    """Forget the peak so far; bytes in use now, None where the system does not tell."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    if sys.platform != "linux":
        return None
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)  # freed pages would otherwise hide what the run takes anew
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return None
    return _status("VmRSS")


def peak_bytes(device: torch.device) -> int | None:
    """Most bytes in use since `reset_peak`; None where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return _status("VmHWM") if sys.platform == "linux" else None


def _status(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {key}")

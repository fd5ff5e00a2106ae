"""Measuring calls: a clock that waits for the device, peaks of memory, free memory, and keeping freed memory."""

from __future__ import annotations

import ctypes
import gc
import sys
import time
from pathlib import Path

import torch

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # options of glibc's mallopt
_kept: list[bool] = []  # whether glibc was asked to keep freed memory, and agreed


def keep_freed_memory() -> bool:
    """Make the C library keep freed memory for later calls, instead of returning it to the system.

    With glibc's defaults, new pages for memory that the call before returned take most of the time of a call that makes
    large matrices.

    Returns:
        Whether freed memory is kept; False where the C library is not glibc.
    """
    if not _kept:
        libc = _glibc()
        _kept.append(libc is not None and bool(libc.mallopt(_MMAP_MAX, 0) and libc.mallopt(_TRIM_THRESHOLD, -1)))
    return _kept[0]


def freed_memory_is_kept() -> bool:
    """Whether `keep_freed_memory` was called with success."""
    return any(_kept)


def return_freed_memory() -> None:
    """Return freed memory that was kept to the system."""
    if libc := _glibc():
        libc.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    if sys.platform != "linux":
        return None
    try:
        return ctypes.CDLL("libc.so.6")
    except OSError:
        return None


def now(device: torch.device) -> float:
    """Seconds on a monotonic clock, once the device has finished what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def reset_peak(device: torch.device) -> int | None:
    """Forget the peak so far and return the bytes in use now; None where the system does not tell."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    if sys.platform != "linux":
        return None
    return_freed_memory()  # freed pages would otherwise hide what the call allocates
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return None
    return _status("VmRSS")


def peak_bytes(device: torch.device) -> int | None:
    """The most bytes in use since `reset_peak`; None where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return _status("VmHWM") if sys.platform == "linux" else None


def _status(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {key}")


def free_bytes(device: torch.device) -> int | None:
    """The bytes that a call may still allocate, less a tenth as a reserve; None where the system does not tell."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        return int(0.9 * torch.cuda.mem_get_info(device)[0])
    return_freed_memory()
    meminfo = Path("/proc/meminfo")
    if not meminfo.exists():
        return None
    fields = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
    free = 1024 * int(fields["MemAvailable"].split()[0])
    return int(0.9 * min(free, _left_to_group()))


def _left_to_group(folder: Path = Path("/sys/fs/cgroup")) -> float:
    """The bytes left below the memory limit of a container, without cached files; infinite where there is no limit."""
    try:
        most, used = (int((folder / f"memory.{name}").read_text()) for name in ("max", "current"))
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        used -= int(stat["active_file"]) + int(stat["inactive_file"])
    except (OSError, ValueError, KeyError):  # no such files, or no limit: "max"
        return float("inf")
    return most - used

"""Where and with what a measurement was taken: the first columns of its row."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
from functools import cache
from pathlib import Path

import torch

from fame_accel._version import __version__
from fame_accel.media.packages import installed_versions
from fame_accel.tools.measure import freed_memory_is_kept

_HERE = Path(__file__)


@cache
def environment(device: torch.device) -> dict[str, str]:
    on_gpu = device.type == "cuda"
    return {
        "date": datetime.date.today().isoformat(),
        "commit": commit(),
        "device": torch.cuda.get_device_name(device) if on_gpu else f"{_cpu()}, {torch.get_num_threads()} threads",
        "driver": _said("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader") if on_gpu else "",
        "cuda": torch.version.cuda or torch.version.hip or "",
        "torch": torch.__version__,
        "triton": installed_versions("triton").get("triton", ""),
    }


def commit() -> str:
    """As git describes the checkout; the variable COMMIT where the code was copied without it; the version of an
    installed package, whatever repository it may lie in."""
    if given := os.environ.get("COMMIT"):
        return given
    if not _said("git", "ls-files", "--error-unmatch", _HERE.name):
        return f"fame-accel {__version__}"
    # results that were added to are no other code
    changed = _said("git", "status", "--porcelain", "-uno", "--", ":/", ":(exclude,top)benchmarks/results")
    return _said("git", "describe", "--always") + ("-dirty" if changed else "")


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(errors="replace").splitlines() if info.exists() else []
    said = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in reversed(lines))}
    # virtual machines name generations of processors alike
    which = f" (family {said['cpu family']}, model {said['model']})" if {"cpu family", "model"} <= said.keys() else ""
    kept = ", freed memory kept" if freed_memory_is_kept() else ""
    return f"{said.get('model name', platform.machine())}{which} CPU{kept}"


def _said(*command: str) -> str:
    """First line a command prints, nothing where it is missing or fails."""
    variables = {name: value for name, value in os.environ.items() if name not in ("GIT_DIR", "GIT_WORK_TREE")}
    try:
        result = subprocess.run(
            command, cwd=_HERE.parent, env=variables, capture_output=True, text=True, timeout=20
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return result.stdout.strip().partition("\n")[0] if result.returncode == 0 else ""

"""Where and with what a measurement was taken: the first columns of its CSV row."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
from functools import cache
from pathlib import Path

import torch
import triton


@cache
def environment(device: torch.device) -> dict[str, str]:
    on_gpu = device.type == "cuda"
    return {
        "date": datetime.date.today().isoformat(),
        "commit": commit(),
        "device": torch.cuda.get_device_name(device) if on_gpu else f"{platform.machine()} CPU",
        "driver": _said(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]) if on_gpu else "",
        "cuda": torch.version.cuda or torch.version.hip or "",
        "torch": torch.__version__,
        "triton": triton.__version__,
    }


def commit() -> str:
    """As git describes the checkout; the variable COMMIT where the code was copied without it."""
    return os.environ.get("COMMIT") or _said(["git", "describe", "--always", "--dirty"]) or "unknown"


def _said(command: list[str]) -> str:
    """First line a command prints, nothing where it is missing or fails."""
    try:
        result = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return result.stdout.strip().partition("\n")[0] if result.returncode == 0 else ""

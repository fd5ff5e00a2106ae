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

_THIS_FILE = Path(__file__)


@cache
def environment(device: torch.device) -> dict[str, str]:
    """Date, commit, device and versions."""
    on_gpu = device.type == "cuda"
    return {
        "date": datetime.date.today().isoformat(),
        "commit": commit(),
        "device": torch.cuda.get_device_name(device) if on_gpu else f"{_cpu()}, {torch.get_num_threads()} threads",
        "driver": _output_of("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader") if on_gpu else "",
        "cuda": torch.version.cuda or torch.version.hip or "",
        "torch": torch.__version__,
        "triton": installed_versions("triton").get("triton", ""),
    }


def run_name() -> str:
    """A name for a run: the time in UTC."""
    return datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def commit() -> str:
    """The commit of the checkout, with "-dirty" where files were changed.

    The variable COMMIT names it where the code was copied without git; an installed package gives its version.
    """
    if given := os.environ.get("COMMIT"):
        return given
    if not _output_of("git", "ls-files", "--error-unmatch", _THIS_FILE.name):
        return f"fame-accel {__version__}"
    # new results do not change the code
    changed = _output_of("git", "status", "--porcelain", "-uno", "--", ":/", ":(exclude,top)benchmarks/results")
    return _output_of("git", "describe", "--always") + ("-dirty" if changed else "")


def _cpu() -> str:
    """The processor's name, with family and model, as virtual machines name several generations alike."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(errors="replace").splitlines() if info.exists() else []
    values = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in reversed(lines))}
    known = {"cpu family", "model"} <= values.keys()
    generation = f" (family {values['cpu family']}, model {values['model']})" if known else ""
    kept = ", freed memory kept" if freed_memory_is_kept() else ""
    return f"{values.get('model name', platform.machine())}{generation} CPU{kept}"


def _output_of(*command: str) -> str:
    """The first line that a command prints; nothing where it is missing or fails."""
    variables = {name: value for name, value in os.environ.items() if name not in ("GIT_DIR", "GIT_WORK_TREE")}
    try:
        result = subprocess.run(command, cwd=_THIS_FILE.parent, env=variables, capture_output=True, text=True)
    except OSError:
        return ""
    return result.stdout.strip().partition("\n")[0] if result.returncode == 0 else ""

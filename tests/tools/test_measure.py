"""What measuring asks of the system: freed memory that stays, and what may still be taken."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from fame_accel.tools.measure import _left_to_group

# Prints whether freed memory is kept, the device of a row, and MiB still resident of 256 that were freed.
FREED = """
import sys
from pathlib import Path
import torch
from fame_accel.bench.environment import environment
from fame_accel.tools.measure import freed_memory_is_kept, keep_freed_memory

def resident():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) // 1024

if "keep" in sys.argv:
    assert keep_freed_memory() and keep_freed_memory()
before = resident()
tensor = torch.ones(64 << 20)
del tensor
print(freed_memory_is_kept(), environment(torch.device("cpu"))["device"], resident() - before, sep="|")
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.slow
def test_freed_memory(keep: bool):
    variables = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    command = [sys.executable, "-c", FREED, *(["keep"] if keep else [])]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    kept, device, resident = done.stdout.strip().split("|")
    assert kept == str(keep) and ("freed memory kept" in device) == keep
    assert int(resident) > 200 if keep else int(resident) < 50


def test_what_a_control_group_leaves(tmp_path: Path):
    assert _left_to_group(tmp_path) == float("inf")
    (tmp_path / "memory.current").write_text("400\n")
    (tmp_path / "memory.stat").write_text("anon 250\nactive_file 100\ninactive_file 50\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert _left_to_group(tmp_path) == float("inf")
    (tmp_path / "memory.max").write_text("1000\n")
    assert _left_to_group(tmp_path) == 750

"""The sdpa backend's extra memory grows with N, not with N x N."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HEADS, TOKENS = 4, (4608, 9216)

# Prints the peak of resident memory above what stood before the call, in bytes, for each length.
MEASURE = """
import sys
from pathlib import Path
import torch
import fame_accel

def status(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(name))

def extra(modulation, tokens, weighted):
    frames = 4
    layout = fame_accel.TokenLayout(torch.arange(tokens) % 3, torch.arange(tokens) * frames // tokens, frames)
    query, key, value = torch.randn(3, 1, {heads}, tokens, 32).unbind()
    arguments = dict(row_strength=torch.rand(tokens), key_weight=torch.rand(tokens) if weighted else None)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    before = status("VmRSS")
    fame_accel.layout_attention(query, key, value, layout, modulation=modulation, backend="sdpa", **arguments)
    return status("VmHWM") - before

torch.set_num_threads(1)
modulation = {modulation}
for tokens in (600, *{tokens}):  # the first call warms up
    print(extra(modulation, tokens, {weighted}))
"""


@pytest.mark.parametrize(
    "modulation, weighted",
    [
        ("None", False),
        ("fame_accel.Modulation.fame(4)", False),
        ("fame_accel.Modulation.region_mask(4, 0.1)", False),
        ("fame_accel.Modulation.fame(4)", True),
    ],
    ids=["plain", "fame", "region_mask", "key_weight"],
)
@pytest.mark.slow
def test_extra_memory_is_linear(modulation: str, weighted: bool):
    reset = Path("/proc/self/clear_refs")
    try:
        reset.write_text("5")
    except OSError as error:
        pytest.skip(f"needs to reset the peak of resident memory: {error}")
    code = MEASURE.format(heads=HEADS, tokens=TOKENS, modulation=modulation, weighted=weighted)
    # freed memory goes back at once, so that what is resident is what is held
    variables = os.environ | {"MALLOC_MMAP_THRESHOLD_": str(2**17), "MALLOC_TRIM_THRESHOLD_": str(2**17)}
    done = subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    _, small, large = (int(line) for line in done.stdout.split())
    whole = TOKENS[1] ** 2 * HEADS * 4  # the float32 logits
    assert large < whole / 10
    assert large < 2.5 * small + 2**23

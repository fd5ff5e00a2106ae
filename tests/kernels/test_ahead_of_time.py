"""The kernels compile, as launched, for GPUs that are not here. A subprocess: the interpreter must be off."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from benchmarks.budget import TIMED, TIMED_SPILLS

ROOT = Path(__file__).parents[2]
TILED = {
    *("attention", "one_pass_same", "one_pass_other"),
    *("extremes", "modulated", "modulated_again", "modulated_weighted"),
}
FEW = {"few_keys_77", "few_keys_96"}
KERNELS = TILED | FEW | {"pack", "streamed_keys_512", "short_sequences_16", "short_sequences_32"}


def compiled(*arguments: str) -> list[dict]:
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.ahead_of_time", *arguments]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-3000:]
    return [json.loads(line) for line in result.stdout.splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("target", ["sm_80", "sm_90", "sm_100", "gfx942"])
@pytest.mark.parametrize("head_dim", [40, 128])
def test_compiles(target: str, head_dim: int) -> None:
    rows = compiled("--targets", target, "--head-dims", str(head_dim))
    assert {row["kernel"] for row in rows} == KERNELS
    for row in rows:
        assert row["shared_bytes"] <= row["shared_limit"], row
        assert row["shared_bytes"] > 0 or row["kernel"] == "pack", row
        assert row["registers"] > 0, row
        if row["kernel"].startswith(("extremes", "attention", "short_sequences")) and target.startswith("sm_"):
            limited = (target, head_dim) in TIMED  # launches whose registers are limited
            assert row["spill_bytes"] <= (TIMED_SPILLS if limited else 8 if target == "sm_100" else 0), row


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_compiles_other_dtypes(dtype: str) -> None:
    rows = compiled("--targets", "sm_90", "--head-dims", "72", "--dtypes", dtype)
    few = FEW if dtype == "bfloat16" else {"streamed_keys_77", "streamed_keys_96"}  # no entry in the launch table
    assert {row["kernel"] for row in rows} == KERNELS - FEW | few
    assert all(row["shared_bytes"] <= row["shared_limit"] for row in rows)


def test_refuses_the_interpreter() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "benchmarks.ahead_of_time", "--targets", "sm_90"],
        cwd=ROOT,
        env=os.environ | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 2 and "TRITON_INTERPRET" in result.stderr


@pytest.mark.slow
@pytest.mark.parametrize("target", ["sm_80", "sm_90"])
def test_main_loops_stay_within_their_counts(target: str, tmp_path: Path) -> None:
    """Against the committed benchmarks/results/static.json, whose rows `make static` replaces knowingly."""
    committed = {
        (row["kernel"], row["head_dim"]): row
        for row in json.loads((ROOT / "benchmarks/results/static.json").read_text())
        if (row["triton"], row["target"], row["dtype"]) == (version("triton"), target, "float16")
    }
    if not committed:
        pytest.skip(f"not counted with Triton {version('triton')}")
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    out = tmp_path / "static.json"
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.static", "--targets", target, "--out", str(out)]
    subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True)
    rows = json.loads(out.read_text())
    assert {(row["kernel"], row["head_dim"]) for row in rows} == set(committed)
    for row in rows:
        before = committed[row["kernel"], row["head_dim"]]
        assert row["spill_bytes"] <= before["spill_bytes"], (row, before)
        if row["loop_instructions"]:
            assert row["loop_instructions"] <= 1.03 * before["loop_instructions"], (row, before)
            assert (row["ratio"] or 0) <= 1.03 * (before["ratio"] or 0), (row, before)

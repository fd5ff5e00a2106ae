"""The committed counts hold their budgets, and the cycle model does the sums that it says."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest

pytest.importorskip("triton")

from benchmarks import budget, predict
from benchmarks.loops import _amd, _amd_kind, _innermost, _loop
from benchmarks.shapes import SHAPES
from fame_accel.bench.workload import operations
from fame_accel.tools.planner.cycle_model import (
    CHIPS,
    EFFICIENCY,
    LAUNCH_US,
    Chip,
    loop_cycles,
    milliseconds,
    tile_work,
)

ROOT = Path(__file__).parents[2]
COUNTS = budget.read_counts()
ON_CASES = pytest.mark.parametrize("target, head_dim", [(t, d) for t in budget.TARGETS for d in budget.HEAD_DIMS])
# Known: bytes that a kernel may spill where its state does not fit the registers, next to nothing of it in a loop.
SPILLS = {("sm_80", 40): 8, ("sm_80", 64): 8, ("sm_80", 128): 40, ("sm_80", 160): 8}


@ON_CASES
@pytest.mark.parametrize("one", budget.BUDGETS, ids=lambda one: one.label)
def test_budgets(one: budget.Budget, target: str, head_dim: int):
    ratio = one.ratio(COUNTS, target, head_dim)
    assert 0 < ratio <= one.most * (1.1 if (target, head_dim) in budget.OVER else 1)


@ON_CASES
def test_spills(target: str, head_dim: int):
    timed = (target, head_dim) in budget.TIMED
    most = budget.TIMED_SPILLS if timed else SPILLS.get((target, head_dim), 0)
    for size, inside in budget.spills(COUNTS, target, head_dim).values():
        assert size <= most and inside <= (24 if timed else 1)


@pytest.mark.parametrize("head_dim", [40, 80, 160])
def test_split_head_dim_spares_matrix_work(head_dim: int):
    row = COUNTS["sm_80", head_dim, "attention"]
    assert row["loop_mma"] <= 0.78 * row["yardstick_mma"]


def test_shared_memory_has_room_for_two_stages():
    for (target, head_dim, kernel), row in COUNTS.items():
        limit = {"sm_80": 163, "sm_89": 99, "sm_90": 227, "sm_100": 227, "gfx942": 64}[target] << 10
        assert row["shared_bytes"] <= limit, (target, head_dim, kernel)
        if kernel in budget.TILED and target.startswith("sm_"):
            tiles = (1 if kernel == "extremes" else 2) * row["tile"][1] * tile_work("extremes", 1, 1, head_dim)[1]
            assert row["shared_bytes"] >= 2 * tiles, (target, head_dim, kernel)


@pytest.mark.parametrize("name", ["triton.txt", "compat.txt"])
def test_pinned_tritons_are_counted(name: str):
    """With another Triton the comparison of counts skips: not with those that the tests are run with."""
    pin = re.search(r"^triton==([\d.]+)", (ROOT / "requirements" / name).read_text(), re.MULTILINE)[1]
    assert pin in {row["triton"] for row in json.loads(budget.RESULTS.read_text())}


def test_bounds_by_hand():
    chip = Chip("one", "sm_90", 10, 2.0, 1000, 4.0, 2.0, 20, 100)
    row = {"loop_instructions": 400, "warps": 4, "loop_kinds": {"mufu": 70, "fma": 100, "minmax": 50, "address": 10}}
    cycles = loop_cycles(chip, row, 100_000, 1000)
    assert (cycles.bound, cycles.floor) == ("exp", 70 * 4 * 32 / 16)
    assert cycles.predicted == (100 + 560) / EFFICIENCY
    assert loop_cycles(chip, row, 1_000_000, 1000).bound == "matrix"
    assert loop_cycles(chip, row, 1000, 40_000).predicted == 2000 / EFFICIENCY  # the L2 cache
    assert loop_cycles(chip, row, 1000, 0, scale=2.0).bound == "issue"
    assert milliseconds(chip, 2e9, 100, 0, 0) == pytest.approx(100)
    assert milliseconds(chip, 2e9, 5, 0, 0) == pytest.approx(200)  # half the multiprocessors idle
    assert milliseconds(chip, 1, 100, 1e9, 1) == pytest.approx(10 + LAUNCH_US / 1e3)


def test_predictions_are_the_models():
    """The committed file, a row of each operation and chip drawn again; it covers every shape."""
    with predict.PREDICTIONS.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == predict.COLUMNS
    position = 0
    for chip in CHIPS:
        for shape in SHAPES:
            for operation in operations(shape):
                if not shape.motion and (shape.text is None or operation.modulates):
                    row, position = rows[position], position + 1
                    if shape.height <= 16 or shape.text:
                        again = predict.predict(chip, shape, operation, COUNTS)
                        assert row == {name: str(value) for name, value in again.items()}
                    assert float(row["floor_ms"]) <= float(row["predicted_ms"])
    assert position == len(rows)


def test_amd_loops_are_read():
    text = """
	s_mov_b32 s0, 0
.LBB0_1:
	global_load_dwordx4 v[0:3], v[4:5], off
	v_mfma_f32_32x32x8_f16 a[0:15], v[0:1], v[2:3], a[0:15]
.LBB0_2:
	v_exp_f32_e32 v0, v1
	v_mfma_f32_32x32x8_f16 a[0:15], v[0:1], v[2:3], a[0:15]
	s_cbranch_scc1 .LBB0_2
	s_cbranch_scc1 .LBB0_1
	s_endpgm
"""
    (body,) = _innermost(*_amd(text))
    assert _loop(body, _amd_kind).kinds == {"mufu": 1, "matrix": 1, "branch": 1}

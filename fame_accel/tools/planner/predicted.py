"""Times on chips that nothing was run on: the static cycle model's clocks a turn, and the turns of a layer.

predicted_cycles.json is written by `python -m benchmarks.planner_table`; benchmarks/cycle_model.py says how its clocks
come about. Predicted, not measured on a GPU.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from fame_accel.kernels.launch_table import FEW_KEYS
from fame_accel.tools.planner.memory import Shape
from fame_accel.tools.planner.pairs import Runs

_FILE = Path(__file__).with_name("predicted_cycles.json")


@cache
def _table() -> dict[str, Any]:
    return json.loads(_FILE.read_text(encoding="utf-8"))


@cache
def _loops(chip: str, dtype: str, head_dim: int) -> dict[str, dict[str, Any]]:
    wanted = (chip, dtype, head_dim)
    return {row["kernel"]: row for row in _table()["loops"] if (row["chip"], row["dtype"], row["head_dim"]) == wanted}


def chips() -> tuple[str, ...]:
    return tuple(chip["name"] for chip in _table()["chips"])


def milliseconds(chip: str, dtype: str, shape: Shape, runs: Runs) -> float | None:
    """Predicted time of a call on a chip; None where its head_dim or dtype was not counted."""
    loops = _loops(chip, dtype, shape.head_dim)
    if not loops:
        return None
    tokens, moved = shape.tokens, moved_bytes(shape, runs)
    if not runs.planned:
        cycles, programs, launches = (*_without_plan(loops, tokens), 1)
    else:
        kernels = ["attention"]
        if runs.operation.modulated:
            kernels = ["one_pass_same", "one_pass_other"] if runs.operation.one_pass else ["extremes", "modulated"]
        tiles = runs.cut(*loops[kernels[0]]["tile"])
        sides = {"one_pass_other": (0,), "one_pass_same": (1,)}
        cycles = 0.0
        for kernel in kernels:
            for side in sides.get(kernel, (0, 1)):
                cycles += loops[kernel]["full"] * tiles.full[side] + loops[kernel]["short"] * tiles.short[side]
        programs, launches = tiles.query_tiles, len(kernels) + 1 + (kernels[-1] == "modulated")
    about = next(row for row in _table()["chips"] if row["name"] == chip)
    busy = min(programs * shape.heads, about["multiprocessors"])
    compute = shape.heads * cycles / busy / about["clock_ghz"] / 1e6
    return max(compute, moved / about["gbytes_per_s"] / 1e6) + launches * _table()["launch_us"] / 1e3


def moved_bytes(shape: Shape, runs: Runs) -> int:
    """Bytes that the kernels move to and from the device's memory at least: query, key, value and out once, and with a
    plan keys and values once more, packed."""
    return shape.tensor * (6 if runs.planned else 4)


def _without_plan(loops: dict[str, dict[str, Any]], tokens: int) -> tuple[float, int]:
    """Clocks of one head, and its programs."""
    if "few_keys" in loops and tokens <= FEW_KEYS:
        tiles = -(-tokens // loops["few_keys"]["tile"][0])
        return loops["few_keys"]["full"] * tiles, tiles
    rows, keys = loops["streamed_keys"]["tile"]
    turns = -(-tokens // rows) * -(-tokens // keys)
    return loops["streamed_keys"]["full"] * turns, max(1, tokens // 128)

"""Predicted times of attention: what a call runs on the kernels, in clocks of the cycle model.

predicted_cycles.json holds the clocks of one turn of each loop, for `fame-accel plan`; `python -m benchmarks.predict`
writes it. Predicted, not measured on a GPU.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

from fame_accel.kernels.launch_table import FEW_KEYS
from fame_accel.tools.planner.cycle_model import CHIPS, Chip, milliseconds
from fame_accel.tools.planner.memory import CallShape
from fame_accel.tools.planner.pairs import RunCounts, TileCounts

FILE = Path(__file__).with_name("predicted_cycles.json")


class Loop(NamedTuple):
    """A kernel's loop on a chip: its tile (queries, keys), and the clocks of a turn over a full and a short pair."""

    tile: tuple[int, int]
    full: float
    short: float


@dataclass(frozen=True)
class Work:
    """What a call runs.

    turns: per kernel its name and, of one head, the turns of its loops over full and over short pairs of tiles.
    programs: of one head, of each kernel.
    launches: of all kernels, packing included.
    """

    turns: tuple[tuple[str, int, int], ...]
    programs: int
    launches: int

    def cycles(self, loops: Mapping[str, Loop]) -> float:
        """Clocks of one head."""
        return sum(loops[kernel].full * full + loops[kernel].short * short for kernel, full, short in self.turns)


def predicted_ms(chip: Chip, dtype: str, shape: CallShape, runs: RunCounts) -> float | None:
    """Milliseconds of a self-attention call on a chip; None where its head_dim or dtype was not counted."""
    loops = _table().get((chip.name, dtype, shape.head_dim))
    if loops is None:
        return None
    if runs.planned:
        kernels = planned_kernels(runs.kind.modulated, runs.kind.one_pass)
        work = planned_work(kernels, runs.cut(*loops[kernels[0]].tile))
    else:
        work = unplanned_work(loops, shape.tokens, shape.tokens)
    cycles, programs = shape.heads * work.cycles(loops), shape.heads * work.programs
    return milliseconds(chip, cycles, programs, moved_bytes(shape, runs), work.launches)


def moved_bytes(shape: CallShape, runs: RunCounts) -> int:
    """Bytes that the kernels at least move to and from the device's memory: query, key, value and out once, and with a
    plan keys and values once more, packed."""
    return shape.tensor * (6 if runs.planned else 4)


def planned_kernels(modulated: bool, one_pass: bool) -> tuple[str, ...]:
    """The kernels that attend over a plan's tiles, in their order."""
    if not modulated:
        return ("attention",)
    return ("one_pass_same", "one_pass_other") if one_pass else ("extremes", "modulated")


def planned_work(kernels: tuple[str, ...], tiles: TileCounts) -> Work:
    """What a call over a plan runs; kernels: as planned_kernels names them."""
    indices = {"one_pass_other": (0,), "one_pass_same": (1,)}  # of (different, the same) region
    turns = []
    for kernel in kernels:
        full, short = (sum(pairs[i] for i in indices.get(kernel, (0, 1))) for pairs in (tiles.full, tiles.short))
        turns.append((kernel, full, short))
    # packing keys and values is a launch, and the modulated kernel runs twice
    return Work(tuple(turns), tiles.query_tiles, len(kernels) + 1 + (kernels[-1] == "modulated"))


def unplanned_work(loops: Mapping[str, Loop], queries: int, keys: int) -> Work:
    """What a call without a plan runs: few keys, of one frame."""
    if "few_keys" in loops and keys <= FEW_KEYS:
        tiles = -(-queries // loops["few_keys"].tile[0])
        return Work((("few_keys", tiles, 0),), max(1, tiles), 1)
    block_q, block_k = loops["streamed_keys"].tile
    turns = -(-queries // block_q) * -(-keys // block_k)
    return Work((("streamed_keys", turns, 0),), max(1, queries // 128), 1)


def chips() -> tuple[str, ...]:
    """Names of the chips that times are predicted for."""
    return tuple(chip.name for chip in CHIPS)


@cache
def _table() -> dict[tuple[str, str, int], dict[str, Loop]]:
    """Loops by kernel, of each (chip, dtype, head_dim)."""
    table: dict[tuple[str, str, int], dict[str, Loop]] = {}
    for row in json.loads(FILE.read_text(encoding="utf-8")):
        query_rows, keys = row["tile"]
        loops = table.setdefault((row["chip"], row["dtype"], row["head_dim"]), {})
        loops[row["kernel"]] = Loop((query_rows, keys), row["full"], row["short"])
    return table

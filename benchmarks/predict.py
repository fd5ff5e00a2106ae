"""Write down, before a GPU round, how long its layers should take.

    python -m benchmarks.predict

Writes, from the counts in static.json and the planner's cycle model:

- benchmarks/results/predictions.csv: for each shape and operation the pipe that bounds the loop over full tiles, the
  time if the pipes overlapped perfectly (floor_ms), the predicted time, and the useful TFLOPS that this means;
- fame_accel/tools/planner/predicted_cycles.json, which is installed with `fame-accel plan`: the clocks of one turn of
  each loop over a pair of full and of short tiles.
"""

from __future__ import annotations

import argparse
import csv
import json

import torch

from benchmarks.active_pairs import active_pairs
from benchmarks.budget import HEAD_DIMS, RESULTS, Counts, read_counts
from benchmarks.shapes import SHAPES
from fame_accel import Modulation
from fame_accel.bench.inputs import regions_of
from fame_accel.bench.workload import AttentionOperation, LayerShape, operations
from fame_accel.tools.parity_cases import text_layout
from fame_accel.tools.planner.cycle_model import CHIPS, Chip, Cycles, milliseconds, turn_cycles
from fame_accel.tools.planner.pairs import ModulationKind, RunCounts
from fame_accel.tools.planner.predicted import FILE, Loop, planned_kernels, planned_work, unplanned_work
from fame_accel.tools.planner.regions import MaskRegions

PREDICTIONS = RESULTS.with_name("predictions.csv")
COLUMNS = (
    *("chip", "operation", "frames", "size", "keys", "heads", "head_dim", "batch", "dtype"),
    *("bound", "floor_ms", "predicted_ms", "useful_tflops"),
)
DTYPES = ("float16", "bfloat16")
# Kernels, and the rows of static.json that they are predicted from.
KERNELS = {
    **{kernel: kernel for kernel in ("attention", "one_pass_same", "one_pass_other", "extremes", "modulated")},
    "few_keys": "few_keys_77",
    "streamed_keys": "streamed_keys_512",
}


def predict(chip: Chip, shape: LayerShape, operation: AttentionOperation, counts: Counts) -> dict[str, object]:
    """One row of predictions.csv."""
    turns = _turns(chip, shape.head_dim, counts)
    predicted, floor = (
        {kernel: Loop(tile, getattr(full, name), getattr(short, name)) for kernel, (tile, full, short) in turns.items()}
        for name in ("predicted", "floor")
    )
    layout = regions_of(shape).tokens(shape.height, shape.width)
    keys = layout if shape.text is None else text_layout(shape.text, layout.device)
    modulation = operation.modulation(shape.frames, keys.num_frames) or Modulation()
    heads = shape.batch * shape.heads
    moved = 2 * shape.head_dim * heads * 2 * (shape.queries + shape.keys)
    work = unplanned_work(predicted, shape.queries, shape.keys)
    if shape.text is None:
        areas = MaskRegions(regions_of(shape)).areas(shape.frames, shape.height, shape.width)
        runs = RunCounts.of(areas, ModulationKind.of(modulation, shape.frames))
        if runs.planned:
            kernels = planned_kernels(runs.kind.modulated, runs.kind.one_pass)
            work = planned_work(kernels, runs.cut(*predicted[kernels[0]].tile))
            moved += 2 * shape.head_dim * heads * 2 * shape.keys  # packed
    programs = work.programs * heads
    time = milliseconds(chip, heads * work.cycles(predicted), programs, moved, work.launches)
    flop = 4 * active_pairs(layout, keys, modulation) * shape.head_dim * heads
    clocks = [
        (cycles.floor * number, cycles.bound)
        for kernel, *numbers in work.turns
        for cycles, number in zip(turns[kernel][1:], numbers, strict=True)
    ]
    return {
        "chip": chip.name,
        "operation": operation.name,
        "size": shape.height,
        **{name: getattr(shape, name) for name in ("frames", "keys", "heads", "head_dim", "batch")},
        "dtype": "float16",
        "bound": max(clocks)[1],
        "floor_ms": round(milliseconds(chip, heads * work.cycles(floor), programs, moved, 0), 4),
        "predicted_ms": round(time, 4),
        "useful_tflops": round(flop / time / 1e9, 1),
    }


def predictions(counts: Counts) -> list[dict[str, object]]:
    """The rows of predictions.csv. Motion modules have none: their kernel has no loop to count."""
    return [
        predict(chip, shape, operation, counts)
        for chip in CHIPS
        for shape in SHAPES
        for operation in ([] if shape.motion else operations(shape))
        if shape.text is None or operation.modulates
    ]


def planner_table() -> str:
    """The text of predicted_cycles.json, a loop a line."""
    rows = []
    for dtype in DTYPES:
        counts = read_counts(dtype=dtype)
        for chip in CHIPS:
            for head_dim in HEAD_DIMS:
                for kernel, (tile, *turns) in _turns(chip, head_dim, counts).items():
                    full, short = (round(cycles.predicted, 1) for cycles in turns)
                    rows.append(
                        dict(chip=chip.name, dtype=dtype, head_dim=head_dim, kernel=kernel, tile=tile, full=full,
                             short=short)
                    )  # fmt: skip
    return "[\n" + ",\n".join(f"  {json.dumps(row)}" for row in rows) + "\n]\n"


def _turns(chip: Chip, head_dim: int, counts: Counts) -> dict[str, tuple[tuple[int, int], Cycles, Cycles]]:
    """Tile and clocks of a turn over a full and a short pair, of the kernels that were counted."""
    rows = {kernel: counts.get((chip.target, head_dim, counted)) for kernel, counted in KERNELS.items()}
    return {
        kernel: (tuple(row["tile"]), *turn_cycles(chip, kernel, row, head_dim)) for kernel, row in rows.items() if row
    }


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    print("PREDICTED, not measured:", *COLUMNS)
    with PREDICTIONS.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        for row in predictions(read_counts()):
            writer.writerow(row)
            print(*(f"{value!s:>10}" for value in row.values()))
    FILE.write_text(planner_table())


if __name__ == "__main__":
    with torch.no_grad():
        main()

"""Write down, before a GPU round, how long its layers should take: benchmarks/results/predictions.csv.

    python -m benchmarks.predict

From the counts in static.json, the real plans of the shapes and the cycle model: the pairs of full and short tiles, the
pipe that bounds the loop over full ones, the time if the pipes overlapped perfectly (floor_ms) and as predicted, and
the useful TFLOPS that this means.
"""

from __future__ import annotations

import argparse
import csv

import torch

import fame_accel.bindings  # noqa: F401  (makes fame_accel.kernels importable from a checkout)
from benchmarks.active_pairs import active_pairs
from benchmarks.ahead_of_time import TARGETS
from benchmarks.budget import RESULTS, TILED, Counts, read_counts
from benchmarks.cycle_model import CHIPS, Chip, Cycles, loop_cycles, milliseconds, tile_work
from benchmarks.shapes import SHAPES
from fame_accel import Modulation
from fame_accel.bench.inputs import regions_of
from fame_accel.bench.workload import AttentionOperation, LayerShape, operations
from fame_accel.core.attention import UNPLANNED_KEYS
from fame_accel.core.planning import Tables, TilePlan, merge_frames, tile_plan
from fame_accel.kernels.launch_table import FEW_KEYS, choose_launch
from fame_accel.tools.parity_cases import text_layout

PREDICTIONS = RESULTS.with_name("predictions.csv")
COLUMNS = (
    *("chip", "operation", "frames", "size", "keys", "heads", "head_dim", "batch", "dtype"),
    *("bound", "floor_ms", "predicted_ms", "useful_tflops"),
)


def predict(chip: Chip, shape: LayerShape, operation: AttentionOperation, counts: Counts) -> dict[str, object]:
    """One row of the file."""
    layout = regions_of(shape).tokens(shape.height, shape.width)
    keys = layout if shape.text is None else text_layout(shape.text, layout.device)
    modulation = operation.modulation(shape.frames, keys.num_frames) or Modulation()
    tables = merge_frames(modulation, shape.frames, keys.num_frames)
    heads = shape.batch * shape.heads
    rows_of = {
        kernel: row for (target, dim, kernel), row in counts.items() if (target, dim) == (chip.target, shape.head_dim)
    }
    row_bytes = 2 * shape.head_dim * heads
    moved = row_bytes * 2 * (shape.queries + shape.keys)
    if shape.keys <= UNPLANNED_KEYS and tables.key_classes == 1:
        loops, launches = _without_plan(chip, shape, rows_of), 1
        programs = max(1, loops[0][1] if shape.keys <= FEW_KEYS else shape.queries // 128) * heads
    else:
        kernels = _kernels(tables)
        launch = choose_launch(TILED[kernels[0]], TARGETS[chip.target][0], shape.head_dim, 2)
        plan = tile_plan(layout, keys, tables, launch.block_q, launch.block_k)
        loops, launches = _over_plan(chip, plan, kernels, shape.head_dim, rows_of)
        programs = int((plan.tiles[0, :, 1] > 0).sum()) * heads
        moved += row_bytes * 2 * shape.keys  # packed
    cycles = heads * sum(loop.predicted * turns for loop, turns in loops)
    floor = heads * sum(loop.floor * turns for loop, turns in loops)
    predicted = milliseconds(chip, cycles, programs, moved, launches)
    flop = 4 * active_pairs(layout, keys, modulation) * shape.head_dim * heads
    return {
        "chip": chip.name,
        "operation": operation.name,
        "size": shape.height,
        **{name: getattr(shape, name) for name in ("frames", "keys", "heads", "head_dim", "batch")},
        "dtype": "float16",
        "bound": max(loops, key=lambda loop: loop[0].floor * loop[1])[0].bound,
        "floor_ms": round(milliseconds(chip, floor, programs, moved, 0), 4),
        "predicted_ms": round(predicted, 4),
        "useful_tflops": round(flop / predicted / 1e9, 1),
    }


def _kernels(tables: Tables) -> list[str]:
    if tables.strength is None:
        return ["attention"]
    return ["extremes", "modulated"] if tables.strength_pair is None else ["one_pass_same", "one_pass_other"]


def _over_plan(
    chip: Chip, plan: TilePlan, kernels: list[str], head_dim: int, rows: dict
) -> tuple[list[tuple[Cycles, int]], int]:
    """Cycles and turns of the loops over a plan's full and short pairs of tiles, per head; and the launches."""
    ends = plan.tiles[0].long()
    full_same, full_other, short_same, short_other = (ends[:, i + 1] - ends[:, i] for i in range(2, 6))
    loops = []
    for kernel in kernels:
        row = rows[kernel]
        full, short = {
            "one_pass_same": (full_same, short_same),
            "one_pass_other": (full_other, short_other),
        }.get(kernel, (full_same + full_other, short_same + short_other))
        work = tile_work(kernel, *row["tile"], head_dim)
        longer = row["other_loop_instructions"] / row["loop_instructions"]
        loops.append((loop_cycles(chip, row, *work), int(full.sum())))
        loops.append((loop_cycles(chip, row, *work, longer), int(short.sum())))
    return loops, len(kernels) + 1 + (kernels[-1] == "modulated")


def _without_plan(chip: Chip, shape: LayerShape, rows: dict) -> list[tuple[Cycles, int]]:
    """Cycles and turns of the loops of the few-keys or the streamed-keys kernel, per head."""
    if "few_keys_77" in rows and shape.keys <= FEW_KEYS:
        row = rows["few_keys_77"]
        tiles = -(-shape.queries // row["tile"][0])
        operations, _ = tile_work("few_keys", row["tile"][0], 80, shape.head_dim)  # 64 + 16 keys, held on chip
        return [(loop_cycles(chip, row, operations, 0), tiles)]
    row = rows["streamed_keys_512"]
    turns = -(-shape.queries // row["tile"][0]) * -(-shape.keys // row["tile"][1])
    both = 1 + row["other_loop_instructions"] / row["loop_instructions"]
    operations, moved = tile_work("streamed_keys", *row["tile"], shape.head_dim)
    return [(loop_cycles(chip, row, 1.5 * operations, 1.5 * moved, both), turns)]  # q @ k twice


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    counts = read_counts()
    print("PREDICTED, not measured:", *COLUMNS)
    with PREDICTIONS.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        for chip in CHIPS:
            for shape in SHAPES:
                if shape.motion:
                    continue  # its kernel has no loop to count
                for operation in operations(shape):
                    if shape.text is None or operation.modulates:
                        row = predict(chip, shape, operation, counts)
                        writer.writerow(row)
                        print(*(f"{value!s:>10}" for value in row.values()))


if __name__ == "__main__":
    with torch.no_grad():
        main()

"""Write what `fame-accel plan` predicts from: fame_accel/planner/predicted_cycles.json, which is installed with it.

    python -m benchmarks.planner_table

From the counts in static.json and the cycle model: clocks of a multiprocessor for one turn of each loop over a pair of
full and of short tiles. Of the kernels without a plan: of one query tile over 77 keys, and of one pair of tiles.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import fame_accel
from benchmarks.budget import HEAD_DIMS, Counts, read_counts
from benchmarks.cycle_model import CHIPS, LAUNCH_US, Chip, loop_cycles, tile_work

TABLE = Path(fame_accel.__file__).with_name("planner") / "predicted_cycles.json"
DTYPES = ("float16", "bfloat16")
PLANNED = ("attention", "one_pass_same", "one_pass_other", "extremes", "modulated")
_CHIP = ("name", "multiprocessors", "clock_ghz", "gbytes_per_s")


def table() -> dict[str, object]:
    """The file's content."""
    loops = [
        row
        for dtype in DTYPES
        for counts in [read_counts(dtype=dtype)]
        for chip in CHIPS
        for head_dim in HEAD_DIMS
        for row in _loops(chip, head_dim, dtype, counts)
    ]
    chips = [{name: asdict(chip)[name] for name in _CHIP} for chip in CHIPS]
    return {"launch_us": LAUNCH_US, "chips": chips, "loops": loops}


def _loops(chip: Chip, head_dim: int, dtype: str, counts: Counts) -> list[dict[str, object]]:
    found = []
    for kernel in (*PLANNED, "few_keys_77", "streamed_keys_512"):
        row = counts.get((chip.target, head_dim, kernel))
        if row is None:
            continue
        rows, keys = row["tile"]
        longer = row["other_loop_instructions"] / row["loop_instructions"]
        if kernel == "few_keys_77":
            work, scales = (tile_work("few_keys", rows, 80, head_dim)[0], 0.0), (1.0, 1.0)
        elif kernel == "streamed_keys_512":  # q @ k twice
            work, scales = (
                tuple(1.5 * part for part in tile_work("streamed_keys", rows, keys, head_dim)),
                (1 + longer,) * 2,
            )
        else:
            work, scales = tile_work(kernel, rows, keys, head_dim), (1.0, longer)
        full, short = (round(loop_cycles(chip, row, *work, scale).predicted, 1) for scale in scales)
        name = kernel.removesuffix("_77").removesuffix("_512")
        found.append(
            dict(chip=chip.name, dtype=dtype, head_dim=head_dim, kernel=name, tile=[rows, keys], full=full, short=short)
        )
    return found


def written(content: dict[str, object]) -> str:
    """The file's text, a loop a line."""
    loops = ",\n".join(f"  {json.dumps(loop)}" for loop in content["loops"])
    head = ",\n".join(f' "{name}": {json.dumps(content[name])}' for name in ("launch_us", "chips"))
    return f'{{\n{head},\n "loops": [\n{loops}\n ]\n}}\n'


def main() -> None:
    TABLE.write_text(written(table()))
    print(f"{TABLE}: predicted, not measured")


if __name__ == "__main__":
    main()

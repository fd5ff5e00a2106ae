"""The static budget: what the kernels' main loops cost, counted without a GPU.

    python -m benchmarks.static [--targets sm_80 sm_90 ...] [--head-dims 40 64 ...] [--dtypes float16 ...]

Per kernel, target, head_dim and dtype: registers, spills, shared memory and the instructions of the main loop, beside
those of the yardstick with the same tiles. The main loop is over pairs of full tiles; in kernels without tiles it is
over query tiles or items. Kernels without a plan have no counterpart in the yardstick, hence no ratio. float32 in full
precision uses no matrix instructions, by which loops are recognized, hence no loop counts.

The new rows replace the old ones of the same kernels in benchmarks/results/static.json.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import torch
import triton

from benchmarks.ahead_of_time import TARGETS, calls, compile_call, refuse_interpreter, resources
from benchmarks.budget import RESULTS, TILED
from benchmarks.loops import matrix_loops
from benchmarks.yardstick import yardstick_call
from fame_accel.kernels.launch import Call
from fame_accel.kernels.launch_table import HEAD_DIMS, choose_launch

KEY = ("triton", "target", "head_dim", "dtype", "kernel")

_COLUMNS = (
    *("target", "head_dim", "dtype", "tile", "registers", "spill_bytes", "loop_spills", "shared_bytes"),
    *("loop_instructions", "loop_mma", "yardstick_instructions", "yardstick_mma", "ratio"),
)


def rows(target: str, head_dim: int, dtype_name: str = "float16") -> list[dict[str, Any]]:
    """One row per kernel, and one of the yardstick."""
    dtype = getattr(torch, dtype_name)
    shape = (2, 32768, 8, head_dim)
    tensors = [torch.empty(shape, dtype=dtype, device="meta").transpose(1, 2) for _ in range(4)]

    @cache
    def plain(kernel: str) -> dict[str, Any]:
        """The yardstick with the launch of a kernel over a plan."""
        launch = choose_launch(kernel, TARGETS[target][0], head_dim, dtype.itemsize)
        return _row("yardstick", yardstick_call(*tensors, 0.125, launch), target, head_dim, dtype_name, None)

    counted = [plain("tiled")]
    for name, call in calls(target, head_dim, dtype):
        counted.append(_row(name, call, target, head_dim, dtype_name, plain(TILED[name]) if name in TILED else None))
    return counted


def _row(name: str, call: Call, target: str, head_dim: int, dtype: str, plain: dict[str, Any] | None) -> dict[str, Any]:
    """The counts of one kernel; plain: those of the yardstick with its tiles."""
    compiled = compile_call(call, target)
    loops = matrix_loops(compiled, target)
    # the loop over short tiles is longer, as it has masks; the shorter loop of streamed_keys finds the extremes
    main = (loops[-1] if name.startswith("streamed") else loops[0]) if loops else None
    other = next((loop for loop in reversed(loops) if loop is not main), main)
    arguments = call.arguments
    return {
        "triton": triton.__version__,
        "kernel": name,
        "target": target,
        "head_dim": head_dim,
        "dtype": dtype,
        "tile": [arguments.get("BLOCK_Q", 0), arguments.get("BLOCK_K", arguments.get("KEYS", 0))],
        "warps": call.options["num_warps"],
        **resources(compiled, target),
        "loop_instructions": main and main.instructions,
        "other_loop_instructions": other and other.instructions,
        "loop_mma": main and main.kinds["matrix"],
        "loop_spills": main and main.kinds.get("spill", 0),
        "loop_kinds": main and main.kinds,
        "yardstick_instructions": plain and plain["loop_instructions"],
        "yardstick_mma": plain and plain["loop_mma"],
        "ratio": round(main.instructions / plain["loop_instructions"], 3) if main and plain else None,
    }  # fmt: skip


def merged(path: Path, counted: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of the file, with the counted ones in place of those with the same KEY."""
    old = json.loads(path.read_text()) if path.exists() else []
    table = {tuple(row[name] for name in KEY): row for row in [*old, *counted]}
    return [table[key] for key in sorted(table, key=str)]


def main() -> None:
    """Count the kernels and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--targets", nargs="+", default=list(TARGETS), choices=TARGETS)
    parser.add_argument("--head-dims", nargs="+", type=int, default=list(HEAD_DIMS))
    parser.add_argument("--dtypes", nargs="+", default=["float16"], choices=["float16", "bfloat16", "float32"])
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    refuse_interpreter(parser)
    counted: list[dict[str, Any]] = []
    print(_line("kernel", *_COLUMNS))
    work = list(itertools.product(args.targets, args.head_dims, args.dtypes))
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(len(work), os.cpu_count() or 1), mp_context=context) as pool:
        for part in pool.map(rows, *zip(*work, strict=True)):
            for row in part:
                print(_line(row["kernel"], *(row[column] for column in _COLUMNS)), flush=True)
            counted += part
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text("[\n" + ",\n".join(json.dumps(row) for row in merged(args.out, counted)) + "\n]\n")


def _line(kernel: str, *cells: object) -> str:
    texts = (
        "-" if cell is None else "x".join(map(str, cell)) if isinstance(cell, list) else str(cell) for cell in cells
    )
    widths = (max(len(column), 8) for column in _COLUMNS)
    return f"{kernel:20}" + "  ".join(text.rjust(width) for text, width in zip(texts, widths, strict=True))


if __name__ == "__main__":
    main()

"""The static budget: what the kernels' main loops cost on NVIDIA chips, counted without one.

    python -m benchmarks.static [--targets sm_80 sm_90] [--head-dims 40 64 ...] [--out static.json]

Per kernel, target and head_dim: registers, spills, shared memory and the instructions of the main loop (one pair of
full tiles), beside those of the yardstick with the same tiles. The few-keys and short-sequences kernels (a loop over
heads) have no counterpart there: no ratio.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
import triton
from fame_accel.kernels.launch_table import choose_launch

from benchmarks.ahead_of_time import TARGETS, calls, compile_call, refuse_interpreter, resources
from benchmarks.sass import main_loop
from benchmarks.yardstick import yardstick_call

RESULTS = Path(__file__).parent / "results" / "static.json"

_COLUMNS = (
    *("target", "head_dim", "tile", "registers", "spill_bytes", "shared_bytes"),
    *("loop_instructions", "loop_mma", "yardstick_instructions", "yardstick_mma", "ratio"),
)


def rows(target: str, head_dim: int, dtype: torch.dtype = torch.float16) -> list[dict[str, object]]:
    """One row per kernel."""
    launch = choose_launch("tiled", TARGETS[target][0], head_dim, dtype.itemsize)
    shape = (2, 32768, 8, head_dim)
    tensors = (torch.empty(shape, dtype=dtype, device="meta").transpose(1, 2) for _ in range(4))
    plain = main_loop(compile_call(yardstick_call(*tensors, 0.125, launch), target).asm["cubin"])
    found = []
    for name, call in calls(target, head_dim, dtype):
        compiled = compile_call(call, target)
        loop = main_loop(compiled.asm["cubin"])
        comparable = not name.startswith(("few_keys", "short_sequences"))
        found.append({
            "triton": triton.__version__,
            "kernel": name,
            "target": target,
            "head_dim": head_dim,
            "dtype": str(dtype).removeprefix("torch."),
            "tile": [call.arguments["BLOCK_Q"], call.arguments["BLOCK_K"]],
            **resources(compiled, target),
            "loop_instructions": loop.instructions,
            "loop_mma": loop.kinds["matrix"],
            "loop_kinds": loop.kinds,
            "yardstick_instructions": plain.instructions if comparable else None,
            "yardstick_mma": plain.kinds["matrix"] if comparable else None,
            "ratio": round(loop.instructions / plain.instructions, 3) if comparable else None,
        })  # fmt: skip
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    nvidia = [target for target in TARGETS if target.startswith("sm_")]
    parser.add_argument("--targets", nargs="+", default=["sm_80", "sm_90"], choices=nvidia)
    parser.add_argument("--head-dims", nargs="+", type=int, default=[40, 64, 80, 128, 160])
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    refuse_interpreter(parser)
    found = []
    print(_line("kernel", *_COLUMNS))
    for target in args.targets:
        for head_dim in args.head_dims:
            for row in rows(target, head_dim):
                found.append(row)
                print(_line(row["kernel"], *(row[column] for column in _COLUMNS)), flush=True)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text("[\n" + ",\n".join(json.dumps(row) for row in found) + "\n]\n")


def _line(kernel: str, *cells: object) -> str:
    texts = (
        "-" if cell is None else "x".join(map(str, cell)) if isinstance(cell, list) else str(cell) for cell in cells
    )
    widths = (len(column) for column in _COLUMNS)
    return f"{kernel:20}" + "  ".join(text.rjust(width) for text, width in zip(texts, widths, strict=True))


if __name__ == "__main__":
    main()

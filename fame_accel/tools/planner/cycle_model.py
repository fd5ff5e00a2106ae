"""A cycle model of the kernels: from counted instructions to the time of a layer on chips that nothing was run on.

One pair of tiles keeps the pipes of a multiprocessor busy for, in clocks:

    matrix   operations / rate of the matrix units, the padding of the head dimension included
    exp      32 exponentials a warp instruction, 16 a clock
    fma      warp instructions of multiply-add kind / rate
    alu      those of minimum, select, conversion, shuffle and integer kind / rate
    issue    all instructions, 4 a clock
    l2       bytes of the key and value tiles / rate of the L2 cache

The slowest pipe is the bound: no overlap can beat it. The kernels' loops do not overlap the two matrix products with
the softmax between them except through other warps, so the prediction adds the matrix time to the largest of the
others (the L2 cache aside, which overlaps with everything). By this sum plain flash attention would reach 480 and 567
TFLOPS on an H100 at head_dim 64 and 128; in Triton it is published with 403 and 395, 0.84 and 0.70 of that. EFFICIENCY
lies between: the sum is divided by it. The bytes that must move, and LAUNCH_US a launch, come on top.
The model was made before any run on a GPU.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from fame_accel.kernels.launch import split_head_dim

EFFICIENCY = 0.8
LAUNCH_US = 4.0
_ALU = ("minmax", "select", "convert", "shuffle", "address")


@dataclass(frozen=True)
class Chip:
    """A GPU. Per multiprocessor and clock: matrix operations (16-bit), warp instructions of the pipes, L2 bytes."""

    name: str
    target: str
    multiprocessors: int
    clock_ghz: float
    matrix: int
    fma: float
    alu: float
    l2: float
    gbytes_per_s: float


# Whitepapers: 989 TFLOPS (132 SMs at 1.83 GHz), 312 TFLOPS (108 SMs at 1.41 GHz); HBM of the 80 GB models. The L2 rate,
# about 28 bytes, is what public microbenchmarks read on both.
CHIPS = (
    Chip("H100", "sm_90", 132, 1.83, 4096, 4.0, 2.0, 28, 3350),
    Chip("A100", "sm_80", 108, 1.41, 2048, 2.0, 2.0, 28, 2039),
)


class Cycles(NamedTuple):
    """Clocks of a multiprocessor: those of the slowest pipe, its name, and the prediction."""

    floor: float
    bound: str
    predicted: float


def loop_cycles(
    chip: Chip, row: Mapping[str, Any], matrix_operations: float, l2_bytes: float, scale: float = 1.0
) -> Cycles:
    """Clocks of one turn of a loop.

    Args:
        chip: where it would run.
        row: the loop's counts, a row of benchmarks/results/static.json.
        matrix_operations: of one turn.
        l2_bytes: read in one turn.
        scale: how many times the loop's instructions the turn has (the exponentials stay as they are).
    """
    kinds, warps = row["loop_kinds"], row["warps"]
    pipes = {
        "matrix": matrix_operations / chip.matrix,
        "exp": kinds.get("mufu", 0) * warps * 32 / 16,
        "fma": kinds.get("fma", 0) * warps * scale / chip.fma,
        "alu": sum(kinds.get(kind, 0) for kind in _ALU) * warps * scale / chip.alu,
        "issue": row["loop_instructions"] * warps * scale / 4,
        "l2": l2_bytes / chip.l2,
    }
    bound = max(pipes, key=pipes.__getitem__)
    rest = max(time for pipe, time in pipes.items() if pipe not in ("matrix", "l2"))
    return Cycles(pipes[bound], bound, max(pipes["matrix"] + rest, pipes["l2"]) / EFFICIENCY)


def turn_cycles(chip: Chip, kernel: str, row: Mapping[str, Any], head_dim: int) -> tuple[Cycles, Cycles]:
    """Clocks of a kernel's turn over a full and over a short pair of tiles; row: its counts.

    A turn of few_keys is a query tile with all its keys, 64 + 16 of them, which are held on the chip. streamed_keys
    multiplies queries and keys twice.
    """
    rows, keys = row["tile"]
    longer = row["other_loop_instructions"] / row["loop_instructions"]
    if kernel == "few_keys":
        cycles = loop_cycles(chip, row, tile_work(kernel, rows, 80, head_dim)[0], 0)
        return cycles, cycles
    operations, l2_bytes = tile_work(kernel, rows, keys, head_dim)
    if kernel == "streamed_keys":
        cycles = loop_cycles(chip, row, 1.5 * operations, 1.5 * l2_bytes, 1 + longer)
        return cycles, cycles
    return loop_cycles(chip, row, operations, l2_bytes), loop_cycles(chip, row, operations, l2_bytes, longer)


def tile_work(kernel: str, rows: int, keys: int, head_dim: int) -> tuple[float, float]:
    """Matrix operations, and bytes of keys and values (16-bit), of one pair of tiles as the kernel's blocks hold them.

    The pass over extremes has one product and no values.
    """
    products, width = (1 if kernel == "extremes" else 2), sum(split_head_dim(head_dim))
    return products * 2 * rows * keys * width, products * 2 * keys * width


def milliseconds(chip: Chip, cycles: float, programs: int, moved_bytes: float, launches: int) -> float:
    """Time of a layer whose loops take `cycles` clocks in all, or whose bytes take longer.

    Fewer programs than multiprocessors leave the others idle.
    """
    busy = min(programs, chip.multiprocessors)
    compute = cycles / busy / chip.clock_ghz / 1e6
    return max(compute, moved_bytes / chip.gbytes_per_s / 1e6) + launches * LAUNCH_US / 1e3

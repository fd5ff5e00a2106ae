"""A cycle model of the kernels: from counted instructions to the bound and the time of a layer on known chips.

Of one pair of tiles a multiprocessor's pipes take, in clocks:

    matrix   operations / rate of the matrix units, the padding of the head dimension included
    exp      32 exponentials a warp instruction, 16 a clock
    fma      warp instructions of multiply-add kind / rate
    alu      those of minimum, select, conversion, shuffle and integer kind / rate
    issue    all instructions, 4 a clock
    l2       bytes of the key and value tiles / rate of the L2 cache

The pipe that takes most is the bound: what no overlap can beat. The kernels' loops do not overlap the two matrix
products with the softmax between them but for what other warps bring, so the prediction adds the matrix time to the
largest of the others (the L2 cache aside, which overlaps with all). By this sum the yardstick would reach 480 and 567
TFLOPS on an H100 at head_dim 64 and 128; plain flash attention in Triton is published with 403 and 395, 0.84 and 0.70
of that. EFFICIENCY lies between: the sum is divided by it.

To this come the bytes that must move, and LAUNCH_US a launch. Nothing here has been measured by us.
"""

from __future__ import annotations

from dataclasses import dataclass

import fame_accel.bindings  # noqa: F401  (makes fame_accel.kernels importable from a checkout)
from fame_accel.kernels.launch import split_head_dim

EFFICIENCY = 0.8
LAUNCH_US = 4.0
_ALU = ("minmax", "select", "convert", "shuffle", "address")


@dataclass(frozen=True)
class Chip:
    """Of one multiprocessor and clock: matrix operations (16-bit), warp instructions of the pipes, L2 bytes."""

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


@dataclass(frozen=True)
class Cycles:
    """Clocks of a multiprocessor: of the pipe that takes most, its name, and as predicted."""

    floor: float
    bound: str
    predicted: float


def loop_cycles(chip: Chip, row: dict, matrix_operations: float, l2_bytes: float, scale: float = 1.0) -> Cycles:
    """Of one turn of the loop counted in a row of static.json; scale: how many times its instructions another loop of
    the kernel has (no more exponentials, the more of the others)."""
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


def milliseconds(chip: Chip, cycles: float, programs: int, moved_bytes: float, launches: int) -> float:
    """Time of a layer whose loops take `cycles` in all, or whose bytes take longer; fewer programs than
    multiprocessors leave the others idle."""
    busy = min(programs, chip.multiprocessors)
    compute = cycles / busy / chip.clock_ghz / 1e6
    return max(compute, moved_bytes / chip.gbytes_per_s / 1e6) + launches * LAUNCH_US / 1e3


def tile_work(kernel: str, rows: int, keys: int, head_dim: int) -> tuple[float, float]:
    """Matrix operations and bytes of keys and values (16-bit) of one turn of a kernel's loop, as its blocks hold
    them; the pass over extremes has one product and no values."""
    products, width = (1 if kernel == "extremes" else 2), sum(split_head_dim(head_dim))
    return products * 2 * rows * keys * width, products * 2 * keys * width

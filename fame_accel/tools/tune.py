"""Times launches near those of the launch table on this GPU and writes the fastest to a JSON file.

`kernels/launch_table.load` reads the file; the one named by FAME_ACCEL_LAUNCHES is loaded at the first launch. A launch
is timed only after its results passed the parity test; nothing is tuned unless asked for.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import NamedTuple

import torch

from fame_accel import bindings
from fame_accel.bindings.device import family as chip_family
from fame_accel.core.limits import DTYPES
from fame_accel.kernels.launch import Launch, split_head_dim
from fame_accel.kernels.launch_table import HEAD_DIMS, KERNELS, VARIABLE, choose_launch, override
from fame_accel.media.outputs import atomic_write, check_output_file
from fame_accel.tools.parity_cases import ParityCase
from fame_accel.tools.tune_cases import JUDGED, other_cases, timed_cases

TIE = 0.02  # the table's entry stays unless another is faster by more than this share
# Doublings of block_q, block_k and num_warps, and what is added to num_stages.
_CHANGES = (
    *((1, 0, 0, 0), (-1, 0, 0, 0), (0, 1, 0, 0), (0, -1, 0, 0), (0, 0, 1, 0), (0, 0, -1, 0)),
    *((0, 0, 0, 1), (0, 0, 0, -1), (1, 0, 1, 0), (-1, 0, -1, 0), (1, -1, 0, 0), (1, -1, 1, 0)),
    *((-1, 1, 0, 0), (0, -1, 0, 1), (0, 1, 0, -1)),
)
_OVER_PLANS = ("tiled", "one_pass", "two_pass")
_REGISTERS = (0, 128, 168)  # limits with which a multiprocessor holds four and three programs of four warps
# Chips without asynchronous copies gain nothing from a pipeline.
_MOST_STAGES = {"sm75": 1, "rdna": 1, "cdna": 2, "interpreter": 1}


class TableKey(NamedTuple):
    """What an entry of the launch table is for; element_size: in bytes."""

    kernel: str
    family: str
    head_dim: int
    element_size: int


class Tuned(NamedTuple):
    """The fastest launch, its milliseconds, and those of the table's entry, None where that is not right here."""

    launch: Launch
    ms: float
    table_ms: float | None


def run_tune(
    out: str | Path,
    head_dims: Sequence[int] = HEAD_DIMS,
    dtypes: Sequence[str] = ("float16",),
    kernels: Sequence[str] = KERNELS,
    device: str | None = None,
) -> bool:
    """Tune each kernel for each head_dim and dtype, print every candidate, and write the launches after each.

    Args:
        out: the JSON file to write; there is none until a launch was found.
        head_dims: 1 to 256.
        dtypes: some of float32, float16, bfloat16, but not both of the last two, which share their entries.
        kernels: some of KERNELS.
        device: a torch device; None is cuda.

    Returns:
        Whether each kernel has a launch that gives right results.

    Raises:
        ValueError: an argument is out of range.
        RuntimeError: the kernels cannot run here.
    """
    _check(head_dims, dtypes, kernels)
    tuned_device = _device(device, dtypes)
    path = check_output_file("--out", out)
    rows: list[dict[str, object]] = []
    failed = False
    with torch.cuda.device_of(torch.empty(0, device=tuned_device)):
        for kernel, name, head_dim in product(kernels, dtypes, head_dims):
            dtype = getattr(torch, name)
            key = TableKey(kernel, chip_family(tuned_device), head_dim, dtype.itemsize)
            print(f"\n{kernel}, head_dim {head_dim}, {name}, {key.family}", flush=True)
            entry = choose_launch(*key)
            if entry is None:
                print("  no entry in the table: streamed_keys takes these keys too")
                continue
            tuned = _fastest(key, entry, dtype, tuned_device)
            if tuned is None:
                failed = True
                continue
            rows.append(_row(key, name, tuned_device, tuned))
            with atomic_write(path) as temporary:
                temporary.write_text("[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n")
    if rows:
        print(f"\n{len(rows)} launches in {path}; use them with {VARIABLE}={path}")
    return bool(rows) and not failed


def candidates(key: TableKey, entry: Launch, shared_limit: int | None = None) -> list[Launch]:
    """The table's entry and its neighbors.

    These have tiles and warps twice or half as many, a stage more or less, alone and in pairs that keep the work of a
    warp or the memory alike; then fewer registers, also with twice the warps.

    Args:
        key: what the entry is for.
        entry: the table's.
        shared_limit: bytes of shared memory that a block may use; None sets no limit. What cannot fit it, or the
            registers, is left out.
    """
    neighbors = [
        entry._replace(
            block_q=_doubled(entry.block_q, q),
            block_k=_doubled(entry.block_k, k),
            num_warps=_doubled(entry.num_warps, warps),
            num_stages=entry.num_stages + stages,
        )
        for q, k, warps, stages in _CHANGES
    ]
    if key.kernel in _OVER_PLANS and key.family != "interpreter":
        neighbors.append(entry._replace(parts=8 if entry.parts == 1 else 1))
    if key.kernel in _OVER_PLANS and key.family.startswith("sm"):
        neighbors += [entry._replace(registers=limit) for limit in _REGISTERS]
        neighbors.append(entry._replace(num_warps=2 * entry.num_warps, registers=128))
    return list(dict.fromkeys([entry, *(launch for launch in neighbors if _fits(launch, key, shared_limit))]))


def _fits(launch: Launch, key: TableKey, shared_limit: int | None) -> bool:
    """Whether a launch may run, by what every kernel of its kind holds at least."""
    least_k = 0 if key.kernel == "few_keys" else 16
    if not (16 <= launch.block_q <= 256 and least_k <= launch.block_k <= 128):
        return False
    if not 1 <= launch.num_stages <= _MOST_STAGES.get(key.family, 1 if key.family.startswith("gfx") else 4):
        return False
    if key.family == "interpreter":
        return launch.num_warps == 1
    width = sum(split_head_dim(key.head_dim))
    shared = (launch.num_stages - 1) * launch.block_k * 2 * width * key.element_size  # keys and values in flight
    threads = (64 if key.family == "cdna" else 32) * launch.num_warps
    return (
        2 <= launch.num_warps <= 8
        and (shared_limit is None or shared <= shared_limit)
        and launch.block_q * width < (launch.registers or 255) * threads  # the accumulator, in registers
    )


def milliseconds(call: Callable[[], object], device: torch.device) -> float:
    """Median time of a call; in the interpreter the time of one run, which says nothing about a GPU."""
    if device.type == "cpu":
        start = time.perf_counter()
        call()
        return 1e3 * (time.perf_counter() - start)
    from triton.testing import do_bench

    call()  # compiles, and makes the plan
    graph = torch.cuda.CUDAGraph()  # launching a short kernel from Python takes longer than running it
    with torch.cuda.graph(graph):
        call()
    return do_bench(graph.replay, return_mode="median")


def _fastest(key: TableKey, entry: Launch, dtype: torch.dtype, device: torch.device) -> Tuned | None:
    """The fastest launch that gives right results, or the table's entry on a tie; None where none is right."""
    case = (key.kernel, key.head_dim, dtype, device)
    judged, timed, others = timed_cases(*case, JUDGED), timed_cases(*case), other_cases(*case)
    times: dict[Launch, float] = {}
    for launch in candidates(key, entry, _shared_limit(device)):
        with override(*key, launch):
            ms = _time(judged, timed, device)
        text = f"  {describe(launch):38}"
        if isinstance(ms, str):
            print(f"{text}  {ms}", flush=True)
            continue
        times[launch] = ms
        ratio = f"  {ms / times[entry]:.3f}" if entry in times else ""
        print(f"{text}  {ms:9.4f} ms{ratio}{'  table' if launch == entry else ''}", flush=True)
    faster = [launch for launch in times if times[launch] < (1 - TIE) * times.get(entry, math.inf)]
    order = sorted(faster, key=times.__getitem__)
    for launch in [*order, entry] if entry in times else order:
        with override(*key, launch):
            mistake = _time(others, [], device)
        if not isinstance(mistake, str):
            print(f"  best: {describe(launch)}{', as in the table' if launch == entry else ''}", flush=True)
            return Tuned(launch, times[launch], times.get(entry))
        print(f"  not {describe(launch)}: {mistake}", flush=True)
    print("  no candidate ran and was right")
    return None


def _time(judged: list[ParityCase], timed: list[ParityCase], device: torch.device) -> float | str:
    """Milliseconds of the timed cases together, or why the launch that is now in the table cannot be used."""
    from triton.errors import TritonError

    try:
        for case in judged:
            if (mistake := case.mistake()) is not None:
                return mistake
        return sum(milliseconds(case.run, device) for case in timed)
    except torch.AcceleratorError:  # the device is lost, and every launch after this one with it
        raise
    except (TritonError, RuntimeError) as error:  # too large for the chip, or for its compiler
        return f"{type(error).__name__}: {error}".partition("\n")[0]


def _row(key: TableKey, dtype: str, device: torch.device, tuned: Tuned) -> dict[str, object]:
    """An entry for the launch table, and how it was found."""
    import triton

    return {
        **key._asdict(),
        **tuned.launch._asdict(),
        "ms": round(tuned.ms, 4),
        "table_ms": None if tuned.table_ms is None else round(tuned.table_ms, 4),
        "dtype": dtype,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "interpreter on a CPU",
        "torch": torch.__version__,
        "triton": triton.__version__,
    }


def _device(name: str | None, dtypes: Sequence[str]) -> torch.device:
    """The device to tune on; RuntimeError says what is missing."""
    if name is None and not torch.cuda.is_available():
        raise RuntimeError(
            f"tune needs a GPU, and torch {torch.__version__} sees none; to try the command without one: "
            "TRITON_INTERPRET=1 fame-accel tune --device cpu"
        )
    device = torch.device("cuda" if name is None else name)
    if device.type not in ("cuda", "cpu"):
        raise RuntimeError(f"--device must be a cuda device, or cpu to try the command, got {name}")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise RuntimeError(f"--device {name}: torch {torch.__version__} sees no GPU")
    if device.type == "cuda" and os.environ.get("TRITON_INTERPRET") == "1":
        raise RuntimeError("TRITON_INTERPRET=1 is set: kernels would be interpreted, not timed; unset it")
    for dtype in dtypes:
        if (reason := bindings.triton_unavailable(device, getattr(torch, dtype))) is not None:
            raise RuntimeError(f"tune cannot run here: {reason}")
    return device


def _check(head_dims: Sequence[int], dtypes: Sequence[str], kernels: Sequence[str]) -> None:
    for flag, values, allowed in (("--dtypes", dtypes, DTYPES), ("--kernels", kernels, KERNELS)):
        if not set(values) <= set(allowed):
            raise ValueError(f"{flag} must be some of {', '.join(allowed)}, got {' '.join(map(str, values))}")
    if not all(1 <= head_dim <= 256 for head_dim in head_dims):
        raise ValueError(f"--head-dims must lie in 1 to 256, got {' '.join(map(str, head_dims))}")
    if {"float16", "bfloat16"} <= set(dtypes):
        raise ValueError("--dtypes must name one of float16 and bfloat16, which share their entries, got both")


def _shared_limit(device: torch.device) -> int | None:
    """Bytes of shared memory that a block may use, None where torch does not say."""
    if device.type != "cuda":
        return None
    return getattr(torch.cuda.get_device_properties(device), "shared_memory_per_block_optin", None)


def _doubled(number: int, times: int) -> int:
    return number << times if times >= 0 else number >> -times


def describe(launch: Launch) -> str:
    """Rows x keys of its tiles, warps, stages and, where they are not the default, parts and registers."""
    tile = f"{launch.block_q} x {launch.block_k}" if launch.block_k else f"{launch.block_q} rows"
    rare = {name: getattr(launch, name) for name in ("parts", "registers")}
    rest = "".join(f", {name} {value}" for name, value in rare.items() if value != Launch._field_defaults[name])
    return f"{tile}, warps {launch.num_warps}, stages {launch.num_stages}{rest}"

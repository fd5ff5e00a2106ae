"""`fame-accel tune`: times launches near those of the launch table on this GPU and writes the best to a JSON file.

The file is for `kernels/launch_table.load`, which reads the one named by FAME_ACCEL_LAUNCHES at the first launch. A
launch is timed only after its results were held against the reference; nothing is tuned unless asked for.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path

import torch

from fame_accel import bindings
from fame_accel.bindings.device import family as chip_family
from fame_accel.kernels.launch import Launch, split_head_dim
from fame_accel.kernels.launch_table import VARIABLE, choose_launch, override
from fame_accel.tools.parity_cases import ParityCase
from fame_accel.tools.tune_cases import JUDGED, KERNELS, other_cases, timed_cases

HEAD_DIMS = (40, 64, 80, 128, 160)
DTYPES = ("float16", "bfloat16", "float32")
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




def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", default="launches.json", help="JSON file to write, for FAME_ACCEL_LAUNCHES")
    parser.add_argument("--head-dims", nargs="+", type=int, default=list(HEAD_DIMS), metavar="D", help="1 to 256")
    dtypes = "float16 or bfloat16, and float32"
    parser.add_argument("--dtypes", nargs="+", default=list(DTYPES[:1]), metavar="T", help=dtypes)
    parser.add_argument("--kernels", nargs="+", default=list(KERNELS), metavar="K", help="some of the default")
    device = "torch device; cuda if not given. cpu, under TRITON_INTERPRET=1, is for trying"
    parser.add_argument("--device", help=device)


def command(**arguments: object) -> int:
    return 0 if run_tune(**arguments) else 1


def run_tune(
    out: str | Path,
    head_dims: Sequence[int] = HEAD_DIMS,
    dtypes: Sequence[str] = DTYPES[:1],
    kernels: Sequence[str] = KERNELS,
    device: str | None = None,
) -> bool:
    """Tune each kernel for each head_dim and dtype, print every candidate, and write the launches to `out` after each.

    False where no candidate of a kernel gave right results. ValueError for bad arguments, RuntimeError where the
    kernels cannot run.
    """
    _check(head_dims, dtypes, kernels)
    where = _device(device, dtypes)
    path = Path(out)
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise ValueError(f"--out {out} must be a file in a folder that exists")
    rows, missing = [], 0
    with torch.cuda.device_of(torch.empty(0, device=where)):
        for kernel, dtype, head_dim in product(kernels, dtypes, head_dims):
            chip = (chip_family(where), head_dim, getattr(torch, dtype).itemsize)
            entry = choose_launch(kernel, *chip)
            print(f"\n{kernel}, head_dim {head_dim}, {dtype}, {chip[0]}", flush=True)
            if entry is None:
                print("  no entry in the table: streamed_keys takes these keys too")
                continue
            found = _best(kernel, chip, entry, getattr(torch, dtype), where)
            if found is None:
                missing += 1
                continue
            rows.append(_row(kernel, chip, dtype, where, *found))
            path.write_text("[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n")
    if rows:
        print(f"\n{len(rows)} launches in {path}; use them with {VARIABLE}={path}")
    return bool(rows) and not missing


def candidates(
    kernel: str, family: str, head_dim: int, element_size: int, entry: Launch, shared_limit: int | None = None
) -> list[Launch]:
    """The entry, then its neighbours: tiles and warps twice or half as many, a stage more or less, alone and in pairs
    that keep the work of a warp or the memory alike; fewer registers, and these with twice the warps. Left out: what
    cannot fit shared_limit bytes or the registers."""
    found = [entry]
    for q, k, warps, stages in _CHANGES:
        tile = (_doubled(entry.block_q, q), _doubled(entry.block_k, k))
        found.append(entry._replace(
            block_q=tile[0], block_k=tile[1], num_warps=_doubled(entry.num_warps, warps),
            num_stages=entry.num_stages + stages,
        ))  # fmt: skip
    if kernel in _OVER_PLANS and family != "interpreter":
        found.append(entry._replace(parts=8 if entry.parts == 1 else 1))
    if kernel in _OVER_PLANS and family.startswith("sm"):
        found += [entry._replace(registers=limit) for limit in _REGISTERS]
        found.append(entry._replace(num_warps=2 * entry.num_warps, registers=128))
    fit = [launch for launch in found[1:] if _fits(launch, kernel, family, head_dim, element_size, shared_limit)]
    return list(dict.fromkeys([entry, *fit]))


def _fits(launch: Launch, kernel: str, family: str, head_dim: int, element_size: int, shared_limit: int | None) -> bool:
    """Whether a launch may do, by what every kernel of its kind holds at least."""
    if not (16 <= launch.block_q <= 256 and (0 if kernel == "few_keys" else 16) <= launch.block_k <= 128):
        return False
    if not 1 <= launch.num_stages <= _MOST_STAGES.get(family, 1 if family.startswith("gfx") else 4):
        return False
    if family == "interpreter":
        return launch.num_warps == 1
    width = sum(split_head_dim(head_dim))
    shared = (launch.num_stages - 1) * launch.block_k * 2 * width * element_size  # keys and values in flight
    threads = (64 if family == "cdna" else 32) * launch.num_warps
    return (
        2 <= launch.num_warps <= 8
        and (shared_limit is None or shared <= shared_limit)
        and launch.block_q * width < (launch.registers or 255) * threads  # the accumulator, in registers
    )


def milliseconds(call: Callable[[], object], device: torch.device) -> float:
    """Median time of a call; in the interpreter that of one run, which says nothing about a GPU."""
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


def _best(
    kernel: str, chip: tuple[str, int, int], entry: Launch, dtype: torch.dtype, device: torch.device
) -> tuple[Launch, float, float | None] | None:
    """The best launch, its milliseconds and those of the entry; None where no launch is right."""
    case = (kernel, chip[1], dtype, device)
    judged, timed, others = timed_cases(*case, JUDGED), timed_cases(*case), other_cases(*case)
    times: dict[Launch, float] = {}
    for launch in candidates(kernel, *chip, entry, _shared_limit(device)):
        with override(kernel, *chip, launch):
            ms = _trial(judged, timed, device)
        text = f"  {describe(launch):38}"
        if isinstance(ms, str):
            print(f"{text}  {ms}", flush=True)
            continue
        times[launch] = ms
        ratio = f"  {ms / times[entry]:.3f}" if entry in times else ""
        print(f"{text}  {ms:9.4f} ms{ratio}{'  table' if launch == entry else ''}", flush=True)
    enough = (1 - TIE) * times.get(entry, math.inf)
    order = [launch for launch in sorted(times, key=times.__getitem__) if times[launch] < enough]
    for launch in [*order, entry] if entry in times else order:
        with override(kernel, *chip, launch):
            wrong = _trial(others, [], device)
        if not isinstance(wrong, str):
            print(f"  best: {describe(launch)}{', as in the table' if launch == entry else ''}", flush=True)
            return launch, times[launch], times.get(entry)
        print(f"  not {describe(launch)}: {wrong}", flush=True)
    print("  no candidate ran and was right")
    return None


def _trial(judged: list[ParityCase], timed: list[ParityCase], device: torch.device) -> float | str:
    """Milliseconds of the timed cases together, or why the launch in the table is no good."""
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


def _row(
    kernel: str,
    chip: tuple[str, int, int],
    dtype: str,
    device: torch.device,
    launch: Launch,
    ms: float,
    table_ms: float | None,
) -> dict[str, object]:
    """An entry for the launch table, and how it was found."""
    import triton

    return dict(
        kernel=kernel, family=chip[0], head_dim=chip[1], element_size=chip[2], **launch._asdict(),
        ms=round(ms, 4), table_ms=None if table_ms is None else round(table_ms, 4), dtype=dtype,
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else "interpreter on a CPU",
        torch=torch.__version__, triton=triton.__version__,
    )  # fmt: skip


def _device(name: str | None, dtypes: Sequence[str]) -> torch.device:
    """Where to tune; RuntimeError names what is missing."""
    if name is None and not torch.cuda.is_available():
        raise RuntimeError(
            f"tune needs a GPU, and torch {torch.__version__} sees none; to try the command without one: "
            "TRITON_INTERPRET=1 fame-accel tune --device cpu"
        )
    device = torch.device("cuda" if name is None else name)
    if device.type not in ("cuda", "cpu"):
        raise RuntimeError(f"--device {name}: the Triton kernels run on cuda devices, and on the cpu for trying")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise RuntimeError(f"--device {name}: torch {torch.__version__} sees no GPU")
    if device.type == "cuda" and os.environ.get("TRITON_INTERPRET") == "1":
        raise RuntimeError("TRITON_INTERPRET=1 is set: kernels would be interpreted, not timed; unset it")
    for dtype in dtypes:
        if (reason := bindings.triton_unavailable(device, getattr(torch, dtype))) is not None:
            raise RuntimeError(f"tune cannot run here: {reason}")
    return device


def _check(head_dims: Sequence[int], dtypes: Sequence[str], kernels: Sequence[str]) -> None:
    for option, values, allowed in (("--dtypes", dtypes, DTYPES), ("--kernels", kernels, KERNELS)):
        if not set(values) <= set(allowed):
            raise ValueError(f"{option} takes {', '.join(allowed)}, got {' '.join(map(str, values))}")
    if not all(1 <= head_dim <= 256 for head_dim in head_dims):
        raise ValueError(f"--head-dims must lie in [1, 256], got {' '.join(map(str, head_dims))}")
    if {"float16", "bfloat16"} <= set(dtypes):
        raise ValueError("--dtypes float16 bfloat16: the two share their entries; tune for one of them")


def _shared_limit(device: torch.device) -> int | None:
    """Bytes of shared memory that a block may ask for, None where torch does not tell."""
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

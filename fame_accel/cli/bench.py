"""Measure what fused attention gains over eager on this machine, for a model: time, memory, parity.

The layers of the model's UNet are run one by one with random tensors, eagerly as VideoGrain runs its formula, by
torch's attention without modulation, and by this library. Results are held against the reference in float64 before they
are timed. Cases that would not fit --seconds are left out, and said. With --base the working tree is compared with
another revision of it instead.

Writes to OUT: bench.csv (to which each run is added), bench.png and bench.html.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

import torch

from fame_accel.bench.cases import FAME, FAME_STRENGTH, REGION_MASK, VIDEOGRAIN, Operation, Shape
from fame_accel.bench.rows import Row, append
from fame_accel.cli.flags import size as parse_size
from fame_accel.core.layout import MAX_REGIONS
from fame_accel.media.packages import require
from fame_accel.tools.measure import freed_memory_is_kept, keep_freed_memory
from fame_accel.tools.planner.network import FAMILIES, LATENT, read_network

MODULATIONS = {
    "fame": FAME,
    "fame-strength": FAME_STRENGTH,
    "videograin": VIDEOGRAIN,
    "region-mask": REGION_MASK,
}
TEXT = Operation("cross_77", pulled=True)
TEXT_TOKENS = 77
DTYPES = ("float16", "bfloat16", "float32")
MOST_FRAMES = 1024
# frames, size and dtype where they are not given
_DEFAULTS = {"cpu": (8, (256, 256), "float32"), "cuda": (16, (512, 512), "float16")}
_SECONDS = 100.0
_PATIENCE = 3.0  # seconds of a call, past which it is repeated no more
_IDLE_LOAD = 0.7  # load average, up to which a CPU counts as free for measuring
_PAGES = (
    "Freed memory was kept from call to call. C libraries give it back by default, which costs eager more time: its "
    "matrices take new pages at each step."
)
_NOT_CLIP = "Random tensors and upright regions: times of a real clip differ as its regions do."
_OTHER_LAYERS = (
    "A step is attention alone, under guidance that of its conditional half: the other half, plain, and the network's "
    "other layers come on top."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    model = f"{', '.join(FAMILIES)}, or a checkpoint folder, of which unet/config.json is read"
    parser.add_argument("--model", default="sd15", metavar="NAME|FOLDER", help=model)
    parser.add_argument("--frames", type=int, metavar="N", help=f"1 to {MOST_FRAMES}; 8 on a CPU, 16 on a GPU")
    size = f"pixels, multiples of {LATENT}: height x width, or one number for both; 256 on a CPU, 512 on a GPU"
    parser.add_argument("--size", type=parse_size, metavar="HxW", help=size)
    parser.add_argument("--regions", type=int, metavar="R", help="that many regions of equal area; 2")
    areas = "instead, the share of the frame that each region takes, 0.2 0.8 say; they add up to 1"
    parser.add_argument("--areas", type=float, nargs="+", metavar="A", help=areas)
    parser.add_argument("--modulation", default="fame", help=f"of self-attention: {', '.join(MODULATIONS)}")
    parser.add_argument("--dtype", help=f"{', '.join(DTYPES)}; float32 on a CPU, float16 on a GPU")
    parser.add_argument("--device", help="torch device; cuda where torch sees one, else cpu")
    others = "eager, plain attention and ours; all: FlexAttention, torch.compile, a dense bias and others, too"
    parser.add_argument("--providers", default="main", metavar="main|all", help=others)
    parser.add_argument("--seconds", type=float, default=_SECONDS, help="that measuring may take")
    base = "compare with this revision of the checkout instead, however long it takes; 1 if ours is slower"
    parser.add_argument("--base", metavar="REV", help=base)
    parser.add_argument("--out", default="bench_out", metavar="FOLDER", help="for bench.csv, bench.png and bench.html")


def command(
    model: str,
    frames: int | None,
    size: tuple[int, int] | None,
    regions: int | None,
    areas: list[float] | None,
    modulation: str,
    dtype: str | None,
    device: str | None,
    providers: str,
    seconds: float,
    base: str | None,
    out: str,
) -> int:
    where = _device(device)
    chosen = zip((frames, size, dtype), _DEFAULTS[where.type], strict=True)
    frames, size, dtype = (default if given is None else given for given, default in chosen)
    _check(frames, size, seconds)
    shares = _shares(regions, areas)
    modulation = modulation.replace("_", "-")
    choices = (("modulation", modulation, MODULATIONS), ("dtype", dtype, DTYPES))
    for name, value, allowed in (*choices, ("providers", providers, ("main", "all"))):
        if value not in allowed:
            raise ValueError(f"--{name} must be one of {', '.join(allowed)}, got {value}")
    if Path(out).exists() and not Path(out).is_dir():
        raise ValueError(f"--out {out} must be a folder")
    if base is None:
        require("matplotlib")
    else:
        from fame_accel.bench.regression import ROOT, find_revision

        find_revision(base, ROOT)
    levels = level_shapes(model, frames, size, shares)
    cut = f"{len(shares)} region{'' if len(shares) == 1 else 's'}"
    cut += f" of {' and '.join(f'{share:.3g}' for share in shares)}" if areas else ""
    heading = f"{Path(model).name}, {frames} frames of {size[0]}x{size[1]}, {cut}, {modulation}, {dtype}"
    operation = MODULATIONS[modulation]
    run = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    append([], Path(out) / "bench.csv")  # what cannot be written is said now
    if base is not None:
        print(f"{heading}: the working tree against {base}", flush=True)
        return _compare(base, levels, operation, where, getattr(torch, dtype), run, Path(out))
    return _measure(heading, levels, operation, where, getattr(torch, dtype), providers, seconds, run, Path(out))


def level_shapes(model: str, frames: int, size: tuple[int, int], areas: tuple[float, ...]) -> dict[Shape, int]:
    """Self-attention of each level of a model, the finest first, and its number of layers; areas: of regions."""
    found: dict[Shape, int] = {}
    for level in read_network(model):
        height, width = level.side_lengths(size)
        name = f"{height}x{width}"
        if any(shape.name == name for shape in found):  # levels of few tokens
            name = f"{name}-{level.heads}x{level.head_dim}-{level.divisor}"
        shape = Shape(name, frames, height, width, level.heads, level.head_dim, areas=areas)
        found[shape] = level.layers
    return found


def _measure(
    heading: str,
    levels: dict[Shape, int],
    operation: Operation,
    device: torch.device,
    dtype: torch.dtype,
    providers: str,
    seconds: float,
    run: str,
    out: Path,
) -> int:
    from fame_accel.bench.charts import panels, write_png
    from fame_accel.bench.group import Protocol
    from fame_accel.bench.html_report import write_html
    from fame_accel.bench.providers import EAGER, FLOOR, PROVIDERS
    from fame_accel.bench.summary import Summary
    from fame_accel.bench.sweep import Budget, over_frames, sweep
    from fame_accel.bench.timing import Effort
    from fame_accel.bench.wording import as_table, case_told

    if device.type == "cpu":
        keep_freed_memory()
    busy = _busy(device)
    for told in busy:
        print(told, flush=True)
    names = list(PROVIDERS) if providers == "all" else [EAGER, FLOOR, _ours(device, dtype)]
    chosen = {name: PROVIDERS[name] for name in names}
    effort = Effort(seconds=1.0 if device.type == "cpu" else 0.2, most=15, patience=_PATIENCE)
    budget = Budget(seconds, _PATIENCE)
    measured = (device, dtype, Protocol(effort, True, run), budget)
    finest, *coarser = levels
    print(f"{heading}: measuring for about {seconds:.0f} s", flush=True)

    def report(rows: list[Row]) -> None:
        append(rows, out / "bench.csv")
        print(f"  {case_told(rows)}", flush=True)

    curve = {name: chosen[name] for name in names[:2] + [name for name in names[2:] if name.startswith("ours")]}
    # few frames tell what more will take; the finest level takes the most of a step, and goes before the others
    *fewer, _ = over_frames(finest)
    scaling = sweep([(shape, operation) for shape in fewer], curve, *measured, report)
    last = sweep([(finest, operation)], chosen, *measured, report)
    rows = sweep([(shape, operation) for shape in coarser], chosen, *measured, report)
    rows += sweep([(shape, TEXT) for shape in _texts(levels)], chosen, *measured, report)
    layers = {shape.name: number for shape, number in levels.items()}
    summary = Summary(
        heading=heading,
        machine=_machine(last[0]),
        command=f"fame-accel {' '.join(sys.argv[1:])}",
        rows=last + rows,
        scaling=scaling + [row for row in last if row["provider"] in curve],
        layers=layers | {f"{name}-text{TEXT_TOKENS}": number for name, number in layers.items()},
        notes=[*busy, _NOT_CLIP, _OTHER_LAYERS, *([_PAGES] if freed_memory_is_kept() else [])],
    )
    pages = out / "bench.png", out / "bench.html"
    if not panels(summary):
        for page in pages:  # of a run before
            page.unlink(missing_ok=True)
        helps = f"--seconds {seconds:g} was too short: {_SECONDS:g}, the default, suit two cores"
        print(f"\nToo little was measured for a table, charts and a page; {helps}. Wrote bench.csv to {out}")
        return 1
    print("\n" + as_table(summary))
    write_png(pages[0], summary)
    write_html(pages[1], summary)
    print(f"\nWrote bench.csv, bench.png and bench.html to {out}")
    ours = [str(row["note"]) for row in [*rows, *scaling, *last] if str(row["provider"]).startswith("ours")]
    return int(any(note.startswith(("WRONG", "failed")) for note in ours))


def _busy(device: torch.device) -> list[str]:
    """Whether other work ran on a CPU before this began, by the load of the last minute; a sentence, or none."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") and device.type == "cpu" else 0.0
    if load <= _IDLE_LOAD:
        return []
    return [
        f"Other work ran on this machine (load average {load:.1f} on {os.cpu_count()} CPUs in the minute before): "
        "times and ratios are off, most where many short operations wait for a core."
    ]


def _compare(
    base: str,
    levels: dict[Shape, int],
    operation: Operation,
    device: torch.device,
    dtype: torch.dtype,
    run: str,
    out: Path,
) -> int:
    from fame_accel.bench.regression import RULE, Comparison, compare, table
    from fame_accel.bench.timing import Effort

    def report(case: Comparison) -> None:
        append(case.rows, out / "bench.csv")
        print(f"  {case.shape} {case.operation}: {case.verdict}", flush=True)

    cases = [(shape, operation) for shape in levels] + [(shape, TEXT) for shape in _texts(levels)]
    found = compare(
        base, cases, dtype=dtype, device=device, backend=_ours(device, dtype).removeprefix("ours_"),
        effort=Effort(seconds=1.0), run=run,
        report=report,
    )  # fmt: skip
    print("\n" + table(found))
    regressed = [f"{case.shape} {case.operation}" for case in found if case.regressed]
    print(f"\n{RULE}")
    print(f"Regressed: {', '.join(regressed)}." if regressed else "No case regressed.")
    print(f"Wrote bench.csv to {out}")
    return int(bool(regressed))


def _texts(levels: Iterable[Shape]) -> list[Shape]:
    """Cross-attention of the same layers."""
    return [replace(shape, name=f"{shape.name}-text{TEXT_TOKENS}", text=TEXT_TOKENS) for shape in levels]


def _ours(device: torch.device, dtype: torch.dtype) -> str:
    """The backend that `auto` takes."""
    from fame_accel import bindings

    on_gpu = device.type == "cuda" and bindings.triton_unavailable(device, dtype) is None
    return "ours_triton" if on_gpu else "ours_sdpa"


def _machine(row: dict[str, object]) -> str:
    parts = [f"{row['device']}", f"torch {row['torch']}"]
    parts += [f"Triton {row['triton']}"] if row["triton"] else []
    return ", ".join([*parts, f"fame-accel at {row['commit']}", f"{row['date']}"])


def _device(name: str | None) -> torch.device:
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError as error:
        raise ValueError(f"--device {name}: {str(error).splitlines()[0]}") from error
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"--device must be cpu or cuda, got {name}")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"--device {name}: torch sees no CUDA device here")
    return device


def _shares(regions: int | None, areas: list[float] | None) -> tuple[float, ...]:
    """Of the frame, by region."""
    if areas is None:
        regions = 2 if regions is None else regions
        if not 1 <= regions <= MAX_REGIONS:
            raise ValueError(f"--regions must lie in 1 to {MAX_REGIONS}, got {regions}")
        return (1 / regions,) * regions
    if regions is not None:
        raise ValueError("--regions and --areas exclude each other")
    told = " ".join(f"{area:g}" for area in areas)
    if not all(area > 0 for area in areas) or abs(sum(areas) - 1) > 0.01:
        raise ValueError(f"--areas must be above 0 and add up to 1, got {told}")
    if len(areas) > MAX_REGIONS:
        raise ValueError(f"--areas must be at most {MAX_REGIONS}, got {len(areas)}")
    return tuple(areas)


def _check(frames: int, size: tuple[int, int], seconds: float) -> None:
    if not 1 <= frames <= MOST_FRAMES:
        raise ValueError(f"--frames must lie in 1 to {MOST_FRAMES}, got {frames}")
    if min(size) < LATENT or any(side % LATENT for side in size):
        raise ValueError(f"--size must be positive multiples of {LATENT}, got {size[0]}x{size[1]}")
    if not 1 <= seconds < float("inf"):
        raise ValueError(f"--seconds must be at least 1, got {seconds}")

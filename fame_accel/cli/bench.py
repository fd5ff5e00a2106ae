"""Measure what fused attention gains over the eager formula on this machine, for a model: time, memory and errors.

The layers of the model's UNet run one by one with random tensors: by the eager formula as VideoGrain runs it, by
torch's attention without modulation, and by this library. Results are held against the reference in float64 before they
are timed. Cases that would not fit --seconds are left out, and the report lists them.

Writes to OUT: bench.csv (to which each run is added), bench.png and bench.html.
"""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from fame_accel.bench.rows import Row, append
from fame_accel.bench.workload import (
    FAME,
    FAME_STRENGTH,
    REGION_MASK,
    VIDEOGRAIN,
    AttentionOperation,
    LayerShape,
    cross_attention,
)
from fame_accel.cli import flags
from fame_accel.core.backend import default_device, resolve_backend
from fame_accel.core.layout import MAX_REGIONS
from fame_accel.core.limits import Range, width_x_height
from fame_accel.media.outputs import check_output_folder, exclusive
from fame_accel.media.packages import require
from fame_accel.tools.measure import freed_memory_is_kept, keep_freed_memory
from fame_accel.tools.planner.network import FAMILIES, read_network

MODULATIONS = {
    "fame": FAME,
    "fame-strength": FAME_STRENGTH,
    "videograin": VIDEOGRAIN,
    "region-mask": REGION_MASK,
}
TEXT_TOKENS = 77
MOST_FRAMES = 1024
# frames, size and dtype where they are not given
_DEFAULTS = {"cpu": (8, (256, 256), "float32"), "cuda": (16, (512, 512), "float16")}
_SECONDS = 100.0
_REPEAT_SECONDS = {"cpu": 1.0, "cuda": 0.2}  # for the repeats of one provider in one case
_PATIENCE = 3.0  # seconds of a call past which it runs once
_IDLE_LOAD = 0.7  # the load average up to which a CPU counts as free for measuring
_NOTES = (
    "Random tensors and upright regions: times of a real clip differ as its regions do.",
    "A step is attention alone, under guidance that of its conditional half: the other half, plain, and the network's "
    "other layers come on top.",
)
_MEMORY_KEPT = (
    "Freed memory was kept from call to call. C libraries return it by default, which costs eager more time: its "
    "matrices take new pages at each step."
)


@dataclass(frozen=True)
class Setting:
    """What is measured where.

    Attributes:
        heading: says so in a line.
        levels: self-attention of each level of the model, the finest first, and its number of layers.
        operation: of self-attention.
        device: where the calls run.
        dtype: of their tensors.
    """

    heading: str
    levels: dict[LayerShape, int]
    operation: AttentionOperation
    device: torch.device
    dtype: torch.dtype

    @property
    def text_cases(self) -> list[tuple[LayerShape, AttentionOperation]]:
        """Cross-attention of the same layers."""
        texts = [replace(shape, name=f"{shape.name}-text{TEXT_TOKENS}", text=TEXT_TOKENS) for shape in self.levels]
        return [(shape, cross_attention(TEXT_TOKENS)) for shape in texts]

    @property
    def ours(self) -> str:
        """The provider of this library that `backend="auto"` is here."""
        return f"ours_{resolve_backend('auto', self.device, self.dtype)}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `fame-accel bench`."""
    add_setting_arguments(parser)
    flags.add(parser, "--seconds", "that measuring may take", type=flags.number(Range(float, 1)), default=_SECONDS)
    parser.add_argument("--out", default="bench_out", metavar="FOLDER", help="for bench.csv, bench.png and bench.html")


def add_setting_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags that `read_setting` takes."""
    model = f"{', '.join(FAMILIES)}, or a checkpoint folder, of which unet/config.json is read"
    parser.add_argument("--model", default="sd15", metavar="NAME|FOLDER", help=model)
    frames = f"1 to {MOST_FRAMES}; 8 on a CPU, 16 on a GPU"
    flags.add(parser, "--frames", frames, type=flags.number(Range(int, 1, MOST_FRAMES)))
    size = "WIDTHxHEIGHT in pixels, or a square; multiples of 8; 256 on a CPU, 512 on a GPU"
    flags.add(parser, "--size", size)
    regions = "number of regions, of equal area; 2 by default"
    flags.add(parser, "--regions", regions, type=flags.number(Range(int, 1, MAX_REGIONS)), metavar="R")
    areas = "the share of the frame that each region takes, such as 0.2 0.8; they add up to 1; excludes --regions"
    parser.add_argument("--areas", type=float, nargs="+", metavar="A", help=areas)
    modulations = f"of self-attention: {', '.join(MODULATIONS)}"
    flags.add(parser, "--modulation", modulations, type=flags.one_of(MODULATIONS), default="fame")
    flags.add(parser, "--dtype")
    flags.add(parser, "--device")


def read_setting(
    model: str,
    frames: int | None,
    size: tuple[int, int] | None,
    regions: int | None,
    areas: list[float] | None,
    modulation: str,
    dtype: str | None,
    device: str | None,
) -> Setting:
    """Fill in the flags of `add_setting_arguments` that were not given.

    Raises:
        ValueError: names the flag that is wrong.
    """
    where = _device(device)
    frames_by_default, size_by_default, dtype_by_default = _DEFAULTS[where.type]
    frames = frames_by_default if frames is None else frames
    size = size_by_default if size is None else size
    dtype = dtype_by_default if dtype is None else dtype
    shares = _shares(regions, areas)
    cut = f"{len(shares)} region{'' if len(shares) == 1 else 's'}"
    cut += f" of {' and '.join(f'{share:.3g}' for share in shares)}" if areas else ""
    clip = f"{frames} frame{'' if frames == 1 else 's'} of {width_x_height(size)}"
    heading = f"{Path(model).name}, {clip}, {cut}, {modulation}, {dtype}"
    levels = level_shapes(model, frames, size, shares)
    return Setting(heading, levels, MODULATIONS[modulation], where, getattr(torch, dtype))


def level_shapes(model: str, frames: int, size: tuple[int, int], areas: tuple[float, ...]) -> dict[LayerShape, int]:
    """Self-attention of each level of a model, the finest first, and its number of layers."""
    levels: dict[LayerShape, int] = {}
    for level in read_network(model):
        height, width = level.side_lengths(size)
        name = width_x_height((height, width))
        if any(shape.name == name for shape in levels):  # levels of few tokens
            name = f"{name}-{level.heads}x{level.head_dim}-{level.divisor}"
        levels[LayerShape(name, frames, height, width, level.heads, level.head_dim, areas=areas)] = level.layers
    return levels


def command(
    model: str,
    frames: int | None,
    size: tuple[int, int] | None,
    regions: int | None,
    areas: list[float] | None,
    modulation: str,
    dtype: str | None,
    device: str | None,
    seconds: float,
    out: str,
) -> int:
    """Run the bench.

    Returns:
        The exit status: 1 where a result of this library is wrong or failed, or nothing could be timed.
    """
    setting = read_setting(model, frames, size, regions, areas, modulation, dtype, device)
    folder = check_output_folder("--out", out, ("bench.csv", "bench.png", "bench.html"))
    for package in ("pandas", "jinja2", "matplotlib"):
        require(package, "bench")
    append([], folder / "bench.csv")  # fails now rather than after measuring where it has other columns
    with exclusive("--out", folder):
        return _measure(setting, seconds, folder)


def _measure(setting: Setting, seconds: float, out: Path) -> int:
    """Measure the small cases first, as they tell how long larger ones take, and write the report."""
    from fame_accel.bench.environment import run_name
    from fame_accel.bench.picture import draw
    from fame_accel.bench.protocol import Protocol
    from fame_accel.bench.providers import EAGER, FLOOR, PROVIDERS
    from fame_accel.bench.report import Report, as_html, as_text, case_line
    from fame_accel.bench.sweep import Budget, over_frames, sweep
    from fame_accel.bench.timing import Effort

    device = setting.device
    if device.type == "cpu":
        keep_freed_memory()
    notes = [*_busy(device), *_NOTES, *([_MEMORY_KEPT] if freed_memory_is_kept() else [])]
    providers = {name: PROVIDERS[name] for name in (EAGER, FLOOR, setting.ours)}
    effort = Effort(_REPEAT_SECONDS[device.type], most=15, patience=_PATIENCE)
    protocol, budget = Protocol(effort, memory=True, run=run_name()), Budget(seconds, _PATIENCE)
    print(f"{setting.heading}: measuring for about {seconds:.0f} s", flush=True)

    def done(rows: list[Row]) -> None:
        append(rows, out / "bench.csv")
        print(f"  {case_line(rows)}", flush=True)

    def measured(cases: list[tuple[LayerShape, AttentionOperation]]) -> list[Row]:
        return sweep(cases, providers, device, setting.dtype, protocol, budget, done)

    finest, *coarser = setting.levels
    *fewer, _ = over_frames(finest)
    scaling = measured([(shape, setting.operation) for shape in fewer])
    rows = measured([(finest, setting.operation)])
    scaling += rows
    rows = rows + measured([(shape, setting.operation) for shape in coarser]) + measured(setting.text_cases)
    layers = {shape.name: number for shape, number in setting.levels.items()}
    layers |= {f"{name}-text{TEXT_TOKENS}": number for name, number in layers.items()}
    line = f"fame-accel {' '.join(sys.argv[1:])}"
    report = Report(setting.heading, _machine(rows[0]), line, rows, scaling, layers, notes, setting.ours)
    png, page = out / "bench.png", out / "bench.html"
    if not any(row.get("p50_ms") for row in rows):
        for file in (png, page):  # of a run before
            file.unlink(missing_ok=True)
        print(f"\nNothing was timed: --seconds {seconds:g} was too short ({_SECONDS:g}, the default, suit two cores)")
        return 1
    print("\n" + as_text(report))
    png.write_bytes(draw(report, "png"))
    as_html(report, draw(report, "svg"), page)
    print(f"\nWrote bench.csv, bench.png and bench.html to {out}")
    ours = [str(row.get("note", "")) for row in (*rows, *scaling) if row["provider"] == setting.ours]
    return int(any(note.startswith(("WRONG", "failed")) for note in ours))


def _busy(device: torch.device) -> list[str]:
    """A note where other work ran on the CPU in the last minute."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") and device.type == "cpu" else 0.0
    if load <= _IDLE_LOAD:
        return []
    return [
        f"Other work ran on this machine (load average {load:.1f} on {os.cpu_count()} CPUs in the minute before): "
        "times and ratios are off, most for calls of many short operations."
    ]


def _machine(row: Row) -> str:
    """Device, versions, commit and date of a row."""
    triton = f", Triton {row['triton']}" if row["triton"] else ""
    return f"{row['device']}, torch {row['torch']}{triton}, fame-accel at {row['commit']}, {row['date']}"


def _device(name: str | None) -> torch.device:
    try:
        device = default_device() if name is None else torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"--device {name}: {str(error).splitlines()[0]}") from error
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"--device must be cpu or cuda, got {name}")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"--device {name}: torch sees no CUDA device here")
    return device


def _shares(regions: int | None, areas: list[float] | None) -> tuple[float, ...]:
    """The share of the frame that each region takes."""
    if areas is None:
        regions = 2 if regions is None else regions
        return (1 / regions,) * regions
    if regions is not None:
        raise ValueError("--regions and --areas exclude each other")
    if not all(area > 0 for area in areas) or abs(sum(areas) - 1) > 0.01:
        raise ValueError(f"--areas must be above 0 and add up to 1, got {' '.join(f'{area:g}' for area in areas)}")
    if len(areas) > MAX_REGIONS:
        raise ValueError(f"--areas must be at most {MAX_REGIONS}, got {len(areas)}")
    return tuple(areas)

"""Measure what fused attention gains over the eager formula on this machine, for a model: time, memory and errors.

The layers of the model's UNet run one by one with random tensors: by the eager formula as VideoGrain runs it, by
torch's attention without modulation, and by this library. Results are held against the reference in float64 before they
are timed. Cases that would not fit --seconds are left out, and the report lists them.

Writes to OUT: bench.csv (to which each run is added), bench.png and bench.html.
"""

from __future__ import annotations

import argparse
from typing import Any

from fame_accel.bench import MODULATIONS, MOST_FRAMES, SECONDS
from fame_accel.cli import flags
from fame_accel.core.limits import MAX_REGIONS, Range
from fame_accel.tools.planner.network import FAMILIES


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `fame-accel bench`."""
    add_setting_arguments(parser)
    flags.add(parser, "--seconds", "that measuring may take", type=flags.number(Range(float, 1)), default=SECONDS)
    parser.add_argument("--out", default="bench_out", metavar="FOLDER", help="for bench.csv, bench.png and bench.html")


def add_setting_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags that `bench.setting.read_setting` takes."""
    model = f"{', '.join(FAMILIES)}, or a checkpoint folder, of which unet/config.json is read"
    parser.add_argument("--model", default="sd15", metavar="NAME|FOLDER", help=model)
    frames = f"1 to {MOST_FRAMES}; 8 on a CPU, 16 on a GPU"
    flags.add(parser, "--frames", frames, type=flags.number(Range(int, 1, MOST_FRAMES)))
    size = "pixels, multiples of 8: height x width, or one number for both; 256 on a CPU, 512 on a GPU"
    flags.add(parser, "--size", size)
    regions = "number of regions, of equal area; 2 by default"
    flags.add(parser, "--regions", regions, type=flags.number(Range(int, 1, MAX_REGIONS)), metavar="R")
    areas = "the share of the frame that each region takes, such as 0.2 0.8; they add up to 1; excludes --regions"
    parser.add_argument("--areas", type=float, nargs="+", metavar="A", help=areas)
    modulations = f"of self-attention: {', '.join(MODULATIONS)}"
    flags.add(parser, "--modulation", modulations, type=flags.one_of(MODULATIONS), default="fame")
    flags.add(parser, "--dtype")
    flags.add(parser, "--device")


def command(seconds: float, out: str, **setting: Any) -> int:
    """Run `fame-accel bench`: 1 where a result of this library is wrong or failed, or nothing could be timed."""
    from fame_accel.bench.rows import append
    from fame_accel.bench.setting import read_setting
    from fame_accel.media.outputs import check_output_folder, exclusive
    from fame_accel.media.packages import require

    what = read_setting(**setting)
    folder = check_output_folder("--out", out, ("bench.csv", "bench.png", "bench.html"))
    for package in ("pandas", "jinja2", "matplotlib"):
        require(package, "bench")
    from fame_accel.bench.run import run_bench

    append([], folder / "bench.csv")  # fails now rather than after measuring where it has other columns
    with exclusive("--out", folder):
        return run_bench(what, seconds, folder)

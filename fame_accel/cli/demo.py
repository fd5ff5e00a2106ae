"""Edit a real clip with eager and with fused attention, and compare the two."""

from __future__ import annotations

import argparse
from typing import Any

from fame_accel.cli import flags
from fame_accel.cli.starting import starting
from fame_accel.core.limits import Range


def add_arguments(parser: argparse.ArgumentParser) -> None:
    flags.add(parser, "--frames", "frames of the clip, 1 to 120", type=flags.number(Range(int, 1, 120)), default=8)
    parser.add_argument("--size", type=int, default=256, metavar="N", help="pixels per side, a multiple of 64")
    flags.add(parser, "--steps", "number of denoising steps", default=4)
    fused = ("auto", "triton", "sdpa")
    help = f"of fused attention: {', '.join(fused)}"
    flags.add(parser, "--backend", help, type=flags.one_of(fused), default="auto")
    parser.add_argument("--out", default="demo_out", metavar="FOLDER", help="folder to write to")
    model = "Stable Diffusion folder in diffusers' layout; random weights if not given"
    parser.add_argument("--model", metavar="FOLDER", help=model)
    flags.add(parser, "--device")
    flags.add(parser, "--seed", "seed of the random weights", default=0)


def command(**arguments: Any) -> int:
    starting("torch", "diffusers", "transformers", "matplotlib")
    from fame_accel.media.packages import require

    for package in ("numpy", "diffusers", "transformers", "av", "PIL", "matplotlib", "tqdm", "cv2"):
        require(package)
    from fame_accel.demo.run import run_demo

    report = run_demo(**arguments)
    return 0 if all(row["passed"] for row in report["backends"].values()) else 1

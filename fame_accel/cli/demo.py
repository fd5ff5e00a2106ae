"""Edit a real clip with eager and with fused attention, and compare the two."""

from __future__ import annotations

import argparse

from fame_accel.media.packages import require

HELP = "edit a real clip with eager and with fused attention and compare them"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--frames", type=int, default=8, help="frames of the clip, 1 to 120")
    parser.add_argument("--size", type=int, default=256, help="pixels a side, a multiple of 64")
    parser.add_argument("--steps", type=int, default=4, help="denoising steps")
    parser.add_argument("--backend", default="auto", help="fused backend: auto, triton or sdpa")
    parser.add_argument("--out", default="demo_out", help="folder to write to")
    parser.add_argument("--model", help="local diffusers Stable Diffusion folder; random weights without it")
    parser.add_argument("--device", help="torch device; cuda where there is one, otherwise cpu")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random weights")


def command(**arguments: object) -> int:
    for package in ("numpy", "diffusers", "transformers", "av", "PIL", "matplotlib", "tqdm", "cv2"):
        require(package)
    from fame_accel.demo.run import run_demo

    report = run_demo(**arguments)
    return 0 if all(row["passed"] for row in report["backends"].values()) else 1

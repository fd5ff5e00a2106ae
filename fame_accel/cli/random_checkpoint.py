"""Save Stable Diffusion 1.5's architecture with random weights as a checkpoint, to try `edit` without a download.

What it paints means nothing; time, memory and files are real.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from fame_accel.media.packages import quiet

HELP = "save a small checkpoint with random weights, to try `edit` without a download"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="FOLDER", help="new or empty folder for the checkpoint, in diffusers' layout")
    parser.add_argument("--controlnet", metavar="FOLDER", help="new or empty folder for a ControlNet that fits it")
    parser.add_argument("--seed", type=int, default=0, help="seed of the weights")


def command(folder: str, controlnet: str | None, seed: int) -> int:
    quiet()
    from fame_accel.demo.pipeline import random_controlnet, random_pipeline

    if not 0 <= seed < 2**63:
        raise ValueError(f"--seed must lie in 0 to 2**63 - 1, got {seed}")
    for name in (folder, controlnet):
        if name is not None and Path(name).exists() and (not Path(name).is_dir() or any(Path(name).iterdir())):
            raise ValueError(f"{name} exists and is not an empty folder")
    if controlnet is not None and Path(controlnet).resolve() == Path(folder).resolve():
        raise ValueError(f"--controlnet must be another folder than the checkpoint's, {folder}")
    pipeline = random_pipeline(seed)
    pipeline.save_pretrained(folder)
    print(f"random weights (seed {seed}) in {folder}")
    if controlnet is not None:
        random_controlnet(pipeline.unet, seed).save_pretrained(controlnet)
        print(f"a random ControlNet in {controlnet}")
    return 0

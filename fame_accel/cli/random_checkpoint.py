"""Save a small Stable Diffusion 1.5 with random weights as a checkpoint, to try `edit` without a download.

Its pictures mean nothing; its times, memory and files are real.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from fame_accel.cli import flags


def add_arguments(parser: argparse.ArgumentParser) -> None:
    folder = "new or empty folder for the checkpoint, which is saved in diffusers' layout"
    parser.add_argument("folder", metavar="FOLDER", help=folder)
    parser.add_argument("--controlnet", metavar="FOLDER", help="new or empty folder for a ControlNet that fits it")
    flags.add(parser, "--seed", "seed of the weights", default=0)


def command(folder: str, controlnet: str | None, seed: int) -> int:
    from fame_accel.demo.pipeline import random_controlnet, random_pipeline
    from fame_accel.media.outputs import check_output_folder
    from fame_accel.media.packages import quiet

    quiet()
    for flag, name in (("FOLDER", folder), ("--controlnet", controlnet)):
        if name is None:
            continue
        if name and Path(name).exists() and (not Path(name).is_dir() or any(Path(name).iterdir())):
            raise ValueError(f"{flag} must be a new or empty folder, and {name} is not an empty folder")
        check_output_folder(flag, name, ())
    if controlnet is not None and Path(controlnet).resolve() == Path(folder).resolve():
        raise ValueError(f"--controlnet must be another folder than the checkpoint's, {folder}")
    pipeline = random_pipeline(seed)
    pipeline.save_pretrained(folder)
    print(f"Wrote a checkpoint with random weights (seed {seed}) to {folder}")
    if controlnet is not None:
        random_controlnet(pipeline.unet, seed).save_pretrained(controlnet)
        print(f"Wrote a random ControlNet to {controlnet}")
    return 0

"""Tell what an edit's self-attention takes before it is run: work, memory and, predicted, time.

A level's figures are those of one of its layers at a modulated step; under guidance, of both halves of the batch, the
modulated one and the plain, unconditional one. Peaks are of attention's own tensors; a UNet's weights and other
activations, and cross-attention, come on top. Times are those of the Triton kernels by a model of counted instructions:
PREDICTED, not measured on a GPU.

Writes to OUT, where it is given: plan.csv, plan.json and plan.png, memory over the number of frames.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from fame_accel.cli.flags import size as parse_size
from fame_accel.core.layout import SpaceTimeLayout
from fame_accel.media.masks import read_masks
from fame_accel.media.packages import require
from fame_accel.media.person import region_masks
from fame_accel.media.video import read_video
from fame_accel.tools.planner.estimate import ELEMENT, FUSED, MOST_FRAMES, Setting
from fame_accel.tools.planner.network import FAMILIES, LATENT, read_network
from fame_accel.tools.planner.pairs import MODULATIONS
from fame_accel.tools.planner.regions import EqualRegions, MaskRegions, Regions
from fame_accel.tools.planner.report import Report

_REGIONS = 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--frames", type=int, default=16, metavar="N", help=f"1 to {MOST_FRAMES}")
    size = f"pixels, multiples of {LATENT}: height x width, or one number for both"
    parser.add_argument("--size", type=parse_size, default="512", metavar="HxW", help=size)
    model = f"{', '.join(FAMILIES)}, or a checkpoint folder, of which unet/config.json is read"
    parser.add_argument("--model", default="sd15", metavar="NAME|FOLDER", help=model)
    equal = f"that many regions of equal area; {_REGIONS} if none are given or found"
    parser.add_argument("--regions", type=int, metavar="R", help=equal)
    parser.add_argument("--video", metavar="PATH", help="video whose regions are counted, as for edit")
    parser.add_argument("--masks", metavar="PATH", help="masks of the video's regions, as for edit")
    parser.add_argument("--auto-person-mask", action="store_true", help="find person and background in the video")
    parser.add_argument("--stride", type=int, default=1, metavar="N", help="take every Nth frame of the video")
    parser.add_argument("--modulation", default="fame", help=f"of self-attention: {', '.join(MODULATIONS)}")
    parser.add_argument("--guidance", default="on", metavar="on|off", help="classifier-free guidance")
    parser.add_argument("--dtype", default="float16", help=", ".join(ELEMENT))
    parser.add_argument("--backend", default="triton", help=f"of fused attention: {', '.join(FUSED)}")
    parser.add_argument("--memory", type=float, metavar="GIB", help="tell how many frames fit this much")
    parser.add_argument("--out", metavar="FOLDER", help="write plan.csv, plan.json and plan.png there")
    parser.add_argument(
        "--json", action="store_true", dest="as_json", help="print the plan as JSON in place of the table"
    )


def command(
    frames: int,
    size: tuple[int, int],
    model: str,
    regions: int | None,
    video: str | None,
    masks: str | None,
    auto_person_mask: bool,
    stride: int,
    modulation: str,
    guidance: str,
    dtype: str,
    backend: str,
    memory: float | None,
    out: str | None,
    as_json: bool,
) -> int:
    _check(frames, size, stride, memory)
    choices = (("modulation", modulation, MODULATIONS), ("guidance", guidance, ("on", "off")))
    for name, value, allowed in (*choices, ("dtype", dtype, ELEMENT), ("backend", backend, FUSED)):
        if value not in allowed:
            raise ValueError(f"--{name} must be one of {', '.join(allowed)}, got {value}")
    if out is not None:
        require("matplotlib")
        if Path(out).exists() and not Path(out).is_dir():
            raise ValueError(f"--out {out} must be a folder")
    network = read_network(model)
    found, told = _regions(regions, video, masks, auto_person_mask, frames, stride, size)
    setting = Setting(network, found, frames, size, dtype, modulation, guidance == "on", backend)
    report = Report.of(setting, model, told, memory)
    try:
        written = report.write(out) if out is not None else []
    except OSError as error:
        raise ValueError(f"--out {out} cannot be written: {error.strerror}") from error
    print(report.as_json() if as_json else report.as_text())
    if written and not as_json:
        print(f"\nWrote {', '.join(written)} to {out}")
    return 0


def _check(frames: int, size: tuple[int, int], stride: int, memory: float | None) -> None:
    if not 1 <= frames <= MOST_FRAMES:
        raise ValueError(f"--frames must lie in 1 to {MOST_FRAMES}, got {frames}")
    if min(size) < LATENT or any(side % LATENT for side in size):
        raise ValueError(f"--size must be positive multiples of {LATENT}, got {size[0]}x{size[1]}")
    if stride < 1:
        raise ValueError(f"--stride must be at least 1, got {stride}")
    if memory is not None and not (math.isfinite(memory) and memory > 0):
        raise ValueError(f"--memory must be a number of GiB above 0, got {memory}")


def _regions(
    number: int | None,
    video: str | None,
    masks: str | None,
    auto_person_mask: bool,
    frames: int,
    stride: int,
    size: tuple[int, int],
) -> tuple[Regions, str]:
    """The regions, and where they come from."""
    if masks is not None and auto_person_mask:
        raise ValueError("give the regions by either --masks or --auto-person-mask")
    if video is None:
        for flag, given in (("--masks", masks is not None), ("--auto-person-mask", auto_person_mask)):
            if given:
                raise ValueError(f"{flag} needs --video, whose regions are counted")
        if stride != 1:
            raise ValueError("--stride is for the frames of --video, which is not given")
        number = _REGIONS if number is None else number
        return EqualRegions(number), f"{number} of equal area, assumed"
    if number is not None:
        raise ValueError("give --regions, of equal area, or --video with its masks, not both")
    if masks is None and not auto_person_mask:
        raise ValueError("--video needs --masks or --auto-person-mask, the regions to count")
    clip = read_video(video, frames, stride, size)
    if auto_person_mask:
        found, names = region_masks(clip.frames)
    else:
        found, names = read_masks(masks, clip.source_size, frames, stride, size)
    return MaskRegions(SpaceTimeLayout.from_masks(found)), f"{', '.join(names)}, counted in {video}"

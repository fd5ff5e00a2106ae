"""Say what an edit's self-attention takes before it runs: work, memory and predicted time.

The figures of a level are those of one of its layers at a modulated step; with guidance, of both halves of the batch,
the modulated one and the plain, unconditional one. Peaks are of attention's own tensors; a UNet's weights and other
activations, and cross-attention, come on top. Times are those of the Triton kernels by a model of counted instructions:
PREDICTED, not measured on a GPU.

With --out, writes plan.csv, plan.json and plan.png, a chart of memory over the number of frames, to that folder.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fame_accel.cli import flags
from fame_accel.core.limits import DTYPES, Range
from fame_accel.tools.planner import FUSED, MODULATIONS, MOST_FRAMES
from fame_accel.tools.planner.network import FAMILIES

if TYPE_CHECKING:
    from fame_accel.tools.planner.regions import Regions

_REGIONS = 2
_SIZE = (512, 512)
_OF_VIDEO = {
    "start": 0.0,
    "stride": 1,
    "fit": "crop",
    "fps": None,
}  # flags for --video, and defaults


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `fame-accel plan`."""
    frames = Range(int, 1, MOST_FRAMES)
    flags.add(parser, "--frames", f"1 to {MOST_FRAMES}", default=16, type=flags.number(frames))
    default = "512x512, or for --video its own aspect ratio with about that area"
    flags.add(parser, "--size", f"WIDTHxHEIGHT in pixels, or a square; multiples of 8; if not given, {default}")
    model = f"{', '.join(FAMILIES)}, or a checkpoint folder, of which unet/config.json is read"
    parser.add_argument("--model", default="sd15", metavar="NAME|FOLDER", help=model)
    equal = f"that many regions of equal area (default: {_REGIONS}, where no masks are given)"
    parser.add_argument("--regions", type=int, metavar="R", help=equal)
    parser.add_argument("--video", metavar="PATH", help="video whose regions are counted, as for edit")
    parser.add_argument("--masks", metavar="PATH", help="masks of the video's regions, as for edit")
    parser.add_argument("--auto-person-mask", action="store_true", help="find person and background in the video")
    for flag, value in _OF_VIDEO.items():
        flags.add(parser, f"--{flag}", default=value)
    modulations = f"of self-attention: {', '.join(MODULATIONS)}"
    flags.add(parser, "--modulation", modulations, default="fame", type=flags.one_of(MODULATIONS))
    on_off = flags.one_of(("on", "off"))
    parser.add_argument("--guidance", type=on_off, default="on", metavar="on|off", help="classifier-free guidance")
    flags.add(parser, "--dtype", ", ".join(DTYPES), default="float16")
    fused = f"of fused attention: {', '.join(FUSED)}"
    flags.add(parser, "--backend", fused, default="triton", type=flags.one_of(FUSED))
    memory = flags.number(Range(float, 0.001, 1e6))
    parser.add_argument("--memory", type=memory, metavar="GIB", help="say how many frames fit this much memory")
    parser.add_argument("--out", metavar="FOLDER", help="folder to write plan.csv, plan.json and plan.png to")
    parser.add_argument("--json", action="store_true", dest="as_json", help="print JSON in place of the table")


def command(
    frames: int,
    size: tuple[int, int] | None,
    model: str,
    regions: int | None,
    video: str | None,
    masks: str | None,
    auto_person_mask: bool,
    start: float,
    stride: int | str,
    fit: str,
    fps: float | None,
    modulation: str,
    guidance: str,
    dtype: str,
    backend: str,
    memory: float | None,
    out: str | None,
    as_json: bool,
) -> int:
    """Run `fame-accel plan`."""
    from fame_accel.media.packages import require
    from fame_accel.tools.planner.estimate import Setting
    from fame_accel.tools.planner.network import read_network
    from fame_accel.tools.planner.report import Report

    if out is not None:
        require("matplotlib")
        if Path(out).exists() and not Path(out).is_dir():
            raise ValueError(f"--out {out} must be a folder")
    network = read_network(model)
    selection = {"start": start, "stride": stride, "fit": fit, "fps": fps}
    counted, source, size = _regions(regions, video, masks, auto_person_mask, frames, size, selection)
    setting = Setting(network, counted, frames, size, dtype, modulation, guidance == "on", backend)
    report = Report.of(setting, model, source, memory)
    try:
        written = report.write(out) if out is not None else []
    except OSError as error:
        raise ValueError(f"--out {out} cannot be written: {error.strerror}") from error
    print(report.as_json() if as_json else report.as_text())
    if written and not as_json:
        print(f"\nWrote {', '.join(written)} to {out}")
    return 0


def _regions(
    number: int | None,
    video: str | None,
    masks: str | None,
    auto_person_mask: bool,
    frames: int,
    size: tuple[int, int] | None,
    selection: dict[str, Any],
) -> tuple[Regions, str, tuple[int, int]]:
    """The regions, where they come from, and the size of the frames."""
    from fame_accel.core.layout import SpaceTimeLayout
    from fame_accel.media.frames import OWN_ASPECT
    from fame_accel.media.regions import video_regions
    from fame_accel.media.video import read_video
    from fame_accel.tools.planner.regions import EqualRegions, MaskRegions

    if masks is not None and auto_person_mask:
        raise ValueError("give the regions by either --masks or --auto-person-mask")
    if video is None:
        for flag, given in (("--masks", masks is not None), ("--auto-person-mask", auto_person_mask)):
            if given:
                raise ValueError(f"{flag} needs --video, whose regions are counted")
        for name, value in selection.items():
            if value != _OF_VIDEO[name]:
                raise ValueError(f"--{name} is for the frames of --video, which is not given")
        number = _REGIONS if number is None else number
        return EqualRegions(number), f"{number} of equal area, assumed", size or _SIZE
    if number is not None:
        raise ValueError("give --regions, of equal area, or --video with its masks, not both")
    if masks is None and not auto_person_mask:
        raise ValueError("--video needs --masks or --auto-person-mask, the regions to count")
    clip = read_video(video, frames, size=size or OWN_ASPECT, **selection)
    print("\n".join(clip.lines), file=sys.stderr)
    stack, names = video_regions(clip, masks)
    return (
        MaskRegions(SpaceTimeLayout.from_masks(stack, rest=True)),
        f"{', '.join(names)}, counted in {video}",
        clip.size,
    )

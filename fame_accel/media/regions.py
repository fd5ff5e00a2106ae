"""The regions of a video that was read."""

from __future__ import annotations

from torch import Tensor

from fame_accel.media.masks import read_masks
from fame_accel.media.person import region_masks
from fame_accel.media.video import Video


def video_regions(video: Video, masks: str | None) -> tuple[Tensor, list[str]]:
    """The regions of a video, bool [R, F, H, W], and their names.

    Args:
        video: as `read_video` returns it.
        masks: path of its masks, as `read_masks` takes it; None segments the video into person and background.

    Raises:
        ValueError, RuntimeError: as `read_masks` and `region_masks` raise them.
    """
    if masks is None:
        return region_masks(video.frames)
    return read_masks(
        masks, video.source_size, len(video.frames), video.stride, video.size,
        first=video.first, fit=video.fit, stored_size=video.stored_size,
    )  # fmt: skip

"""The clips that the suite edits, with their regions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from os.path import abspath
from pathlib import Path

from torch import Tensor

from fame_accel.core.limits import width_x_height
from fame_accel.edit.inputs import EditInputs
from fame_accel.evaluate.inputs import clip_regions
from fame_accel.evaluate.temporal import MIN_SIDE
from fame_accel.media.video import Video
from fame_accel.media.writing import check_fps


@dataclass(frozen=True, eq=False)
class SuiteClip:
    """A clip to edit: its name in the results, and its frames and regions, one of which shows the person."""

    name: str
    inputs: EditInputs

    @property
    def frames(self) -> Tensor:
        """uint8 [F, H, W, 3]"""
        return self.inputs.video.frames

    @property
    def masks(self) -> dict[str, Tensor]:
        """bool [F, H, W] by region"""
        return dict(zip(self.inputs.names, self.inputs.masks, strict=True))


def read_clips(
    videos: Sequence[str],
    masks: Sequence[str] | None,
    auto_person_mask: bool,
    read: Callable[[str], Video],
    subject_region: str,
) -> list[SuiteClip]:
    """Read clips and their regions.

    Args:
        videos: video files or folders of images, whose names without suffix differ.
        masks: one path for each of them, or None.
        auto_person_mask: whether to segment the clips instead.
        read: reads one of the videos, as `read_video` does.
        subject_region: the region that shows the person.

    Raises:
        ValueError: names or counts do not fit, a file cannot be read, or a clip lacks the region or a background.
        RuntimeError: no person was found.
    """
    names = [Path(abspath(video)).stem for video in videos]  # absolute, because "." and ".." have no stem
    if len(set(names)) < len(names):
        raise ValueError(f"--video: the clips' names must differ, got {', '.join(names)}")
    if masks is not None and len(masks) != len(videos):
        raise ValueError(f"--masks must give one path for each of the {len(videos)} clips, got {len(masks)}")
    clips = []
    mask_paths: Sequence[str | None] = masks or [None] * len(videos)
    for name, path, mask_path in zip(names, videos, mask_paths, strict=True):
        video = read(path)
        for line in video.lines:
            print(f"{name}: {line}", flush=True)
        check_fps(video.fps)
        if min(video.size) < MIN_SIDE:
            size = width_x_height(video.size)
            raise ValueError(f"--size must be at least {MIN_SIDE} pixels a side to be measured, got {size} for {name}")
        stacked, regions = clip_regions(video, mask_path, auto_person_mask)
        if subject_region not in regions:
            raise ValueError(f"--region {subject_region}: the masks of {name} have {', '.join(regions)}")
        if stacked[regions.index(subject_region)].all():
            raise ValueError(f"--region {subject_region} covers all of {name}: no background is left to compare")
        clips.append(SuiteClip(name, EditInputs(video, stacked, regions)))
    return clips

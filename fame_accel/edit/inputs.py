"""The video of an edit, its regions and its conditioning frames, read and held against each other."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from fame_accel.edit.options import CANNY, EditOptions
from fame_accel.media.edges import canny_edges
from fame_accel.media.masks import read_masks
from fame_accel.media.person import region_masks
from fame_accel.media.video import Video, check_fps, read_video


@dataclass(frozen=True, eq=False)
class Inputs:
    """masks: bool [R, F, H, W] of the R names; control: uint8 [F, H, W, 3] or None. H, W are those of --size."""

    video: Video
    masks: Tensor
    names: list[str]
    control: Tensor | None

    def identity(self) -> dict[str, Any]:
        """What tells these inputs from others: sha256 of the bytes that the edit is given."""
        digests = {"frames_sha256": _sha256(self.video.frames), "masks_sha256": _sha256(self.masks)}
        if self.control is not None:
            digests["control_sha256"] = _sha256(self.control)
        return {**digests, "fps": self.video.fps, "source_size": list(self.video.source_size)}


def read_inputs(options: EditOptions) -> Inputs:
    """Read what the options name. Raises ValueError or RuntimeError where it cannot be read or does not fit together,
    and where a phrase is for no region."""
    chosen = dict(frames=options.frames, stride=options.stride, size=options.size)
    video = read_video(options.video, **chosen, fps=options.fps)
    try:
        check_fps(video.fps)
    except ValueError as error:
        raise ValueError(f"{options.video} at --stride {options.stride}: {error}; give --fps") from error
    if options.auto_person_mask:
        masks, names = region_masks(video.frames)
    else:
        masks, names = read_masks(options.masks, video.source_size, **chosen)
    if unknown := [name for name in options.region if name not in names]:
        raise ValueError(f"--region {unknown[0]}: no such region; there are {', '.join(names)}")
    return Inputs(video, masks, names, _control(options, video))


def _control(options: EditOptions, video: Video) -> Tensor | None:
    if options.control is None:
        return None
    if options.control == CANNY:
        return canny_edges(video.frames)
    if not Path(options.control).exists():
        raise ValueError(f"--control must be {CANNY}, or a video or folder, and there is no {options.control}")
    control = read_video(options.control, options.frames, options.stride, options.size)
    if control.source_size != video.source_size:
        got, wanted = ("x".join(map(str, size)) for size in (control.source_size, video.source_size))
        raise ValueError(f"--control {options.control} has frames of {got} pixels: the video has {wanted}")
    return control.frames


def _sha256(tensor: Tensor) -> str:
    return hashlib.sha256(tensor.cpu().contiguous().numpy().tobytes()).hexdigest()

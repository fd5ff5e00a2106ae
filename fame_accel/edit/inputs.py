"""The video of an edit, its regions and its conditioning frames, read and checked against each other."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fame_accel.core.limits import VAE_SCALE_FACTOR, width_x_height
from fame_accel.edit.options import CANNY, EditOptions
from fame_accel.media.edges import canny_edges
from fame_accel.media.regions import video_regions
from fame_accel.media.video import Video, read_video
from fame_accel.media.writing import check_fps


@dataclass(frozen=True, eq=False)
class EditInputs:
    """A video with its regions.

    masks: bool [R, F, H, W], H and W being those of the frames. names: of the R regions. control: conditioning frames,
    of the N ControlNets, uint8 [N, F, H, W, 3], or None.
    """

    video: Video
    masks: Tensor
    names: list[str]
    control: Tensor | None = None

    def identity(self) -> dict[str, Any]:
        """What distinguishes these inputs from others: sha256 of the bytes that the edit is given, and more."""
        tensors = {"frames": self.video.frames, "masks": self.masks, "control": self.control}
        digests = {f"{name}_sha256": sha256(tensor) for name, tensor in tensors.items() if tensor is not None}
        return {
            **digests,
            "fps": self.video.fps,
            "source_size": list(self.video.source_size),
            "size": list(self.video.size),
        }


def read_inputs(options: EditOptions, multiple: int = VAE_SCALE_FACTOR) -> EditInputs:
    """Read the files that the options name; sides that they leave open are multiples of so many pixels.

    Raises:
        ValueError: a file cannot be read, files do not fit together, or a phrase is for an unknown region.
        RuntimeError: no person was found.
    """
    size, start, fit = options.wanted_size, options.start, options.fit
    video = read_video(
        options.video, options.frames, options.stride, size, options.fps, start=start, fit=fit, multiple=multiple
    )
    print("\n".join(video.lines), flush=True)
    try:
        check_fps(video.fps)
    except ValueError as error:
        raise ValueError(f"{options.video} at --stride {video.stride}: {error}; give --fps") from error
    masks, names = video_regions(video, options.masks)
    if unknown := [name for name in options.region if name not in names]:
        raise ValueError(f"--region {unknown[0]}: no such region; the regions are {', '.join(names)}")
    controls = [_read_control(given, options, video) for given in options.control]
    return EditInputs(video, masks, names, torch.stack(controls) if controls else None)


def _read_control(given: str, options: EditOptions, video: Video) -> Tensor:
    if given == CANNY:
        return canny_edges(video.frames)
    if not Path(given).exists():
        raise ValueError(f"--control must be {CANNY} or an existing video or folder, got {given}")
    # one frame for each of the video, whatever their times: at 1 frame per second, seconds count frames
    frames, stride = len(video.frames), video.stride
    control = read_video(given, frames, stride, video.size, 1, start=video.first, fit=options.fit)
    if control.source_size != video.source_size:
        got, wanted = map(width_x_height, (control.source_size, video.source_size))
        raise ValueError(f"--control {given} must have the video's frame size, {wanted}, got {got}")
    return control.frames


def sha256(tensor: Tensor) -> str:
    """The digest of a tensor's bytes."""
    return hashlib.sha256(tensor.cpu().contiguous().numpy().tobytes()).hexdigest()

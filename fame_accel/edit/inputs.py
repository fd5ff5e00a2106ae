"""The video of an edit, its regions and its conditioning frames, read and checked against each other."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fame_accel.edit.options import CANNY, EditOptions
from fame_accel.media.edges import canny_edges
from fame_accel.media.masks import read_masks
from fame_accel.media.person import region_masks
from fame_accel.media.video import Video, read_video
from fame_accel.media.writing import check_fps


@dataclass(frozen=True, eq=False)
class EditInputs:
    """A video with its regions.

    masks: bool [R, F, H, W], H and W being those of --size. names: of the R regions. control: conditioning frames
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
        return {**digests, "fps": self.video.fps, "source_size": list(self.video.source_size)}


def read_inputs(options: EditOptions) -> EditInputs:
    """Read the files that the options name.

    Raises:
        ValueError: a file cannot be read, files do not fit together, or a phrase is for an unknown region.
        RuntimeError: no person was found.
    """
    selection: dict[str, Any] = dict(frames=options.frames, stride=options.stride, size=options.size)
    video = read_video(options.video, **selection, fps=options.fps)
    try:
        check_fps(video.fps)
    except ValueError as error:
        raise ValueError(f"{options.video} at --stride {options.stride}: {error}; give --fps") from error
    if options.masks is None:
        masks, names = region_masks(video.frames)
    else:
        masks, names = read_masks(options.masks, video.source_size, **selection)
    if unknown := [name for name in options.region if name not in names]:
        raise ValueError(f"--region {unknown[0]}: no such region; the regions are {', '.join(names)}")
    controls = [_read_control(given, options, video) for given in options.control]
    return EditInputs(video, masks, names, torch.stack(controls) if controls else None)


def _read_control(given: str, options: EditOptions, video: Video) -> Tensor:
    if given == CANNY:
        return canny_edges(video.frames)
    if not Path(given).exists():
        raise ValueError(f"--control must be {CANNY} or an existing video or folder, got {given}")
    control = read_video(given, options.frames, options.stride, options.size)
    if control.source_size != video.source_size:
        got, wanted = ("x".join(map(str, size)) for size in (control.source_size, video.source_size))
        raise ValueError(f"--control {given} must have the video's frame size, {wanted}, got {got}")
    return control.frames


def sha256(tensor: Tensor) -> str:
    """The digest of a tensor's bytes."""
    return hashlib.sha256(tensor.cpu().contiguous().numpy().tobytes()).hexdigest()

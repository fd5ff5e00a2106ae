"""What every reader of this folder does alike: which frames it takes, how it crops and resizes them."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.nn.functional import interpolate

MOST = 2**31 - 1  # frames, stride and pixels a side: what torch and FFmpeg count to


def check_frames(frames: torch.Tensor) -> None:
    """Raise ValueError unless ``frames`` is uint8 [F, H, W, 3], not empty: a video as media/ has it."""
    if frames.dtype != torch.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or not frames.numel():
        raise ValueError(f"frames must be uint8 [F, H, W, 3], got {frames.dtype} {list(frames.shape)}")


def check_choice(frames: int | None, stride: int, size: tuple[int, int] | None) -> None:
    """Raise ValueError unless frames is None or at least 1, stride at least 1, size None or positive, and none above
    MOST."""
    for name, value in (("frames", frames), ("stride", stride)):
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
        if value is not None and value > MOST:
            raise ValueError(f"{name} must be at most {MOST}, got {value}")
    if size is not None and (len(size) != 2 or min(size) < 1 or max(size) > MOST):
        raise ValueError(f"size must be (height, width) in pixels, got {size}")


def chosen(available: int, frames: int | None, stride: int, source: str) -> range:
    """Indices of the first ``frames`` of every ``stride``-th frame; all of them for None.

    Raises ValueError, naming the counts and ``source``, where there are too few.
    """
    indices = range(0, available, stride)
    if frames is None:
        return indices
    if len(indices) < frames:
        every = f", {len(indices)} at stride {stride}" if stride > 1 else ""
        raise ValueError(f"{source} has {available} frame{'s' * (available != 1)}{every}: {frames} were asked for")
    return indices[:frames]


def fit_frames(frames: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Crop a video's centre to the aspect of a size and resize it, bicubic with antialiasing.

    Args:
        frames: uint8 tensor [F, H, W, 3].
        size: (height, width) in pixels.

    Returns:
        uint8 tensor [F, height, width, 3].
    """
    check_frames(frames)
    if tuple(frames.shape[1:3]) == tuple(size):
        return frames
    rows, columns = _centre(*frames.shape[1:3], size)
    pictures = frames[:, rows, columns].permute(0, 3, 1, 2).float()
    resized = interpolate(pictures, size=size, mode="bicubic", antialias=True)
    return resized.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def fit_masks(masks: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Crop masks [R, F, H, W] as :func:`fit_frames` does and resize them to [R, F, height, width], nearest neighbour.

    Any dtype; the sampled pixel is the one under the centre of the new one, so that masks stay on their frames.
    """
    if tuple(masks.shape[2:]) == tuple(size):
        return masks
    rows, columns = _centre(*masks.shape[2:], size)
    resized = interpolate(masks[:, :, rows, columns].float(), size=size, mode="nearest-exact")
    return resized.to(masks.dtype)


def natural_order(path: Path) -> tuple[list[tuple[int, str]], str]:
    """Sort key by which frame2 comes before frame10."""
    parts = re.split(r"(\d+)", path.name)  # text and digits in turn
    return [(int(part), "") if index % 2 else (0, part) for index, part in enumerate(parts)], path.name


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A name beside ``path`` to write to, which becomes ``path`` when the block ends well and goes when it does not.

    So a file is whole or not there, and an older one stays until it is replaced.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _centre(height: int, width: int, size: tuple[int, int]) -> tuple[slice, slice]:
    """The rows and columns of the largest centred box with the aspect of ``size``, to the pixel."""
    rows = min(height, max(1, round(width * size[0] / size[1])))
    columns = min(width, max(1, round(height * size[1] / size[0])))
    top, left = (height - rows) // 2, (width - columns) // 2
    return slice(top, top + rows), slice(left, left + columns)

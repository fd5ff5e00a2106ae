"""A decoded frame as upright RGB: display matrix, color, alpha; what cannot be applied is said or refused."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fame_accel.core.limits import width_x_height
from fame_accel.media.frames import fit_frames
from fame_accel.media.packages import require

if TYPE_CHECKING:
    from av import VideoFrame
    from av.video.reformatter import VideoReformatter

_BT709, _FULL, _UNSPECIFIED = 1, 2, 2  # FFmpeg's codes of a color matrix, a range, and of what a file leaves open
_MATRICES = (0, 1, 2, 4, 5, 6, 7, 9)  # those that swscale converts
_PQ, _HLG = 16, 18
_TRANSFERS = {8: "linear light", _PQ: "PQ (HDR)", _HLG: "HLG (HDR)"}
_WIDE = {9: "BT.2020", 11: "DCI-P3", 12: "Display P3"}  # primaries
_CONVERTS_LIGHT = 9  # the first major version of swscale that converts transfers and primaries
_HD_LINES = 720
OVER_BLACK = "transparent pixels are shown over black"
_SIDE_DATA = {
    "SPHERICAL": "the video is of 360 degrees: its projection is edited as it is stored",
    "STEREO3D": "the video is stereoscopic: both views are edited as one picture",
}


def upright_rgb(
    frame: VideoFrame, pixel_aspect: float, file: Path, reformatter: VideoReformatter
) -> tuple[Tensor, tuple[int, int], list[str]]:
    """Convert a decoded frame to RGB as a player shows it.

    Args:
        frame: as FFmpeg decodes it.
        pixel_aspect: width of a pixel over its height, before any rotation.
        file: for the error messages.
        reformatter: of PyAV, one for all frames of a file, as it keeps tables that take seconds to make for HDR.

    Returns:
        uint8 [H, W, 3], with square pixels, turned and mirrored as its display matrix says; its (height, width) before
        pixels were made square; and what a reader should know of the conversion, one line each.

    Raises:
        ValueError: the frame is encoded in a way that would give wrong colors or a wrong shape.
    """
    picture, lines = _rgb(frame, file, reformatter)
    aspect = (1.0, pixel_aspect)  # of rows and columns
    side_data: Any = frame.side_data  # PyAV's annotations are of another form than what it returns
    for data in side_data:
        lines += _named(_SIDE_DATA, data.type.name)
        if data.type.name == "DISPLAYMATRIX":
            matrix = require("numpy", "diffusers").frombuffer(data, "int32").tolist()
            picture = _turned(picture, matrix, file)
            aspect = aspect if matrix[0] else aspect[::-1]
    if frame.interlaced_frame:
        lines.append("the video is interlaced: both fields are edited as one picture; deinterlace it first")
    stored = (picture.shape[0], picture.shape[1])
    if pixel_aspect != 1:
        square = [max(1, round(side * stretch)) for side, stretch in zip(stored, aspect, strict=True)]
        picture = fit_frames(picture[None].contiguous(), (square[0], square[1]), "stretch")[0]
        lines.append(f"pixels of {width_x_height(stored)} are not square: resized to {width_x_height(square)}")
    return picture.contiguous(), stored, lines


def over_black(picture: Tensor) -> tuple[Tensor, bool]:
    """Composite RGBA over black.

    Args:
        picture: uint8 [H, W, 4], colors not multiplied by alpha.

    Returns:
        uint8 [H, W, 3], and whether any pixel was transparent.
    """
    color, alpha = picture[..., :3], picture[..., 3:]
    if bool((alpha == 255).all()):
        return color.contiguous(), False
    return ((color.int() * alpha.int() + 127) // 255).to(torch.uint8), True


def _rgb(frame: VideoFrame, file: Path, reformatter: VideoReformatter) -> tuple[Tensor, list[str]]:
    """A frame as uint8 [H, W, 3], and what to say of it."""
    lines: list[str] = []
    components = frame.format.components
    changes: dict[str, Any] = {"format": "rgba" if any(part.is_alpha for part in components) else "rgb24"}
    if frame.colorspace not in _MATRICES:
        raise ValueError(f"{file}: FFmpeg's color matrix {int(frame.colorspace)} cannot be read: convert it to BT.709")
    if not frame.format.is_rgb and frame.colorspace == _UNSPECIFIED and frame.height >= _HD_LINES:
        changes["src_colorspace"] = _BT709  # as players do; swscale would take BT.601
        lines.append("the file names no color matrix: BT.709 is assumed, as for all of its size")
    if special := [*_named(_TRANSFERS, frame.color_trc), *_named(_WIDE, frame.color_primaries)]:
        if require("av", "diffusers").library_versions["libswscale"][0] < _CONVERTS_LIGHT:
            raise ValueError(f"{file} is in {', '.join(special)}: convert it to BT.709, or install a newer PyAV")
        changes |= dict(dst_color_trc=_BT709, dst_color_primaries=_BT709, dst_color_range=_FULL)
        clipped = ", light above white (203 cd/m2) clipped" if frame.color_trc in (_PQ, _HLG) else ""
        lines.append(f"{', '.join(special)} is converted to BT.709{clipped}")
    if (bits := max(part.bits for part in components)) > 8:
        lines.append(f"{bits} bits a channel are rounded to 8")
    picture = torch.from_numpy(reformatter.reformat(frame, **changes).to_ndarray())
    if picture.shape[-1] == 4:
        picture, transparent = over_black(picture)
        lines += [OVER_BLACK] * transparent
    return picture, lines


def _named(names: Mapping[Any, str], code: Any) -> list[str]:
    return [names[code]] if code in names else []


def _turned(picture: Tensor, matrix: list[int], file: Path) -> Tensor:
    """Apply a display matrix (a, b, u, c, d, v, x, y, w), which sends (x, y) to (a x + c y, b x + d y)."""
    a, b, _, c, d = matrix[:5]
    if (a or d) and (b or c):
        raise ValueError(f"{file} is to be shown at an angle that is no quarter turn: convert it first")
    if b or c:
        picture = picture.transpose(0, 1)
        a, d = c, b
    flips = [axis for axis, sign in ((0, d), (1, a)) if sign < 0]
    return picture.flip(flips) if flips else picture

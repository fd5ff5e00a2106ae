"""Pictures of a run: videos side by side, and contact sheets of frames and regions."""

from collections.abc import Iterator, Sequence
from os import PathLike
from typing import TYPE_CHECKING

import torch
from torch.nn.functional import pad

from fame_accel.media.drawing import (
    GAP,
    INK,
    PAPER,
    as_image,
    draw_legend,
    evenly_spread,
    line_height,
    load_font,
    tint_regions,
    wrap,
)
from fame_accel.media.frames import check_frames
from fame_accel.media.packages import require
from fame_accel.media.provenance import png_xmp
from fame_accel.media.sound import Sound
from fame_accel.media.writing import write_video

if TYPE_CHECKING:
    from PIL import Image

MIN_COLUMN = 192
SHEET_FRAMES, SHEET_COLUMNS, SHEET_WIDTH = 8, 4, 256


def side_by_side_gif(path: str | PathLike[str], columns: dict[str, torch.Tensor], fps: float) -> None:
    """Write videos side by side as a looping GIF, each below its caption.

    Videos narrower than 192 pixels are enlarged by an integer factor.

    Args:
        path: the file to write.
        columns: uint8 tensors [F, H, W, 3], RGB, all of one shape, by caption.
        fps: frames per second, above 0 and at most 50. GIF rounds the time of a frame to 10 ms.

    Raises:
        ValueError: no columns, wrong or different shapes or dtypes, or ``fps`` out of range.
        ImportError: Pillow is missing.
    """
    if not 0 < fps <= 50:
        raise ValueError(f"fps must be above 0 and at most 50, got {fps}")
    indexed = _with_one_palette(list(_side_by_side(columns)))
    indexed[0].save(path, "GIF", save_all=True, append_images=indexed[1:], duration=1000 / fps, loop=0)


def side_by_side_video(
    path: str | PathLike[str],
    columns: dict[str, torch.Tensor],
    fps: float,
    *,
    xmp: str | None = None,
    sound: Sound | None = None,
) -> None:
    """Write videos side by side as an MP4 file, laid out as in :func:`side_by_side_gif`.

    An odd width or height, which yuv420p does not allow, gets one more pixel of margin.

    Args:
        path: the file to write, with the suffix .mp4.
        columns: as in :func:`side_by_side_gif`.
        fps, xmp, sound: as in :func:`fame_accel.media.writing.write_video`.

    Raises:
        ValueError: as in both functions.
        ImportError: PyAV, numpy or Pillow is missing.
    """
    numpy = require("numpy")
    pictures = torch.stack([torch.from_numpy(numpy.array(sheet)) for sheet in _side_by_side(columns)])
    height, width = pictures.shape[1:3]
    write_video(path, pad(pictures, (0, 0, 0, width % 2, 0, height % 2), value=PAPER[0]), fps, xmp=xmp, sound=sound)


def contact_sheet(
    path: str | PathLike[str],
    source: torch.Tensor,
    masks: torch.Tensor,
    names: Sequence[str],
    edited: torch.Tensor,
) -> None:
    """Write a PNG with up to 4 evenly spread frames in columns; the rows are source, regions and edited frames.

    Its metadata say that it shows an edit by a generative model.

    Args:
        path: the file to write.
        source, edited: uint8 tensors [F, H, W, 3], RGB, of one shape.
        masks: bool tensor [R, F, H, W]. Where regions overlap, their colors mix.
        names: the R names, for the legend.

    Raises:
        ValueError: the shapes, dtypes or names do not fit together.
        ImportError: Pillow is missing.
    """
    _check_regions(source, masks, names)
    check_frames(edited)
    if edited.shape != source.shape:
        raise ValueError(f"edited must have the source's shape {list(source.shape)}, got {list(edited.shape)}")
    image, image_draw = require("PIL.Image"), require("PIL.ImageDraw")

    font = load_font()
    line = line_height(font)
    shown = evenly_spread(len(source), SHEET_COLUMNS)
    width, height = _thumbnail_size(source)
    rows = ("source", "regions", "edited")
    first = GAP + max(round(font.getlength(row)) for row in rows) + GAP  # left of the first column
    legend = draw_legend(names, first + len(shown) * (width + GAP))
    size = (legend.width, legend.height + line + len(rows) * (height + GAP))
    sheet = image.new("RGB", size, PAPER)
    sheet.paste(legend, (0, 0))
    draw = image_draw.Draw(sheet)
    for column, frame in enumerate(shown):
        left = first + column * (width + GAP)
        draw.text((left, legend.height + line / 2 - 1), f"frame {frame}", INK, font, anchor="lm")
        pictures = (source[frame], tint_regions(source[frame].cpu(), masks[:, frame].cpu()), edited[frame])
        for row, picture in enumerate(pictures):
            top = legend.height + line + row * (height + GAP)
            sheet.paste(as_image(picture).resize((width, height), image.Resampling.LANCZOS), (left, top))
    for row, name in enumerate(rows):
        draw.text((GAP, legend.height + line + row * (height + GAP) + height / 2), name, INK, font, anchor="lm")
    sheet.save(path, "PNG", pnginfo=png_xmp())


def mask_overlay(path: str | PathLike[str], frames: torch.Tensor, masks: torch.Tensor, names: Sequence[str]) -> None:
    """Write a PNG with up to 8 evenly spread frames, their regions tinted and outlined, and a legend.

    Args:
        path: the file to write.
        frames: uint8 tensor [F, H, W, 3], RGB.
        masks: bool tensor [R, F, H, W]. Where regions overlap, their colors mix.
        names: the R names, for the legend.

    Raises:
        ValueError: the shapes, dtypes or names do not fit together.
        ImportError: Pillow is missing.
    """
    _check_regions(frames, masks, names)
    image, image_draw = require("PIL.Image"), require("PIL.ImageDraw")

    shown = evenly_spread(len(frames), SHEET_FRAMES)
    across = min(len(shown), SHEET_COLUMNS)
    down = -(-len(shown) // across)
    width, height = _thumbnail_size(frames)
    legend = draw_legend(names, GAP + across * (width + GAP))
    line = line_height(load_font())
    size = (max(GAP + across * (width + GAP), legend.width), legend.height + down * (line + height + GAP))
    sheet = image.new("RGB", size, PAPER)
    sheet.paste(legend, (0, 0))
    draw = image_draw.Draw(sheet)
    for index, frame in enumerate(shown):
        left = GAP + index % across * (width + GAP)
        top = legend.height + index // across * (line + height + GAP)
        draw.text((left, top + line / 2 - 1), f"frame {frame}", INK, load_font(), anchor="lm")
        picture = as_image(tint_regions(frames[frame].cpu(), masks[:, frame].cpu()))
        sheet.paste(picture.resize((width, height), image.Resampling.LANCZOS), (left, top + line))
    sheet.save(path, "PNG")


def _thumbnail_size(frames: torch.Tensor) -> tuple[int, int]:
    """Return (width, height) in pixels of a frame on a sheet."""
    return SHEET_WIDTH, round(SHEET_WIDTH * frames.shape[1] / frames.shape[2])


def _side_by_side(columns: dict[str, torch.Tensor]) -> Iterator["Image.Image"]:
    """Yield each frame as one picture: all columns side by side, below their captions."""
    if not columns:
        raise ValueError("columns must hold at least one video")
    for frames in columns.values():
        check_frames(frames)
    shapes = {tuple(frames.shape) for frames in columns.values()}
    if len(shapes) > 1:
        raise ValueError(f"columns must have one shape, got {sorted(shapes)}")
    image, image_draw = require("PIL.Image"), require("PIL.ImageDraw")

    (_, height, width, _) = shapes.pop()
    factor = -(-MIN_COLUMN // width) if width < MIN_COLUMN else 1
    height, width = height * factor, width * factor
    font = load_font()
    captions = [wrap(caption, font, width) for caption in columns]
    top = GAP + line_height(font) * max(caption.count("\n") + 1 for caption in captions) + GAP
    blank = image.new("RGB", (GAP + len(columns) * (width + GAP), top + height + GAP), PAPER)
    draw = image_draw.Draw(blank)
    lefts = [GAP + index * (width + GAP) for index in range(len(columns))]
    for left, caption in zip(lefts, captions, strict=True):
        draw.multiline_text((left + width / 2, top - GAP), caption, INK, font, anchor="md", align="center")
    for pictures in zip(*columns.values(), strict=True):
        sheet = blank.copy()
        for left, picture in zip(lefts, pictures, strict=True):
            sheet.paste(as_image(picture).resize((width, height), image.Resampling.NEAREST), (left, top))
        yield sheet


def _check_regions(frames: torch.Tensor, masks: torch.Tensor, names: Sequence[str]) -> None:
    check_frames(frames)
    if masks.dtype != torch.bool or masks.ndim != 4 or masks.shape[1:] != frames.shape[:3]:
        wanted = ", ".join(str(side) for side in frames.shape[:3])
        raise ValueError(f"masks must be bool [R, {wanted}], got {masks.dtype} {list(masks.shape)}")
    if len(names) != len(masks) or not len(masks):
        raise ValueError(f"masks and names must be equally many, at least one, got {len(masks)} and {len(names)}")


def _with_one_palette(sheets: list["Image.Image"]) -> list["Image.Image"]:
    """Index RGB images by a shared palette, without dithering, as colors that change between frames would flicker."""
    image = require("PIL.Image")
    width, height = sheets[0].size
    strip = image.new("RGB", (width, height * len(sheets)))
    for index, sheet in enumerate(sheets):
        strip.paste(sheet, (0, index * height))
    strip = strip.quantize(256)
    # quantize averages similar colors; keep the background, the pixel at the corner, white
    paper, palette = 3 * strip.getpixel((0, 0)), strip.getpalette()
    palette[paper : paper + 3] = PAPER
    strip.putpalette(palette)
    return [strip.crop((0, top, width, top + height)) for top in range(0, strip.height, height)]

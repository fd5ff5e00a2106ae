"""Pictures of a run: a captioned GIF, a contact sheet of the regions, and a chart that compares backends."""

import math
from collections.abc import Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import max_pool2d, pad

from fame_accel.media.clip import check_frames
from fame_accel.media.packages import require

if TYPE_CHECKING:
    from PIL import Image, ImageFont

# Okabe and Ito's colours, which colour-blind readers can tell apart
PALETTE = ("#E69F00", "#0072B2", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442")
INK, PAPER = (26, 26, 26), (255, 255, 255)
GAP = 8
FONT_SIZE = 15
MIN_COLUMN = 192
TINT = 0.45
SHEET_FRAMES, SHEET_COLUMNS, SHEET_WIDTH = 8, 4, 256


def side_by_side_gif(path: str | PathLike[str], columns: dict[str, torch.Tensor], fps: float) -> None:
    """Write videos next to each other as an endless GIF, each below its caption.

    Videos narrower than 192 pixels are enlarged by a whole factor.

    Args:
        path: the file to write.
        columns: for each caption a uint8 tensor [F, H, W, 3], RGB, all of one shape.
        fps: frames a second, above 0 to 50; GIF rounds the time of a frame to hundredths of a second.

    Raises:
        ValueError: no columns, other shapes or dtypes, or ``fps`` out of range.
        ImportError: Pillow is missing.
    """
    if not columns:
        raise ValueError("columns must hold at least one video")
    for frames in columns.values():
        check_frames(frames)
    shapes = {tuple(frames.shape) for frames in columns.values()}
    if len(shapes) > 1:
        raise ValueError(f"the columns must have one shape, got {sorted(shapes)}")
    if not 0 < fps <= 50:
        raise ValueError(f"fps must be above 0 and at most 50, got {fps}")
    image, image_draw = require("PIL.Image"), require("PIL.ImageDraw")

    (count, height, width, _) = shapes.pop()
    factor = -(-MIN_COLUMN // width) if width < MIN_COLUMN else 1
    height, width = height * factor, width * factor
    font = _font()
    captions = [_wrap(caption, font, width) for caption in columns]
    top = GAP + _line_height(font) * max(caption.count("\n") + 1 for caption in captions) + GAP
    blank = image.new("RGB", (GAP + len(columns) * (width + GAP), top + height + GAP), PAPER)
    draw = image_draw.Draw(blank)
    lefts = [GAP + index * (width + GAP) for index in range(len(columns))]
    for left, caption in zip(lefts, captions, strict=True):
        draw.multiline_text((left + width / 2, top - GAP), caption, INK, font, anchor="md", align="center")

    sheets = [blank.copy() for _ in range(count)]
    for left, frames in zip(lefts, columns.values(), strict=True):
        for sheet, frame in zip(sheets, frames, strict=True):
            sheet.paste(_image(frame).resize((width, height), image.Resampling.NEAREST), (left, top))
    indexed = _with_one_palette(sheets)
    indexed[0].save(path, "GIF", save_all=True, append_images=indexed[1:], duration=1000 / fps, loop=0)


def mask_overlay(path: str | PathLike[str], frames: torch.Tensor, masks: torch.Tensor, names: Sequence[str]) -> None:
    """Write up to 8 evenly spread frames, their regions tinted and outlined, with a legend, as one PNG.

    Args:
        path: the file to write.
        frames: uint8 tensor [F, H, W, 3], RGB.
        masks: bool tensor [R, F, H, W], 1 to 7 regions. Where regions overlap, their colours mix.
        names: the R names.

    Raises:
        ValueError: shapes, dtypes or names do not fit together, or there are not 1 to 7 regions.
        ImportError: Pillow is missing.
    """
    check_frames(frames)
    if masks.dtype != torch.bool or masks.ndim != 4 or masks.shape[1:] != frames.shape[:3]:
        wanted = ", ".join(str(side) for side in frames.shape[:3])
        raise ValueError(f"masks must be bool [R, {wanted}], got {masks.dtype} {list(masks.shape)}")
    if len(names) != len(masks) or not 1 <= len(masks) <= len(PALETTE):
        raise ValueError(f"need 1 to {len(PALETTE)} regions and as many names, got {len(masks)} and {len(names)}")
    image, image_draw = require("PIL.Image"), require("PIL.ImageDraw")

    shown = torch.linspace(0, len(frames) - 1, min(len(frames), SHEET_FRAMES)).round().int().tolist()
    across = min(len(shown), SHEET_COLUMNS)
    down = -(-len(shown) // across)
    width, height = SHEET_WIDTH, round(SHEET_WIDTH * frames.shape[1] / frames.shape[2])
    legend = _legend(names, GAP + across * (width + GAP))
    line = _line_height(_font())
    size = (max(GAP + across * (width + GAP), legend.width), legend.height + down * (line + height + GAP))
    sheet = image.new("RGB", size, PAPER)
    sheet.paste(legend, (0, 0))
    draw = image_draw.Draw(sheet)
    for index, frame in enumerate(shown):
        left = GAP + index % across * (width + GAP)
        top = legend.height + index // across * (line + height + GAP)
        draw.text((left, top + line / 2 - 1), f"frame {frame}", INK, _font(), anchor="lm")
        tinted = _image(_tint(frames[frame].cpu(), masks[:, frame].cpu()))
        sheet.paste(tinted.resize((width, height), image.Resampling.LANCZOS), (left, top + line))
    sheet.save(path, "PNG")


def comparison_chart(path: str | PathLike[str], rows: list[dict[str, Any]]) -> None:
    """Draw attention time, step time and peak memory of each backend as horizontal bars, as PNG.

    Args:
        path: the file to write.
        rows: one a backend, drawn from the top: ``{"backend": str, "attention_s": float, "step_s": float,
            "peak_mib": float}``, in seconds and MiB.

    Raises:
        ValueError: no rows, a missing key, or a value that is negative or not finite.
        ImportError: matplotlib is missing.
    """
    panels = {"attention_s": "attention", "step_s": "whole step", "peak_mib": "peak memory"}
    if not rows:
        raise ValueError("rows must hold at least one backend")
    for row in rows:
        missing = {"backend", *panels} - row.keys()
        if missing:
            raise ValueError(f"a row lacks {sorted(missing)}: {row}")
        if not all(0 <= row[key] < float("inf") for key in panels):
            raise ValueError(f"times and memory must be finite and not negative: {row}")
    # a Figure without pyplot draws with Agg and leaves the caller's matplotlib as it is
    figure_module = require("matplotlib.figure")
    figure = figure_module.Figure(figsize=(11, 1.3 + 0.5 * len(rows)), dpi=120, layout="constrained")

    ink = tuple(channel / 255 for channel in INK)
    colors = [PALETTE[index % len(PALETTE)] for index in range(len(rows))]
    positions = range(len(rows))
    for axes, (key, title) in zip(figure.subplots(1, len(panels), sharey=True), panels.items(), strict=True):
        largest = max(row[key] for row in rows)
        factor, unit = _unit(key, largest)
        widths = [row[key] * factor for row in rows]
        bars = axes.barh(positions, widths, color=colors, edgecolor=ink, linewidth=0.6, height=0.65)
        axes.bar_label(bars, [f"{_three_digits(width)} {unit}" for width in widths], padding=4, color=ink)
        axes.set_xlim(0, max(widths) * 1.35 or 1)  # room for the label of the longest bar
        axes.set_title(title, loc="left", color=ink, fontweight="bold")
        axes.set_xlabel(f"{unit}, less is better", color=ink)
        axes.spines[["top", "right"]].set_visible(False)
    axes.set_yticks(positions, [row["backend"] for row in rows])
    axes.invert_yaxis()  # shared by all panels
    figure.savefig(path, format="png")


def _with_one_palette(sheets: list["Image.Image"]) -> list["Image.Image"]:
    """Index RGB images by one palette, without dithering: colours that differ from frame to frame flicker."""
    image = require("PIL.Image")
    width, height = sheets[0].size
    strip = image.new("RGB", (width, height * len(sheets)))
    for index, sheet in enumerate(sheets):
        strip.paste(sheet, (0, index * height))
    strip = strip.quantize(256)
    # quantize averages similar colours: the paper, at the corner, is to stay white
    paper, palette = 3 * strip.getpixel((0, 0)), strip.getpalette()
    palette[paper : paper + 3] = PAPER
    strip.putpalette(palette)
    return [strip.crop((0, top, width, top + height)) for top in range(0, strip.height, height)]


def _legend(names: Sequence[str], width: int) -> "Image.Image":
    """A legend in lines of at most ``width`` pixels; a longer name widens it."""
    font = _font()
    side = _line_height(font)
    places, left, top = [], GAP, GAP
    for name in names:
        item = side + GAP + round(font.getlength(name)) + 2 * GAP
        if left > GAP and left + item > width:
            left, top = GAP, top + side + GAP
        places.append((left, top))
        left += item
        width = max(width, left)
    legend = require("PIL.Image").new("RGB", (width, top + side + GAP), PAPER)
    draw = require("PIL.ImageDraw").Draw(legend)
    for name, color, (left, top) in zip(names, PALETTE, places, strict=False):
        draw.rectangle((left, top, left + side, top + side), color, INK)
        draw.text((left + side + GAP, top + side / 2), name, INK, font, anchor="lm")
    return legend


def _tint(frame: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Tint a frame uint8 [H, W, 3] by region, masks bool [R, H, W], and outline each region in white."""
    getrgb = require("PIL.ImageColor").getrgb
    colors = torch.tensor([getrgb(color) for color in PALETTE[: len(masks)]], dtype=torch.float32)
    members = masks.float()
    mixed = torch.einsum("rhw,rc->hwc", members, colors) / members.sum(0).clamp(min=1)[..., None]
    picture = torch.where(masks.any(0)[..., None], (1 - TINT) * frame + TINT * mixed, frame.float())
    eroded = -max_pool2d(pad(-members, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    picture[(members > eroded).any(0)] = 255
    return picture.round().to(torch.uint8)


def _image(frame: torch.Tensor) -> "Image.Image":
    return require("PIL.Image").fromarray(frame.cpu().contiguous().numpy())


def _font() -> "ImageFont.FreeTypeFont":
    return require("PIL.ImageFont").load_default(FONT_SIZE)


def _line_height(font: "ImageFont.FreeTypeFont") -> int:
    return sum(font.getmetrics()) + 4  # Pillow's spacing of lines


def _wrap(text: str, font: "ImageFont.FreeTypeFont", width: int) -> str:
    """Break ``text`` into lines no wider than ``width``, within a word only where it alone is too wide."""
    lines = [""]
    for word in text.split():
        if font.getlength(f"{lines[-1]} {word}".strip()) <= width:
            lines[-1] = f"{lines[-1]} {word}".strip()
            continue
        lines.append("")
        for letter in word:
            if lines[-1] and font.getlength(lines[-1] + letter) > width:
                lines.append("")
            lines[-1] += letter
    return "\n".join(line for line in lines if line)


def _unit(key: str, value: float) -> tuple[float, str]:
    if key == "peak_mib":
        return (1 / 1024, "GiB") if value >= 10 * 1024 else (1, "MiB")
    if value >= 1:
        return 1, "s"
    return (1e3, "ms") if value >= 1e-3 else (1e6, "µs")


def _three_digits(value: float) -> str:
    """A value with three significant digits, never with an exponent."""
    decimals = 2 - math.floor(math.log10(value)) if value else 0
    return f"{value:.{max(decimals, 0)}f}"

"""Elements of pictures: colors, text, legends, and frames with their regions tinted."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch.nn.functional import max_pool2d, pad

from fame_accel.media.frames import to_bytes
from fame_accel.media.packages import require

if TYPE_CHECKING:
    from PIL import Image, ImageFont

# The colors of Okabe and Ito, which color-blind readers can tell apart.
PALETTE = ("#E69F00", "#0072B2", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442")
# From the eighth region on they are darker or lighter: the color that is mixed in, and its share.
_SHADES = (((0, 0, 0), 0.0), ((0, 0, 0), 0.5), ((255, 255, 255), 0.6), ((0, 0, 0), 0.75), ((255, 255, 255), 0.8))
INK, PAPER = (26, 26, 26), (255, 255, 255)
GAP = 8
FONT_SIZE = 15
TINT = 0.45


def region_colors(number: int) -> list[tuple[int, ...]]:
    """Colors for `number` regions, RGB in 0 to 255; up to 35 all differ."""
    getrgb = require("PIL.ImageColor").getrgb
    colors = []
    for index in range(number):
        mixed, share = _SHADES[index // len(PALETTE) % len(_SHADES)]
        channels = zip(getrgb(PALETTE[index % len(PALETTE)]), mixed, strict=True)
        colors.append(tuple(round((1 - share) * channel + share * other) for channel, other in channels))
    return colors


def draw_legend(names: Sequence[str], width: int) -> "Image.Image":
    """Draw a legend whose lines are at most ``width`` pixels wide, or as wide as the longest name."""
    font = load_font()
    side = line_height(font)
    corners, left, top = [], GAP, GAP
    for name in names:
        item = side + GAP + round(font.getlength(name)) + 2 * GAP
        if left > GAP and left + item > width:
            left, top = GAP, top + side + GAP
        corners.append((left, top))
        left += item
        width = max(width, left)
    legend = require("PIL.Image").new("RGB", (width, top + side + GAP), PAPER)
    draw = require("PIL.ImageDraw").Draw(legend)
    for name, color, (left, top) in zip(names, region_colors(len(names)), corners, strict=True):
        draw.rectangle((left, top, left + side, top + side), color, INK)
        draw.text((left + side + GAP, top + side / 2), name, INK, font, anchor="lm")
    return legend


def tint_regions(frame: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Tint each region of a frame in its color and outline it in white.

    Args:
        frame: uint8 tensor [H, W, 3].
        masks: bool tensor [R, H, W]. Where regions overlap, their colors are averaged.

    Returns:
        uint8 tensor [H, W, 3].
    """
    colors = torch.tensor(region_colors(len(masks)), dtype=torch.float32, device=frame.device)
    members = masks.float()
    mixed = torch.einsum("rhw,rc->hwc", members, colors) / members.sum(0).clamp(min=1)[..., None]
    picture = torch.where(masks.any(0)[..., None], (1 - TINT) * frame + TINT * mixed, frame.float())
    eroded = -max_pool2d(pad(-members, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    picture[(members > eroded).any(0)] = 255
    return to_bytes(picture, white=255)


def as_image(frame: torch.Tensor) -> "Image.Image":
    """Convert a frame, uint8 [H, W, 3], to a Pillow image."""
    return require("PIL.Image").fromarray(frame.cpu().contiguous().numpy())


def load_font() -> "ImageFont.FreeTypeFont":
    """Load Pillow's own font, in the size of all captions."""
    return require("PIL.ImageFont").load_default(FONT_SIZE)


def line_height(font: "ImageFont.FreeTypeFont") -> int:
    """Return the height in pixels of a line of text, Pillow's line spacing of 4 included."""
    return sum(font.getmetrics()) + 4


def wrap(text: str, font: "ImageFont.FreeTypeFont", width: int) -> str:
    """Break ``text`` into lines of at most ``width`` pixels. A word is broken only if it is too wide by itself."""
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


def evenly_spread(count: int, limit: int) -> list[int]:
    """Pick at most ``limit`` of the indices 0 to ``count`` - 1, evenly spread from the first to the last."""
    shown = min(count, limit)
    return [round(index * (count - 1) / max(shown - 1, 1)) for index in range(shown)]

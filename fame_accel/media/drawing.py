"""What pictures are drawn with: colours, letters, a legend, and frames with their regions tinted."""

from collections.abc import Sequence
from itertools import cycle, islice
from typing import TYPE_CHECKING

import torch
from torch.nn.functional import max_pool2d, pad

from fame_accel.media.packages import require

if TYPE_CHECKING:
    from PIL import Image, ImageFont

# Okabe and Ito's colours, which colour-blind readers can tell apart; from the eighth region on they repeat
PALETTE = ("#E69F00", "#0072B2", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442")
INK, PAPER = (26, 26, 26), (255, 255, 255)
GAP = 8
FONT_SIZE = 15
TINT = 0.45


def draw_legend(names: Sequence[str], width: int) -> "Image.Image":
    """A legend in lines of at most ``width`` pixels; a longer name widens it."""
    font = load_font()
    side = line_height(font)
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
    for name, color, (left, top) in zip(names, cycle(PALETTE), places, strict=False):
        draw.rectangle((left, top, left + side, top + side), color, INK)
        draw.text((left + side + GAP, top + side / 2), name, INK, font, anchor="lm")
    return legend


def tinted(frame: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Tint a frame uint8 [H, W, 3] by region, masks bool [R, H, W], and outline each region in white."""
    getrgb = require("PIL.ImageColor").getrgb
    colors = torch.tensor([getrgb(color) for color in islice(cycle(PALETTE), len(masks))], dtype=torch.float32)
    members = masks.float()
    mixed = torch.einsum("rhw,rc->hwc", members, colors) / members.sum(0).clamp(min=1)[..., None]
    picture = torch.where(masks.any(0)[..., None], (1 - TINT) * frame + TINT * mixed, frame.float())
    eroded = -max_pool2d(pad(-members, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    picture[(members > eroded).any(0)] = 255
    return picture.round().to(torch.uint8)


def as_image(frame: torch.Tensor) -> "Image.Image":
    """A frame uint8 [H, W, 3] as a Pillow image."""
    return require("PIL.Image").fromarray(frame.cpu().contiguous().numpy())


def load_font() -> "ImageFont.FreeTypeFont":
    return require("PIL.ImageFont").load_default(FONT_SIZE)


def line_height(font: "ImageFont.FreeTypeFont") -> int:
    return sum(font.getmetrics()) + 4  # Pillow's spacing of lines


def wrap(text: str, font: "ImageFont.FreeTypeFont", width: int) -> str:
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


def evenly_spread(count: int, most: int) -> list[int]:
    """At most ``most`` of the indices 0 to ``count`` - 1, the first and the last among them."""
    return torch.linspace(0, count - 1, min(count, most)).round().int().tolist()

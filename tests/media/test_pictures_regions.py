"""Pictures of regions: each has its color, in the legend as on the frame, however many there are."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fame_accel.core.limits import MAX_REGIONS
from fame_accel.media.drawing import TINT, draw_legend, line_height, load_font, region_colors, tint_regions
from fame_accel.media.pictures import contact_sheet

image = pytest.importorskip("PIL.Image")


def test_all_regions_have_colors_of_their_own():
    colors = region_colors(MAX_REGIONS)
    assert len(set(colors)) == MAX_REGIONS
    nearest = min(max(abs(a - b) for a, b in zip(x, y, strict=True)) for x in colors for y in colors if x != y)
    assert nearest >= 8


@pytest.mark.parametrize("number", [1, 2, 9, MAX_REGIONS])
def test_the_legend_has_the_colors_of_the_frame(number: int):
    masks = torch.zeros(number, 16, 16 * number, dtype=torch.bool)
    for region in range(number):
        masks[region, :, 16 * region : 16 * (region + 1)] = True
    frame = torch.full((16, 16 * number, 3), 100, dtype=torch.uint8)
    tinted = tint_regions(frame, masks)
    legend = {color for _, color in draw_legend([str(region) for region in range(number)], 400).getcolors(2**16)}
    for region, color in enumerate(region_colors(number)):
        expected = (1 - TINT) * 100 + TINT * torch.tensor(color).float()
        assert (tinted[8, 16 * region + 8].float() - expected).abs().max() <= 1
        assert color in legend


def test_a_sheet_has_a_row_for_source_regions_and_edit(tmp_path: Path):
    """By the color in the middle of each thumbnail."""
    source = torch.full((2, 64, 64, 3), 80, dtype=torch.uint8)
    edited = torch.full((2, 64, 64, 3), 200, dtype=torch.uint8)
    masks = torch.ones(1, 2, 64, 64, dtype=torch.bool)
    contact_sheet(tmp_path / "sheet.png", source, masks, ["person"], edited)
    sheet = image.open(tmp_path / "sheet.png").convert("RGB")
    font = load_font()
    top = sheet.height - 3 * (256 + 8) + 128
    tint = tuple(round((1 - TINT) * 80 + TINT * channel) for channel in region_colors(1)[0])
    for row, color in enumerate(((80,) * 3, tint, (200,) * 3)):
        for column in range(2):
            pixel = sheet.getpixel((sheet.width - (256 + 8) * (2 - column) + 128, top + row * (256 + 8)))
            assert max(abs(a - b) for a, b in zip(pixel, color, strict=True)) <= 1
    assert line_height(font) > 0

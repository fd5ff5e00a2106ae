"""The picture of a tile plan shows what the plan computes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fame_accel import Modulation, TokenLayout
from fame_accel.core.tables import merge_frames
from fame_accel.core.tiles import tile_plan
from fame_accel.tools.plan_picture import plan_image, plot_plans

ORANGE, BLUE, WHITE = (0.90, 0.62, 0.0), (0.0, 0.45, 0.70), (1.0, 1.0, 1.0)
MODULATIONS = {
    "fame": Modulation.fame(2, decay=0.5),
    "strength": Modulation.fame(2, decay=0.5, decay_on="strength"),
    "videograin": Modulation.videograin(2),
    "mask": Modulation.region_mask(2, decay=0.5),
}


def layout() -> TokenLayout:
    """Two frames of 4 tokens in region 1, 10 in region 2 and 6 in none: full and short tiles of 4."""
    region = torch.tensor([1] * 4 + [2] * 10 + [0] * 6).repeat(2)
    return TokenLayout(region, torch.arange(2).repeat_interleave(20), 2)


@pytest.mark.parametrize("name", MODULATIONS)
def test_colors_are_those_of_the_pairs(name: str):
    tokens, modulation = layout(), MODULATIONS[name]
    plan = tile_plan(tokens, tokens, merge_frames(modulation, 2, 2), 4, 4)
    image = plan_image(plan)
    rows = sorted(tile.tolist()[0] for tile in plan.tiles[0] if tile[1] > 0)
    columns = plan.pair_span[:, 0].unique().tolist()
    assert image.shape == (len(rows), len(columns), 3)
    query, key = (order[0].long() for order in (plan.query_order, plan.key_order))
    region, frame = tokens.region[0], tokens.frame[0].long()
    seen = set()
    for row, query_start in enumerate(rows):
        for column, key_start in enumerate(columns):
            one, other = query[query_start], key[key_start]
            same = int(region[one] & region[other] != 0)
            bias = (
                0.0 if modulation.bias_table is None else float(modulation.bias_table[same, frame[one], frame[other]])
            )
            color = torch.tensor(WHITE)
            if bias > -torch.inf:
                shade = 0.25 + 0.75 * min(1.0, float(torch.tensor(bias).exp()))
                color = 1 - shade * (1 - torch.tensor(BLUE if same else ORANGE))
            torch.testing.assert_close(image[row, column], color, atol=1e-5, rtol=0)
            seen.add((same, bias > -torch.inf))
    assert (1, True) in seen and len(seen) == 2


def test_the_file_shows_both_colors_and_the_legend(tmp_path: Path):
    image = pytest.importorskip("PIL.Image")
    pytest.importorskip("matplotlib")
    tokens = layout()
    plans = {name: tile_plan(tokens, tokens, merge_frames(MODULATIONS[name], 2, 2), 4, 4) for name in ("fame", "mask")}
    plot_plans(tmp_path / "plans.png", plans)
    picture = image.open(tmp_path / "plans.png").convert("RGB")
    half = picture.size[0] // 2
    counts = []
    for box in ((0, 0, half, picture.size[1] * 9 // 10), (half, 0, *picture.size[:1], picture.size[1] * 9 // 10)):
        colors = {color: count for count, color in picture.crop(box).getcolors(2**20)}
        shown = torch.tensor([[*color, count] for color, count in colors.items()])
        near = [(shown[:, :3] - 255 * torch.tensor(one)).abs().amax(1) < 2 for one in (ORANGE, BLUE)]
        counts.append([int(shown[here, 3].sum()) for here in near])
    assert counts[0][0] > counts[0][1] > 1000  # more pairs differ than share a region
    assert counts[1][0] == 0 and counts[1][1] > 1000  # a hard mask excludes the pairs that differ

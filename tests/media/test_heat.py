"""Heat maps over frames."""

import pytest
import torch

from fame_accel import SpaceTimeLayout, TokenLayout, attention_mass
from fame_accel.media.heat import heat_overlay


def test_the_hottest_pixels_are_the_brightest():
    frames = torch.full((2, 8, 8, 3), 128, dtype=torch.uint8)
    heat = torch.zeros(2, 8, 8)
    heat[0, 2, 3], heat[1, 5, 5] = 4.0, 2.0
    shown = heat_overlay(frames, heat, opacity=1.0)
    assert shown.dtype == torch.uint8 and shown.shape == frames.shape
    assert shown[0, 2, 3].tolist() == [255, 242, 102]  # the largest of all frames
    assert shown[1, 5, 5].tolist() == [204, 26, 26]  # half of it
    assert (shown[0, 7] == 0).all()
    assert torch.equal(heat_overlay(frames, heat, opacity=0.0), frames)
    assert (heat_overlay(frames, torch.zeros(2, 4, 4), opacity=0.5) == 64).all()


def test_attention_to_a_word_is_seen_where_it_is():
    layout = SpaceTimeLayout.from_masks(torch.ones(1, 2, 4, 4, dtype=torch.bool)).tokens(4, 4)
    words = TokenLayout(torch.zeros(3).int(), torch.zeros(3).int(), 1)
    query, key = torch.zeros(1, 1, 32, 16), torch.zeros(1, 1, 3, 16)
    query[:, :, 5, 0], key[:, :, 1, 0] = 9.0, 9.0
    mass = attention_mass(query, key, torch.eye(3, dtype=torch.bool), layout, words)
    shown = heat_overlay(torch.zeros(2, 4, 4, 3, dtype=torch.uint8), mass[0, :, :, 1].mean(0).view(2, 4, 4))
    assert shown.sum(-1).flatten().argmax() == 5


@pytest.mark.parametrize(
    ("heat", "opacity", "message"),
    [
        (torch.zeros(1, 4, 4), 0.5, r"heat must be a floating tensor \[2, h, w\]"),
        (torch.zeros(2, 4, 4, dtype=torch.int64), 0.5, "got torch.int64"),
        (None, 0.5, "got NoneType"),
        (-torch.ones(2, 4, 4), 0.5, "heat must be finite and at least 0"),
        (torch.full((2, 4, 4), torch.nan), 0.5, "heat must be finite"),
        (torch.zeros(2, 4, 4), 1.5, r"opacity must lie in \[0, 1\], got 1.5"),
    ],
)
def test_what_does_not_fit_is_refused(heat, opacity, message):
    with pytest.raises(ValueError, match=message):
        heat_overlay(torch.zeros(2, 8, 8, 3, dtype=torch.uint8), heat, opacity)

"""Modulations by name, and the ranges of options."""

from __future__ import annotations

import math

import pytest
import torch

from fame_accel.core.limits import COUNT, FRACTION, NOT_NEGATIVE, STEPS, check_size
from fame_accel.core.modulation import Modulation
from fame_accel.core.presets import MODULATIONS, make_modulation

FRAMES = 4
EXPECTED = {
    "fame": Modulation.fame(FRAMES),
    "fame-strength": Modulation.fame(FRAMES, decay_on="strength"),
    "videograin": Modulation.videograin(FRAMES),
    "region-mask": Modulation.region_mask(FRAMES),
    "plain": Modulation(),
    "per-frame": Modulation.frames(FRAMES, "self"),
    "first-frame": Modulation.frames(FRAMES, "first"),
    "sparse-causal": Modulation.frames(FRAMES, "first_previous"),
}


def test_every_name_makes_its_modulation():
    assert {name: make_modulation(name, FRAMES) for name in MODULATIONS} == EXPECTED


@pytest.mark.parametrize("name", MODULATIONS)
def test_decay_changes_the_modulation_or_is_refused(name):
    if MODULATIONS[name].decays:
        assert make_modulation(name, FRAMES, decay=0.7) != make_modulation(name, FRAMES)
    else:
        with pytest.raises(ValueError, match=f"decay must be None for '{name}'"):
            make_modulation(name, FRAMES, decay=0.7)


@pytest.mark.parametrize("name", MODULATIONS)
def test_selects_frames_says_whether_frames_are_excluded(name):
    bias = make_modulation(name, FRAMES).bias_table
    excluded = torch.zeros(2, FRAMES, FRAMES, dtype=torch.bool) if bias is None else bias == -math.inf
    by_region_alone = bool((excluded == excluded[:, :1, :1]).all())
    assert MODULATIONS[name].selects_frames is not by_region_alone


def test_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match="modulation must be one of fame, .*, sparse-causal, got 'hard'"):
        make_modulation("hard", FRAMES)


@pytest.mark.parametrize(
    ("limits", "value", "message"),
    [
        (COUNT, 0, "--x must be at least 1, got 0"),
        (STEPS, 1001, "--x must lie in 1 to 1000, got 1001"),
        (FRACTION, -0.1, "--x must lie in 0 to 1, got -0.1"),
        (FRACTION, math.nan, "--x must lie in 0 to 1, got nan"),
        (NOT_NEGATIVE, math.inf, "--x must be at least 0 and finite, got inf"),
    ],
)
def test_values_out_of_range_are_refused(limits, value, message):
    with pytest.raises(ValueError, match=message):
        limits.check("--x", value)


def test_both_ends_of_a_range_belong_to_it():
    assert all(value in STEPS for value in (1, 1000)) and all(value in FRACTION for value in (0, 0.0, 1, 1.0))


@pytest.mark.parametrize("size", [(0, 64), (64, 60), (-8, 8)])
def test_sizes_that_the_vae_does_not_take_are_refused(size):
    with pytest.raises(ValueError, match=f"--size must be positive multiples of 8, got {size[1]}x{size[0]}"):
        check_size("--size", size)

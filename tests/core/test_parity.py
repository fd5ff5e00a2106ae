"""The parity rule: how errors are taken, and which pass."""

from __future__ import annotations

import math

import pytest
import torch

from fame_accel.core.parity import SLACK, Verdict, error


def test_error_is_taken_in_float64() -> None:
    exact = torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64)
    assert error(exact.half() + torch.tensor([0.0, 0.5, 0.25]).half(), exact) == (0.5, 0.25)
    assert error(exact + 1e-12, exact)[0] == pytest.approx(1e-12, rel=1e-3)


def test_error_of_infinities_empty_tensors_and_nan() -> None:
    infinite = torch.tensor([-torch.inf, 1.0])
    assert error(infinite, infinite.double()) == (0.0, 0.0)
    assert error(infinite, torch.tensor([0.0, 1.0]))[0] == torch.inf
    assert error(torch.empty(0, 3), torch.empty(0, 3)) == (0.0, 0.0)
    assert all(map(math.isnan, error(torch.tensor([torch.nan, 1.0]), torch.ones(2))))
    with pytest.raises(ValueError, match=r"shape of exact, \[1, 2\], got \[2\]"):
        error(torch.ones(2), torch.ones(1, 2))


@pytest.mark.parametrize(
    ("verdict", "ratio", "passed"),
    [
        (Verdict((2e-3 + 1e-5, 0.0), (1e-3, 1e-4)), 1.0, True),
        (Verdict((2.1e-3, 0.0), (1e-3, 1e-4)), 2.1e-3 / 2.01e-3, False),
        (Verdict((0.0, 4e-4), (1e-3, 1e-4)), 4e-4 / 2.1e-4, False),
        (Verdict((0.0, 4e-4), (1e-3, 1e-4), 10 * SLACK), 4e-4 / 3e-4, False),
        (Verdict((0.0, 4e-4), (1e-3, 1e-4), 30 * SLACK), 4e-4 / 5e-4, True),
        (Verdict((0.0, math.nan), (1e-3, 1e-4)), math.nan, False),
        (Verdict((math.inf, 0.0), (1e-3, 1e-4)), math.inf, False),
        (Verdict((0.0, 0.0), (math.inf, math.inf)), 0.0, False),
    ],
    ids=["just right", "max", "mean", "less slack", "more slack", "NaN", "infinite", "eager infinite"],
)
def test_rule(verdict: Verdict, ratio: float, passed: bool) -> None:
    assert verdict.ratio == pytest.approx(ratio, nan_ok=True) and verdict.passed is passed

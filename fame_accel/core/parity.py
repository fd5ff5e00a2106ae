"""The parity rule, by which a result is right: its error is at most twice that of the eager formula, plus 1e-5.

Both errors are taken against the reference in float64 on the same inputs. The eager formula runs in the dtype of the
result. The rule holds for the largest and for the mean error, and everything must be finite.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from torch import Tensor

FACTOR = 2  # of the eager formula's own error
SLACK = 1e-5  # allowed on top, where the eager formula happens to be exact

Errors = tuple[float, float]


def error(result: Tensor, exact: Tensor) -> Errors:
    """Compare a result with the exact one.

    Args:
        result: any shape and dtype.
        exact: the same shape.

    Returns:
        The largest and the mean absolute difference, taken in float64. Equal infinities differ by 0, and so do empty
        tensors; NaN anywhere gives NaN.

    Raises:
        ValueError: the shapes differ.
    """
    if result.shape != exact.shape:
        raise ValueError(f"result must have the shape of exact, {list(exact.shape)}, got {list(result.shape)}")
    if result.numel() == 0:
        return 0.0, 0.0
    result, exact = result.double(), exact.double()
    difference = (result - exact).abs().masked_fill(result == exact, 0)
    return difference.max().item(), difference.mean().item()


class Verdict(NamedTuple):
    """Whether a result is right.

    Attributes:
        errors: largest and mean error of the result.
        eager: largest and mean error of the eager formula in the same dtype.
        slack: what is allowed on top of twice the eager formula's error.
    """

    errors: Errors
    eager: Errors
    slack: float = SLACK

    @property
    def allowed(self) -> Errors:
        """The largest and the mean error that pass."""
        most, mean = (FACTOR * eager + self.slack for eager in self.eager)
        return most, mean

    @property
    def ratio(self) -> float:
        """The larger of the two errors as a share of what is allowed; NaN or infinite where an error is."""
        shares = [error / allowed for error, allowed in zip(self.errors, self.allowed, strict=True)]
        return math.nan if any(map(math.isnan, shares)) else max(shares)

    @property
    def passed(self) -> bool:
        """Whether both errors are allowed and everything is finite."""
        finite = all(map(math.isfinite, (*self.errors, *self.eager)))
        return finite and all(error <= allowed for error, allowed in zip(self.errors, self.allowed, strict=True))

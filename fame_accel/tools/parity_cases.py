"""Calls of `layout_attention` on made-up regions, and the rule by which a backend's result on one is right."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from fame_accel.core import reference
from fame_accel.core.attention import layout_attention
from fame_accel.core.layout import SpaceTimeLayout, TokenLayout
from fame_accel.core.modulation import Modulation


class Size(NamedTuple):
    """frames of side x side tokens."""

    frames: int
    side: int
    batch: int
    heads: int


class Verdict(NamedTuple):
    """(max, mean) errors against the reference in float64: of a backend, and of eager in the same dtype."""

    errors: tuple[float, float]
    eager: tuple[float, float]

    @property
    def allowed(self) -> tuple[float, float]:
        return tuple(2 * bound + 1e-5 for bound in self.eager)

    @property
    def ratio(self) -> float:
        """The larger of the two errors, each as a share of what is allowed; NaN or infinite where a result was."""
        shares = [error / allowed for error, allowed in zip(self.errors, self.allowed, strict=True)]
        return math.nan if any(map(math.isnan, shares)) else max(shares)

    @property
    def passed(self) -> bool:
        """err <= 2 * err(eager) + 1e-5 in max and in mean, and everything finite."""
        finite = all(map(math.isfinite, (*self.errors, *self.eager)))
        return finite and all(error <= allowed for error, allowed in zip(self.errors, self.allowed, strict=True))


@dataclass(frozen=True)
class Case:
    """A call of `layout_attention`."""

    name: str
    arguments: dict[str, object]

    def run(self, backend: str = "triton") -> Tensor:
        return layout_attention(**self.arguments, backend=backend)

    def judge(self, backend: str) -> Verdict:
        exact, eager = self._bounds
        return Verdict(error(self.run(backend), exact), eager)

    def mistake(self) -> str | None:
        """What is wrong with the kernels' result; None where it passes."""
        verdict = self.judge("triton")
        if verdict.passed:
            return None
        return "wrong result on {}: error max {:.1e} mean {:.1e}, eager {:.1e} {:.1e}".format(
            self.name, *verdict.errors, *verdict.eager
        )

    @cached_property
    def _bounds(self) -> tuple[Tensor, tuple[float, float]]:
        """The exact result, and the errors of eager."""
        doubles = {name: self.arguments[name].double() for name in ("query", "key", "value")}
        exact = reference.layout_attention(**self.arguments | doubles)
        return exact, error(reference.layout_attention(**self.arguments), exact)


@dataclass(frozen=True)
class CaseMaker:
    """Makes cases of one size, head_dim and dtype."""

    size: Size
    head_dim: int
    dtype: torch.dtype
    layout: TokenLayout
    generator: torch.Generator

    @classmethod
    def of_regions(cls, size: Size, head_dim: int, dtype: torch.dtype, device: torch.device) -> CaseMaker:
        """Over the tokens of `three_regions`, with a generator of seed 0."""
        layout = three_regions(size.frames, size.side).tokens(size.side, size.side, device)
        return cls(size, head_dim, dtype, layout, torch.Generator(device).manual_seed(0))

    def words(self, count: int) -> TokenLayout:
        return text_layout(count, self.layout.device)

    def case(
        self, name: str, modulation: Modulation | None, keys: TokenLayout | None = None, weighted: bool = False
    ) -> Case:
        key_layout = self.layout if keys is None else keys
        lengths = (self.layout.num_tokens, key_layout.num_tokens, key_layout.num_tokens)
        query, key, value = (self._random(length) for length in lengths)
        weight = torch.rand(lengths[1], generator=self.generator, device=self.layout.device) if weighted else None
        strength = None if modulation is None else 0.3 * self.layout.size_regularization()
        return Case(name, dict(
            query=query, key=key, value=value, query_layout=self.layout, key_layout=key_layout,
            modulation=modulation, row_strength=strength, key_weight=weight,
        ))  # fmt: skip

    def _random(self, tokens: int) -> Tensor:
        """[B, H, N, D] as a projection leaves it."""
        shape = (self.size.batch, tokens, self.size.heads, self.head_dim)
        where = dict(device=self.layout.device, dtype=self.dtype)
        return torch.randn(shape, generator=self.generator, **where).transpose(1, 2)


def three_regions(frames: int, height: int, width: int | None = None) -> SpaceTimeLayout:
    """Two boxes that drift to the right over the frames, and the rest; width: as the height, if None."""
    width = height if width is None else width
    row, column = torch.arange(height)[:, None], torch.arange(width)[None, :]
    column = column - torch.arange(frames)[:, None, None] * width // (6 * frames)
    high = (row >= height // 6) & (row < 5 * height // 6)
    left = high & (column >= width // 12) & (column < 5 * width // 12)
    right = (row >= height // 4) & (column >= width // 2) & (column < 5 * width // 6)
    return SpaceTimeLayout.from_masks(torch.stack([left, right, ~(left | right)]))


def text_layout(tokens: int, device: torch.device) -> TokenLayout:
    """A prompt with one word in the first region and two in the second."""
    region = torch.zeros(tokens, dtype=torch.int32, device=device)
    region[3], region[5:7] = 1, 2
    return TokenLayout(region, torch.zeros_like(region), 1)


def error(got: Tensor, exact: Tensor) -> tuple[float, float]:
    """(max, mean) of |got - exact|."""
    difference = (got.double() - exact).abs()
    return difference.max().item(), difference.mean().item()

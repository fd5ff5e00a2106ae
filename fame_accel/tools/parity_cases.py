"""Calls of `layout_attention` on made-up regions: what doctor, tune and the benchmarks judge backends by."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fame_accel.core import reference
from fame_accel.core.attention import layout_attention
from fame_accel.core.layout import SpaceTimeLayout, TokenLayout
from fame_accel.core.modulation import Modulation
from fame_accel.core.parity import Errors, Verdict, error
from fame_accel.core.presets import SELF_FACTOR


class Size(NamedTuple):
    """The size of a call: `frames` frames of side x side tokens, for `batch` items of `heads` heads."""

    frames: int
    side: int
    batch: int
    heads: int


@dataclass(frozen=True)
class ParityCase:
    """A call of `layout_attention`, and its exact result to judge backends by.

    Attributes:
        name: says in reports what is called.
        arguments: keyword arguments of `layout_attention` but for the backend.
    """

    name: str
    arguments: dict[str, Any]

    def run(self, backend: str = "triton") -> Tensor:
        """The result [B, H, N, D] of one backend."""
        return layout_attention(**self.arguments, backend=backend)

    def judge(self, backend: str) -> Verdict:
        """Run a backend and hold its result against the reference in float64."""
        exact, eager = self._bounds
        return Verdict(error(self.run(backend), exact), eager)

    def mistake(self) -> str | None:
        """What is wrong with the result of the Triton kernels; None where it is right."""
        verdict = self.judge("triton")
        if verdict.passed:
            return None
        return "wrong result on {}: error max {:.1e} mean {:.1e}, eager {:.1e} {:.1e}".format(
            self.name, *verdict.errors, *verdict.eager
        )

    @cached_property
    def _bounds(self) -> tuple[Tensor, Errors]:
        """The result in float64, and the errors of the eager formula in the dtype of the query."""
        doubles = {name: self.arguments[name].double() for name in ("query", "key", "value")}
        exact = reference.layout_attention(**self.arguments | doubles)
        return exact, error(reference.layout_attention(**self.arguments), exact)


@dataclass(frozen=True)
class ParityCaseMaker:
    """Makes cases of one size, head dimension and dtype, with random tensors."""

    size: Size
    head_dim: int
    dtype: torch.dtype
    layout: TokenLayout
    generator: torch.Generator

    @classmethod
    def of_regions(cls, size: Size, head_dim: int, dtype: torch.dtype, device: torch.device) -> ParityCaseMaker:
        """A maker over the tokens of `three_regions`, whose generator starts from seed 0."""
        layout = three_regions(size.frames, size.side).tokens(size.side, size.side, device)
        return cls(size, head_dim, dtype, layout, torch.Generator(device).manual_seed(0))

    def words(self, count: int) -> TokenLayout:
        """The layout of a prompt of `count` words, on the maker's device."""
        return text_layout(count, self.layout.device)

    def case(
        self, name: str, modulation: Modulation | None, keys: TokenLayout | None = None, weighted: bool = False
    ) -> ParityCase:
        """Make a case.

        Args:
            name: for reports.
            modulation: None is plain attention.
            keys: the layout of the keys; None is that of the queries.
            weighted: whether keys have random weights.
        """
        key_layout = self.layout if keys is None else keys
        lengths = (self.layout.num_tokens, key_layout.num_tokens, key_layout.num_tokens)
        query, key, value = (self._random(length) for length in lengths)
        weight = torch.rand(lengths[1], generator=self.generator, device=self.layout.device) if weighted else None
        strength = None if modulation is None else SELF_FACTOR * self.layout.size_regularization()
        return ParityCase(name, dict(
            query=query, key=key, value=value, query_layout=self.layout, key_layout=key_layout,
            modulation=modulation, row_strength=strength, key_weight=weight,
        ))  # fmt: skip

    def _random(self, tokens: int) -> Tensor:
        """[B, H, N, D] as a projection leaves it."""
        shape = (self.size.batch, tokens, self.size.heads, self.head_dim)
        return torch.randn(
            shape, generator=self.generator, device=self.layout.device, dtype=self.dtype
        ).transpose(1, 2)  # fmt: skip


def three_regions(frames: int, height: int, width: int | None = None) -> SpaceTimeLayout:
    """Regions of a made-up clip: two boxes that drift to the right over the frames, and everything else.

    Args:
        frames: their number.
        height: tokens of a frame from top to bottom.
        width: tokens of a frame from left to right; None is the height.
    """
    width = height if width is None else width
    row, column = torch.arange(height)[:, None], torch.arange(width)[None, :]
    column = column - torch.arange(frames)[:, None, None] * width // (6 * frames)
    high = (row >= height // 6) & (row < 5 * height // 6)
    left = high & (column >= width // 12) & (column < 5 * width // 12)
    right = (row >= height // 4) & (column >= width // 2) & (column < 5 * width // 6)
    return SpaceTimeLayout.from_masks(torch.stack([left, right, ~(left | right)]))


def text_layout(tokens: int, device: torch.device) -> TokenLayout:
    """The layout of a prompt of at least 7 tokens: one word belongs to the first region and two to the second."""
    region = torch.zeros(tokens, dtype=torch.int32, device=device)
    region[3], region[5:7] = 1, 2
    return TokenLayout(region, torch.zeros_like(region), 1)

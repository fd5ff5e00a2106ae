"""What `fame_accel.tune` runs a kernel on: small cases that are judged, and realistic ones that are timed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from fame_accel import reference
from fame_accel.attention import layout_attention
from fame_accel.layout import SpaceTimeLayout, TokenLayout
from fame_accel.modulation import Modulation

KERNELS = ("tiled", "few_keys", "streamed_keys")
# Text keys of the other two: those timed, and others that they must be right on.
_KEYS = {"few_keys": 77, "streamed_keys": 512}
_OTHER_KEYS = {"few_keys": 96, "streamed_keys": 130}


class Size(NamedTuple):
    """frames of side x side tokens."""

    frames: int
    side: int
    batch: int
    heads: int


TIMED = Size(8, 32, 2, 8)
JUDGED = Size(4, 24, 2, 2)  # regions of several tiles, full and short
TOY, TOY_KEYS = Size(2, 6, 1, 1), 130  # at most, for the interpreter


@dataclass(frozen=True)
class Case:
    """A call of `layout_attention`."""

    name: str
    arguments: dict[str, object]

    def run(self) -> Tensor:
        return layout_attention(**self.arguments, backend="triton")

    def mistake(self) -> str | None:
        """What is wrong with the result; None where err <= 2 * err(eager in the same dtype) + 1e-5 against the
        reference in float64, in max and in mean."""
        exact, bounds = self._judge
        errors = _error(self.run(), exact)
        if all(mine <= 2 * bound + 1e-5 for mine, bound in zip(errors, bounds, strict=True)):
            return None
        return "wrong result on {}: error max {:.1e} mean {:.1e}, eager {:.1e} {:.1e}".format(
            self.name, *errors, *bounds
        )

    @cached_property
    def _judge(self) -> tuple[Tensor, tuple[float, float]]:
        """The exact result, and the errors of eager."""
        doubles = {name: self.arguments[name].double() for name in ("query", "key", "value")}
        exact = reference.layout_attention(**self.arguments | doubles)
        return exact, _error(reference.layout_attention(**self.arguments), exact)


def timed_cases(kernel: str, head_dim: int, dtype: torch.dtype, device: torch.device, size: Size = TIMED) -> list[Case]:
    """The calls that an edit spends its time in. Of size JUDGED they are small enough for the reference."""
    make = _maker(size, head_dim, dtype, device)
    return make.video() if kernel == "tiled" else make.text(_KEYS[kernel])


def other_cases(kernel: str, head_dim: int, dtype: torch.dtype, device: torch.device) -> list[Case]:
    """Calls that reach the other kernels of the entry, which it must fit as well."""
    make = _maker(JUDGED, head_dim, dtype, device)
    if kernel != "tiled":
        return make.text(_OTHER_KEYS[kernel])
    modulation = Modulation.fame(make.size.frames, decay_on="strength")
    return [
        make.case("fame, decay on the strength", modulation),
        make.case("fame, keys weighted", modulation, weighted=True),
    ]


def _maker(size: Size, head_dim: int, dtype: torch.dtype, device: torch.device) -> _Maker:
    size = size if device.type == "cuda" else TOY
    layout = three_regions(size.frames, size.side).tokens(size.side, size.side, device)
    return _Maker(size, head_dim, dtype, layout, torch.Generator(device).manual_seed(0))


@dataclass(frozen=True)
class _Maker:
    """Cases of one size, head_dim and dtype."""

    size: Size
    head_dim: int
    dtype: torch.dtype
    layout: TokenLayout
    generator: torch.Generator

    def video(self) -> list[Case]:
        """FAME's default modulation, and the hard mask with time decay."""
        frames = self.size.frames
        return [
            self.case("fame", Modulation.fame(frames)),
            self.case("region mask", Modulation.region_mask(frames, decay=0.1)),
        ]

    def text(self, keys: int) -> list[Case]:
        """Cross-attention, plain and modulated."""
        keys = keys if self.layout.device.type == "cuda" else min(keys, TOY_KEYS)
        region = torch.zeros(keys, dtype=torch.int32, device=self.layout.device)
        region[3], region[5:7] = 1, 2
        words = TokenLayout(region, torch.zeros_like(region), 1)
        pulled = Modulation.videograin(self.size.frames, 1)
        return [
            self.case(f"{keys} text keys", None, words),
            self.case(f"{keys} text keys, modulated", pulled, words, weighted=True),
        ]

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


def three_regions(frames: int, side: int) -> SpaceTimeLayout:
    """Two boxes that drift to the right over the frames, and the rest."""
    row, column = torch.arange(side)[:, None], torch.arange(side)[None, :]
    column = column - torch.arange(frames)[:, None, None] * side // (6 * frames)
    high = (row >= side // 6) & (row < 5 * side // 6)
    left = high & (column >= side // 12) & (column < 5 * side // 12)
    right = (row >= side // 4) & (column >= side // 2) & (column < 5 * side // 6)
    return SpaceTimeLayout.from_masks(torch.stack([left, right, ~(left | right)]))


def _error(got: Tensor, exact: Tensor) -> tuple[float, float]:
    difference = (got.double() - exact).abs()
    return difference.max().item(), difference.mean().item()

"""Layouts: which region bits and which frame each token has.

A region is one bit of an int32 bitset, so at most 31 of them; regions may overlap and tokens may lie in none.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor

from fame_accel.core.named import Named

MAX_REGIONS = 31
_CACHED_PLANS = 32


class TokenLayout(Named):
    """Region bitset and frame index of every token on one side of an attention.

    region: integer tensor [N] or [B, N], a bitset below 2**31 per token, 0 = in no region. frame: integer tensor of
    the same shape, in [0, num_frames). Immutable: plans are cached on it. Attributes `region` and `frame` are int32
    [P, N] with P = B, or 1 where one layout serves every batch item (`batch` is then None).
    """

    def __init__(self, region: Tensor, frame: Tensor, num_frames: int) -> None:
        for name, value in (("region", region), ("frame", frame)):
            if not isinstance(value, Tensor) or value.dtype not in (
                torch.int32,
                torch.int64,
                torch.int16,
                torch.uint8,
            ):
                kind = value.dtype if isinstance(value, Tensor) else type(value).__name__
                raise TypeError(f"{name} must be an integer tensor [N] or [B, N], got {kind}")
        if region.dim() not in (1, 2):
            raise ValueError(f"region must have shape [N] or [B, N], got {tuple(region.shape)}")
        if frame.shape != region.shape:
            raise ValueError(f"frame must have the shape of region, {tuple(region.shape)}, got {tuple(frame.shape)}")
        if frame.device != region.device:
            raise ValueError(f"frame must be on the device of region, {region.device}, got {frame.device}")
        if not isinstance(num_frames, int) or isinstance(num_frames, bool) or num_frames < 1:
            raise ValueError(f"num_frames must be an int >= 1, got {num_frames!r}")
        _check_range("region", region, 2**MAX_REGIONS, f"at most {MAX_REGIONS} regions, bits 0 to {MAX_REGIONS - 1}")
        _check_range("frame", frame, num_frames, f"num_frames is {num_frames}")
        self.batch = region.shape[0] if region.dim() == 2 else None
        self.num_frames = num_frames
        self.num_tokens = region.shape[-1]
        self.region = torch.atleast_2d(region).to(torch.int32, copy=True).contiguous()
        self.frame = torch.atleast_2d(frame).to(torch.int32, copy=True).contiguous()
        self.plans: OrderedDict[object, object] = OrderedDict()
        self.take_name()

    @property
    def device(self) -> torch.device:
        return self.region.device

    def to(self, device: torch.device | str) -> TokenLayout:
        """This layout on another device (itself where it is there already)."""
        if torch.empty(0, device=device).device == self.device:  # "cuda" is the current one
            return self
        shape = (-1,) if self.batch is None else (self.batch, -1)
        return TokenLayout(self.region.to(device).view(shape), self.frame.to(device).view(shape), self.num_frames)

    def size_regularization(self, key_layout: TokenLayout | None = None) -> Tensor:
        """1 - the fraction of keys that share a region with each token: float32 [N] or [B, N], in [0, 1].

        The size term of DenseDiffusion and VideoGrain: large regions are modulated less. Counted over distinct
        bitsets, not over pairs of tokens.
        """
        key_layout = self if key_layout is None else key_layout
        sides = max(self.region.shape[0], key_layout.region.shape[0])
        rows = []
        for item in range(sides):
            query = self.region[item % self.region.shape[0]]
            key = key_layout.region[item % key_layout.region.shape[0]]
            distinct, inverse = query.unique(return_inverse=True)
            bitset, count = key.unique(return_counts=True)
            shared = ((distinct[:, None] & bitset[None, :]) != 0) * count
            rows.append((1 - shared.sum(1) / max(key.numel(), 1))[inverse])
        return rows[0] if self.batch is None and key_layout.batch is None else torch.stack(rows)

    def cached(self, key: object, build) -> object:
        """The value kept under `key`, built on first use; the least recently used of many is dropped."""
        if key in self.plans:
            self.plans.move_to_end(key)
        else:
            self.plans[key] = build()
            if len(self.plans) > _CACHED_PLANS:
                self.plans.popitem(last=False)
        return self.plans[key]

    def __repr__(self) -> str:
        batch = "" if self.batch is None else f"batch={self.batch}, "
        return f"TokenLayout({batch}tokens={self.num_tokens}, frames={self.num_frames}, device={self.device})"


class SpaceTimeLayout:
    """Regions of a video at full resolution, from which the token layout of any layer is sampled.

    Build it with `from_masks`. `num_frames`, `num_regions`, `height` and `width` describe the masks.
    """

    def __init__(self, bits: Tensor, num_regions: int) -> None:
        self._bits = bits
        self.num_regions = num_regions
        self.num_frames, self.height, self.width = bits.shape
        self._tokens: dict[tuple[int, int, torch.device], TokenLayout] = {}

    @classmethod
    def from_masks(cls, masks: Tensor) -> SpaceTimeLayout:
        """masks: bool [regions, frames, height, width]; bit r of a token is mask r. Overlaps and pixels in no
        region are allowed. TypeError for another dtype, ValueError for more than 31 regions or an empty axis."""
        if not isinstance(masks, Tensor) or masks.dtype != torch.bool:
            kind = masks.dtype if isinstance(masks, Tensor) else type(masks).__name__
            raise TypeError(f"masks must be a bool tensor [regions, frames, height, width], got {kind}")
        if masks.dim() != 4 or 0 in masks.shape[1:]:
            raise ValueError(
                "masks must have shape [regions, frames, height, width] with no empty frame axis, "
                f"got {tuple(masks.shape)}"
            )
        if masks.shape[0] > MAX_REGIONS:
            raise ValueError(f"masks holds {masks.shape[0]} regions, at most {MAX_REGIONS} are possible")
        bits = torch.zeros(masks.shape[1:], dtype=torch.int32, device=masks.device)
        for region, mask in enumerate(masks):
            bits |= mask.to(torch.int32) << region
        return cls(bits, masks.shape[0])

    def tokens(self, height: int, width: int, device: torch.device | str | None = None) -> TokenLayout:
        """Token layout of a [frames, height, width] feature map: frame-major, row-major, cached.

        Bits are resampled as `interpolate(mode="nearest")` does. device: default that of the masks.
        """
        for name, value in (("height", height), ("width", width)):
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} must be an int >= 1, got {value!r}")
        device = self._bits.device if device is None else torch.device(device)
        key = (height, width, device)
        if key not in self._tokens:
            rows, columns = _nearest(self.height, height), _nearest(self.width, width)
            bits = self._bits.to(device)[:, rows.to(device)][:, :, columns.to(device)]
            frame = torch.arange(self.num_frames, device=device).repeat_interleave(height * width)
            self._tokens[key] = TokenLayout(bits.flatten(), frame, self.num_frames)
        return self._tokens[key]


def _nearest(size: int, target: int) -> Tensor:
    """Index of the source sample that interpolate(mode="nearest") takes for each of `target` outputs."""
    index = torch.arange(size, dtype=torch.float32)[None, None]
    return torch.nn.functional.interpolate(index, size=target, mode="nearest")[0, 0].long()


def _check_range(name: str, values: Tensor, stop: int, why: str) -> None:
    if values.numel():
        low, high = (int(v) for v in values.aminmax())
        if low < 0 or high >= stop:
            raise ValueError(f"{name} must lie in [0, {stop}) ({why}), got values in [{low}, {high}]")

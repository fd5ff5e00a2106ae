"""Layouts: which regions and which frame each token belongs to.

A region is one bit of an int32 bitset, so there are at most 31. Regions may overlap, and tokens may lie in none.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from fame_accel.core.cache import WeakCache
from fame_accel.core.checks import check_count, check_dense, check_device, check_flag, shown
from fame_accel.core.limits import MAX_REGIONS
from fame_accel.core.tracing import has_values

_INTEGERS = (torch.int32, torch.int64, torch.int16, torch.uint8)


class TokenLayout:
    """Region bitset and frame index of every token on one side of an attention.

    A layout is immutable: the plans of calls that use it are cached on it. Layouts are equal where their contents are.

    Args:
        region: integer tensor [N] or [B, N], a bitset below 2**31 per token; 0 means in no region.
        frame: integer tensor of the same shape and device, in [0, num_frames).
        num_frames: number of frames, at least 1.

    Attributes:
        region, frame: int32 [P, N], where P is B, or 1 where one layout serves every batch item.
        batch: B, or None where one layout serves every batch item.
        num_frames, num_tokens: as the names say.

    Raises:
        TypeError: `region` or `frame` is not an integer tensor.
        ValueError: shapes, devices or values do not fit.
    """

    def __init__(self, region: Tensor, frame: Tensor, num_frames: int) -> None:
        for name, value in (("region", region), ("frame", frame)):
            if not isinstance(value, Tensor) or value.dtype not in _INTEGERS:
                kind = value.dtype if isinstance(value, Tensor) else type(value).__name__
                raise TypeError(f"{name} must be an integer tensor [N] or [B, N], got {kind}")
            check_dense(name, value)
        if region.dim() not in (1, 2):
            raise ValueError(f"region must have shape [N] or [B, N], got {tuple(region.shape)}")
        if frame.shape != region.shape:
            raise ValueError(f"frame must have the shape of region, {tuple(region.shape)}, got {tuple(frame.shape)}")
        if frame.device != region.device:
            raise ValueError(f"frame must be on the device of region, {region.device}, got {frame.device}")
        check_count("num_frames", num_frames)
        _check_range("region", region, 2**MAX_REGIONS, f"at most {MAX_REGIONS} regions, bits 0 to {MAX_REGIONS - 1}")
        _check_range("frame", frame, num_frames, f"num_frames is {num_frames}")
        self.batch = region.shape[0] if region.dim() == 2 else None
        self.num_frames = num_frames
        self.num_tokens = region.shape[-1]
        with torch.inference_mode(False):  # a layout made there is used elsewhere too
            self.region = torch.atleast_2d(region).to(torch.int32, copy=True).contiguous()
            self.frame = torch.atleast_2d(frame).to(torch.int32, copy=True).contiguous()
        self.plans: WeakCache[Any] = WeakCache()  # AttentionPlan and Tables, by key layout and what else decides them

    @classmethod
    def cat(cls, layouts: Sequence[TokenLayout]) -> TokenLayout:
        """The layout of joined sequences, such as a video's tokens and its text's; see `Modulation.block`.

        The frames of each layout are counted on from those of the ones before it. Regions keep their bits.

        Args:
            layouts: at least one, on one device; those with a batch must have the same.

        Raises:
            TypeError, ValueError: layouts is empty or does not fit together.
        """
        if not isinstance(layouts, Iterable):
            raise TypeError(f"layouts must be a sequence of TokenLayout, got {shown(layouts)}")
        layouts = list(layouts)
        if not layouts or not all(isinstance(layout, TokenLayout) for layout in layouts):
            raise TypeError("layouts must hold at least one TokenLayout and nothing else")
        for name, kinds in (
            ("device", {str(layout.device) for layout in layouts}),
            ("batch", {str(layout.batch) for layout in layouts if layout.batch is not None}),
        ):
            if len(kinds) > 1:
                raise ValueError(f"layouts must have one {name}, got {', '.join(sorted(kinds))}")
        items = max(len(layout.region) for layout in layouts)
        regions, frames, num_frames = [], [], 0
        for layout in layouts:
            regions.append(layout.region.expand(items, -1))
            frames.append(layout.frame.expand(items, -1) + num_frames)
            num_frames += layout.num_frames
        region, frame = torch.cat(regions, 1), torch.cat(frames, 1)
        if all(layout.batch is None for layout in layouts):
            region, frame = region[0], frame[0]
        return cls(region, frame, num_frames)

    @property
    def device(self) -> torch.device:
        """The device of `region` and `frame`."""
        return self.region.device

    def to(self, device: torch.device | str) -> TokenLayout:
        """This layout on another device; itself where it is there already."""
        device = check_device("device", device)
        if torch.empty(0, device=device).device == self.device:  # "cuda" means the current one
            return self
        region, frame = (side.to(device).view(self._shape) for side in (self.region, self.frame))
        return TokenLayout(region, frame, self.num_frames)

    def size_regularization(self, key_layout: TokenLayout | None = None) -> Tensor:
        """1 - the fraction of keys that share a region with each token, as in DenseDiffusion and VideoGrain.

        Tokens of large regions are thereby modulated less.

        Args:
            key_layout: layout of the keys; default this one.

        Returns:
            float32 [N], or [B, N] where either layout has a batch, in [0, 1].

        Raises:
            TypeError: `key_layout` is not a TokenLayout.
            ValueError: `key_layout` has another batch, or is on another device.
        """
        key_layout = self if key_layout is None else key_layout
        if not isinstance(key_layout, TokenLayout):
            raise TypeError(f"key_layout must be a fame_accel.TokenLayout or None, got {type(key_layout).__name__}")
        if None not in (self.batch, key_layout.batch) and self.batch != key_layout.batch:
            raise ValueError(f"key_layout must have the batch of this layout, {self.batch}, got {key_layout.batch}")
        if key_layout.device != self.device:
            raise ValueError(f"key_layout must be on the device of this layout, {self.device}, got {key_layout.device}")
        items = max(self.region.shape[0], key_layout.region.shape[0])
        rows = []
        for item in range(items):  # counted over distinct bitsets, not over pairs of tokens
            query = self.region[item % self.region.shape[0]]
            key = key_layout.region[item % key_layout.region.shape[0]]
            distinct, inverse = query.unique(return_inverse=True)
            bitset, count = key.unique(return_counts=True)
            shared = ((distinct[:, None] & bitset[None, :]) != 0) * count
            fraction = shared.sum(1).to(torch.float32) / max(key.numel(), 1)
            rows.append((1 - fraction)[inverse])
        return rows[0] if self.batch is None and key_layout.batch is None else torch.stack(rows)

    @property
    def _shape(self) -> tuple[int, ...]:
        return (self.num_tokens,) if self.batch is None else (self.batch, self.num_tokens)

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        return (
            isinstance(other, TokenLayout)
            and (self._shape, self.num_frames, self.device) == (other._shape, other.num_frames, other.device)
            and torch.equal(self.region, other.region)
            and torch.equal(self.frame, other.frame)
        )

    def __hash__(self) -> int:
        return hash((self._shape, self.num_frames, self.device))

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies and pickles carry no plans."""
        return TokenLayout, (self.region.view(self._shape), self.frame.view(self._shape), self.num_frames)

    def __repr__(self) -> str:
        batch = "" if self.batch is None else f"batch={self.batch}, "
        return f"TokenLayout({batch}tokens={self.num_tokens}, frames={self.num_frames}, device={self.device})"


class SpaceTimeLayout:
    """Regions of a video at full resolution, from which the token layout of any layer is sampled.

    Make one with `from_masks`. Attributes: num_frames, num_regions, height and width of the masks.
    """

    def __init__(self, bits: Tensor, num_regions: int) -> None:
        self._bits = bits
        self.num_regions = num_regions
        self.num_frames, self.height, self.width = bits.shape
        self._tokens: dict[tuple[int, int, torch.device], TokenLayout] = {}

    @classmethod
    def from_masks(cls, masks: Tensor, *, rest: bool = False, temporal: int = 1) -> SpaceTimeLayout:
        """The layout of a video from one mask per region and frame.

        Args:
            masks: bool [regions, frames, height, width]; mask r sets bit r. Masks may overlap or leave pixels out.
            rest: make the pixels that all masks leave out, if there are any, one more region, the last. Otherwise they
                are in no region, and same as nothing, themselves included: hard masks give them zeros.
            temporal: frames of the video per frame of the latents, for models whose VAE compresses time: 4 for Wan,
                HunyuanVideo and CogVideoX. As in causal video VAEs the first frame stands alone; a mask holds a pixel
                of a later group where it does in any of the group's frames. The layout has the latent frames.

        Raises:
            TypeError: `masks` is not a bool tensor, or `rest` is not a bool.
            ValueError: more than 31 regions, the rest among them, no frame, height or width, or frames that do not
                divide into groups.
        """
        if not isinstance(masks, Tensor) or masks.dtype != torch.bool:
            kind = masks.dtype if isinstance(masks, Tensor) else type(masks).__name__
            raise TypeError(f"masks must be a bool tensor [regions, frames, height, width], got {kind}")
        check_dense("masks", masks)
        if masks.dim() != 4 or 0 in masks.shape[1:]:
            raise ValueError(
                "masks must have shape [regions, frames, height, width] with no empty frame axis, "
                f"got {tuple(masks.shape)}"
            )
        if masks.shape[0] > MAX_REGIONS:
            raise ValueError(f"masks holds {masks.shape[0]} regions, at most {MAX_REGIONS} are possible")
        check_flag("rest", rest)
        if rest and masks.is_meta:
            raise ValueError("masks must have values where rest=True, got a tensor on the meta device")
        masks = _compress_time(masks, temporal)
        bits = torch.zeros(masks.shape[1:], dtype=torch.int32, device=masks.device)
        for region, mask in enumerate(masks):
            bits |= mask.to(torch.int32) << region
        left_out = bits == 0
        if not rest or not bool(left_out.any()):
            return cls(bits, masks.shape[0])
        if masks.shape[0] == MAX_REGIONS:
            raise ValueError(
                f"masks holds {MAX_REGIONS} regions, the most there are, and leaves pixels out for the rest: "
                "rest=False leaves these in no region"
            )
        return cls(bits + (left_out.to(torch.int32) << masks.shape[0]), masks.shape[0] + 1)

    def tokens(self, height: int, width: int, device: torch.device | str | None = None) -> TokenLayout:
        """The token layout of a feature map [frames, height, width], frame-major and row-major; cached.

        Args:
            height, width: size of the feature map; bits are resampled as `interpolate(mode="nearest")` does.
            device: of the layout; default that of the masks.
        """
        check_count("height", height)
        check_count("width", width)
        device = self._bits.device if device is None else check_device("device", device)
        key = (height, width, device)
        layout = self._tokens.get(key)
        if layout is None:
            rows, columns = _nearest(self.height, height), _nearest(self.width, width)
            bits = self._bits.to(device)[:, rows.to(device)][:, :, columns.to(device)]
            frame = torch.arange(self.num_frames, dtype=torch.int32, device=device).repeat_interleave(height * width)
            layout = self._tokens.setdefault(key, TokenLayout(bits.flatten(), frame, self.num_frames))
        return layout


def _compress_time(masks: Tensor, temporal: int) -> Tensor:
    """[R, T, H, W] -> [R, 1 + (T - 1) / temporal, H, W]: the first frame alone, then any of each group."""
    check_count("temporal", temporal)
    frames = masks.shape[1]
    if (frames - 1) % temporal:
        below = frames - (frames - 1) % temporal
        raise ValueError(
            f"masks has {frames} frames, but temporal={temporal} wants 1 + a multiple of {temporal}: "
            f"{below} or {below + temporal}"
        )
    if temporal == 1:
        return masks
    groups = masks[:, 1:].unflatten(1, ((frames - 1) // temporal, temporal)).any(2)
    return torch.cat([masks[:, :1], groups], 1)


def _nearest(size: int, target: int) -> Tensor:
    """Index of the source sample that interpolate(mode="nearest") takes for each of `target` outputs."""
    index = torch.arange(size, dtype=torch.float32, device="cpu")[None, None]
    return torch.nn.functional.interpolate(index, size=target, mode="nearest")[0, 0].long()


def _check_range(name: str, values: Tensor, stop: int, why: str) -> None:
    if values.numel() and has_values(values):
        low, high = (int(v) for v in values.aminmax())
        if low < 0 or high >= stop:
            raise ValueError(f"{name} must lie in [0, {stop}) ({why}), got values in [{low}, {high}]")

"""The self-attention layers of a UNet, from a family's name or from a checkpoint's unet/config.json."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

from fame_accel.core.limits import VAE_SCALE_FACTOR

DEEPEST = 8  # the lowest resolution that `edit` modulates, as a divisor of the latents'

_SD = dict(
    block_out_channels=[320, 640, 1280, 1280],
    down_block_types=["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    up_block_types=["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
    layers_per_block=2,
)
# From the unet/config.json of the published checkpoints. diffusers calls the number of heads attention_head_dim there.
FAMILIES: dict[str, dict[str, Any]] = {
    "sd15": _SD | dict(attention_head_dim=8),
    "sd21": _SD | dict(attention_head_dim=[5, 10, 20, 20]),
    "sdxl": dict(
        block_out_channels=[320, 640, 1280],
        down_block_types=["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        up_block_types=["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        layers_per_block=2,
        transformer_layers_per_block=[1, 2, 10],
        attention_head_dim=[5, 10, 20],
    ),
}
_ATTENDING = {"CrossAttnDownBlock2D": True, "DownBlock2D": False, "CrossAttnUpBlock2D": True, "UpBlock2D": False}
_MIDDLE = "UNetMidBlock2DCrossAttn"


@dataclass(frozen=True, order=True)
class AttentionLevel:
    """Self-attention layers of one shape, which are `divisor` times smaller than the latents in height and width."""

    divisor: int
    heads: int
    head_dim: int
    layers: int

    def side_lengths(self, size: tuple[int, int]) -> tuple[int, int]:
        """(height, width) in tokens for frames of (height, width) pixels: each halving rounds up."""
        height, width = (-(-side // (VAE_SCALE_FACTOR * self.divisor)) for side in size)
        return height, width


@dataclass(frozen=True, order=True)
class LevelOfTokens(AttentionLevel):
    """Layers of a model that is known by these alone; sides: (height, width) in tokens of frames of any size."""

    sides: tuple[int, int] = (1, 1)

    def side_lengths(self, size: tuple[int, int]) -> tuple[int, int]:
        """The tokens that were given."""
        return self.sides


def read_network(model: str | Path) -> tuple[AttentionLevel, ...]:
    """The levels of a UNet, the finest first.

    Args:
        model: sd15, sd21, sdxl, or a checkpoint folder in diffusers' layout.

    Raises:
        ValueError: there is no such folder, it has no readable config, or its UNet has layers that edits do not
            modulate.
    """
    if str(model) in FAMILIES:
        return attention_levels(FAMILIES[str(model)])
    folder = Path(model)
    if not folder.is_dir():
        raise ValueError(f"--model must be {', '.join(FAMILIES)} or a checkpoint folder, and there is no {model}")
    file = folder / "unet" / "config.json"
    if not file.is_file():
        raise ValueError(f"--model {model} must be a checkpoint folder in diffusers' layout: it has no {file}")
    try:
        return attention_levels(read_config(file))
    except ValueError as error:
        raise ValueError(f"--model: {file}: {error}") from error


def read_config(file: Path) -> dict[str, Any]:
    """The object in a config.json; ValueError where there is none."""
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise ValueError(f"must hold an object, got {type(config).__name__}")
    return config


def network_of_layers(
    tokens: Sequence[tuple[int, int]],
    heads: Sequence[int] | None,
    head_dim: Sequence[int] | None,
    layers: Sequence[int],
) -> tuple[AttentionLevel, ...]:
    """The levels of any model, from (height, width) in tokens of each; ValueError where the numbers do not fit."""
    if heads is None or head_dim is None:
        raise ValueError("--tokens needs --heads and --head-dim")
    if not all(min(sides) >= 1 for sides in tokens):
        raise ValueError(f"--tokens must be at least 1x1, got {', '.join(f'{h}x{w}' for h, w in tokens)}")
    count = len(tokens)
    for flag, numbers in (("--heads", heads), ("--head-dim", head_dim), ("--layers", layers)):
        if len(numbers) not in (1, count):
            raise ValueError(f"{flag} must be one number, or one for each of the {count} levels, got {len(numbers)}")
    shapes = zip(tokens, cycle(heads), cycle(head_dim), cycle(layers), strict=False)
    return tuple(LevelOfTokens(1, number, width, depth, sides) for sides, number, width, depth in shapes)


def attention_levels(config: Mapping[str, Any]) -> tuple[AttentionLevel, ...]:
    """The levels of a UNet2DConditionModel's configuration; ValueError where they are not those of an edit's UNet."""
    channels = config.get("block_out_channels")
    if not isinstance(channels, list) or not channels:
        raise ValueError(f"block_out_channels must be a list of channels, got {channels!r}")
    blocks = len(channels)
    if config.get("dual_cross_attention") or any(_per_block(config.get("only_cross_attention", False), blocks, "")):
        raise ValueError("only_cross_attention and dual_cross_attention are not supported")
    channels = _numbers(config, "block_out_channels", channels, blocks)
    heads = _numbers(config, "num_attention_heads", config.get("attention_head_dim", 8), blocks)
    layers = _numbers(config, "layers_per_block", 2, blocks)
    depth = _numbers(config, "transformer_layers_per_block", 1, blocks)
    upward = _numbers(config, "reverse_transformer_layers_per_block", depth[::-1], blocks)
    down, up = (_attending(config, name, blocks) for name in ("down_block_types", "up_block_types"))
    middle = config.get("mid_block_type", _MIDDLE)
    if middle not in (_MIDDLE, None):
        raise ValueError(f"mid_block_type must be {_MIDDLE} or null, got {middle!r}")
    if any(wide % number for wide, number in zip(channels, heads, strict=True)):
        raise ValueError(f"block_out_channels {channels} must be multiples of the heads {heads}")

    layer_counts: Counter[tuple[int, int, int]] = Counter()
    for block in range(blocks):
        shape = (2**block, heads[block], channels[block] // heads[block])
        mirror = blocks - 1 - block
        layer_counts[shape] += layers[block] * depth[block] * down[block]
        layer_counts[shape] += (layers[block] + 1) * upward[mirror] * up[mirror]
        layer_counts[shape] += depth[block] if block == blocks - 1 and middle else 0
    levels = tuple(sorted(AttentionLevel(*shape, count) for shape, count in layer_counts.items() if count))
    if not levels:
        raise ValueError("no block has attention")
    if levels[-1].divisor > DEEPEST:
        raise ValueError(f"has attention at 1/{levels[-1].divisor} of the latents: edits modulate down to 1/{DEEPEST}")
    if max(level.head_dim for level in levels) > 256:
        raise ValueError(f"has a head_dim of {max(level.head_dim for level in levels)}: the operation takes up to 256")
    return levels


def _attending(config: Mapping[str, Any], name: str, blocks: int) -> list[bool]:
    """Whether each block has attention."""
    types = _per_block(config.get(name), blocks, name)
    if unknown := [kind for kind in types if kind not in _ATTENDING]:
        raise ValueError(f"{name} holds {unknown[0]!r}; known are {', '.join(_ATTENDING)}")
    return [_ATTENDING[kind] for kind in types]


def _numbers(config: Mapping[str, Any], name: str, default: Any, blocks: int) -> list[int]:
    """A whole number of at least 1 for each block; null means the default."""
    given = config.get(name)
    numbers = _per_block(default if given is None else given, blocks, name)
    if not all(type(number) is int and number >= 1 for number in numbers):
        raise ValueError(f"{name} must be whole numbers of at least 1, got {numbers}")
    return numbers


def _per_block(value: Any, blocks: int, name: str) -> list[Any]:
    """A list with one entry for each block; one value serves all."""
    values = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value] * blocks
    if len(values) != blocks:
        raise ValueError(f"{name} must have one entry for each of the {blocks} blocks, got {values}")
    return values

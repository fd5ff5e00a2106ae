"""What `fame-accel bench` measures where: the flags of a run, filled in."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from fame_accel.bench import MODULATIONS
from fame_accel.bench.workload import (
    FAME,
    FAME_STRENGTH,
    REGION_MASK,
    VIDEOGRAIN,
    AttentionOperation,
    LayerShape,
    cross_attention,
)
from fame_accel.core.backend import default_device, resolve_backend
from fame_accel.core.limits import MAX_REGIONS, width_x_height
from fame_accel.tools.planner.network import read_network

TEXT_TOKENS = 77
_OPERATIONS = dict(zip(MODULATIONS, (FAME, FAME_STRENGTH, VIDEOGRAIN, REGION_MASK), strict=True))
# frames, size and dtype where they are not given
_DEFAULTS = {"cpu": (8, (256, 256), "float32"), "cuda": (16, (512, 512), "float16")}


@dataclass(frozen=True)
class Setting:
    """What is measured where.

    Attributes:
        heading: says so in a line.
        levels: self-attention of each level of the model, the finest first, and its number of layers.
        operation: of self-attention.
        device: where the calls run.
        dtype: of their tensors.
    """

    heading: str
    levels: dict[LayerShape, int]
    operation: AttentionOperation
    device: torch.device
    dtype: torch.dtype

    @property
    def text_cases(self) -> list[tuple[LayerShape, AttentionOperation]]:
        """Cross-attention of the same layers."""
        texts = [replace(shape, name=f"{shape.name}-text{TEXT_TOKENS}", text=TEXT_TOKENS) for shape in self.levels]
        return [(shape, cross_attention(TEXT_TOKENS)) for shape in texts]

    @property
    def ours(self) -> str:
        """The provider of this library that `backend="auto"` is here."""
        return f"ours_{resolve_backend('auto', self.device, self.dtype)}"


def read_setting(
    model: str,
    frames: int | None,
    size: tuple[int, int] | None,
    regions: int | None,
    areas: list[float] | None,
    modulation: str,
    dtype: str | None,
    device: str | None,
) -> Setting:
    """Fill in the flags of the command that were not given.

    Raises:
        ValueError: names the flag that is wrong.
    """
    where = _device(device)
    frames_by_default, size_by_default, dtype_by_default = _DEFAULTS[where.type]
    frames = frames_by_default if frames is None else frames
    size = size_by_default if size is None else size
    dtype = dtype_by_default if dtype is None else dtype
    shares = _shares(regions, areas)
    cut = f"{len(shares)} region{'' if len(shares) == 1 else 's'}"
    cut += f" of {' and '.join(f'{share:.3g}' for share in shares)}" if areas else ""
    clip = f"{frames} frame{'' if frames == 1 else 's'} of {width_x_height(size)}"
    heading = f"{Path(model).name}, {clip}, {cut}, {modulation}, {dtype}"
    levels = level_shapes(model, frames, size, shares)
    return Setting(heading, levels, _OPERATIONS[modulation], where, getattr(torch, dtype))


def level_shapes(model: str, frames: int, size: tuple[int, int], areas: tuple[float, ...]) -> dict[LayerShape, int]:
    """Self-attention of each level of a model, the finest first, and its number of layers."""
    levels: dict[LayerShape, int] = {}
    for level in read_network(model):
        height, width = level.side_lengths(size)
        name = width_x_height((height, width))
        if any(shape.name == name for shape in levels):  # levels of few tokens
            name = f"{name}-{level.heads}x{level.head_dim}-{level.divisor}"
        levels[LayerShape(name, frames, height, width, level.heads, level.head_dim, areas=areas)] = level.layers
    return levels


def _device(name: str | None) -> torch.device:
    try:
        device = default_device() if name is None else torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"--device {name}: {str(error).splitlines()[0]}") from error
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"--device must be cpu or cuda, got {name}")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"--device {name}: torch sees no CUDA device here")
    return device


def _shares(regions: int | None, areas: list[float] | None) -> tuple[float, ...]:
    """The share of the frame that each region takes."""
    if areas is None:
        regions = 2 if regions is None else regions
        return (1 / regions,) * regions
    if regions is not None:
        raise ValueError("--regions and --areas exclude each other")
    if not all(area > 0 for area in areas) or abs(sum(areas) - 1) > 0.01:
        raise ValueError(f"--areas must be above 0 and add up to 1, got {' '.join(f'{area:g}' for area in areas)}")
    if len(areas) > MAX_REGIONS:
        raise ValueError(f"--areas must be at most {MAX_REGIONS}, got {len(areas)}")
    return tuple(areas)

"""Video transformers: their attention layers, by a model's name or from a checkpoint's transformer/config.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fame_accel.core.limits import check_size, width_x_height
from fame_accel.tools.planner.network import LevelOfTokens, read_config


@dataclass(frozen=True)
class VideoNetwork:
    """What a plan needs to know of a video transformer.

    Attributes:
        heads, head_dim, layers: of its attention over the video's tokens.
        pixels: along a side of a token: the VAE's compression times the patch.
        temporal: frames of the video for each of the latents after the first.
        batched: whether guidance doubles the batch; otherwise it is a call of its own.
    """

    heads: int
    head_dim: int
    layers: int
    pixels: int = 16
    temporal: int = 4
    batched: bool = False

    def latent_frames(self, frames: int) -> int:
        """The latent frames of so many of the video; ValueError where the VAE cannot take them."""
        beyond = (frames - 1) % self.temporal
        if beyond:
            fewer = frames - beyond
            raise ValueError(
                f"--frames must be 1 + a multiple of {self.temporal} for this model, got {frames}: take {fewer} or "
                f"{fewer + self.temporal}"
            )
        return 1 + (frames - 1) // self.temporal

    def level(self, size: tuple[int, int]) -> LevelOfTokens:
        """Its layers for frames of (height, width) pixels; ValueError where these are no multiples of a token's."""
        check_size("--size", size, self.pixels)
        height, width = (side // self.pixels for side in size)
        return LevelOfTokens(1, self.heads, self.head_dim, self.layers, (height, width))

    def describe(self, frames: int, size: tuple[int, int]) -> str:
        """Tokens, and what a mask of all their pairs would take, in a line."""
        height, width = self.level(size).sides
        latent = self.latent_frames(frames)
        tokens = latent * height * width
        guidance = "" if self.batched else "; guidance is a further call, without modulation"
        return (
            f"{frames} frames of {width_x_height(size)} pixels are {latent} latent frames of {width}x{height} tokens, "
            f"{tokens:,} in all; a bool mask of their pairs takes {tokens**2 / 2**30:.1f} GiB{guidance}"
        )


# From the transformer/config.json of the published checkpoints.
VIDEO_NETWORKS = {
    "wan-1.3b": VideoNetwork(12, 128, 30),
    "wan-14b": VideoNetwork(40, 128, 40),
    "hunyuan": VideoNetwork(24, 128, 20 + 40),
    "ltx": VideoNetwork(32, 64, 28, pixels=32, temporal=8, batched=True),
    "cogvideox-5b": VideoNetwork(48, 64, 42, batched=True),
    "mochi": VideoNetwork(24, 128, 48, temporal=6, batched=True),
}
# By the class that a config names: the VAE's compression in space and in time, and whether guidance is batched.
_CLASSES = {
    "WanTransformer3DModel": (8, 4, False),
    "WanVACETransformer3DModel": (8, 4, False),
    "SkyReelsV2Transformer3DModel": (8, 4, False),
    "HunyuanVideoTransformer3DModel": (8, 4, False),
    "HunyuanVideo15Transformer3DModel": (16, 4, False),
    "CogVideoXTransformer3DModel": (8, 4, True),
    "LTXVideoTransformer3DModel": (32, 8, True),
    "MochiTransformer3DModel": (8, 6, True),
}


def find_video_network(model: str) -> VideoNetwork | None:
    """The video transformer of a name or a checkpoint folder; None where it is another kind of model.

    Raises:
        ValueError: the folder holds a transformer that is not served, or whose config cannot be read.
    """
    if model in VIDEO_NETWORKS:
        return VIDEO_NETWORKS[model]
    file = Path(model) / "transformer" / "config.json"
    if not file.is_file():
        return None
    try:
        return _from_config(read_config(file))
    except ValueError as error:
        raise ValueError(f"--model: {file}: {error}") from error


def _from_config(config: Mapping[str, Any]) -> VideoNetwork:
    kind = config.get("_class_name")
    if kind not in _CLASSES:
        raise ValueError(f"_class_name must be one of {', '.join(_CLASSES)}, got {kind!r}; --tokens takes any model")
    spatial, temporal, batched = _CLASSES[kind]
    patch = config.get("patch_size", 1)
    numbers = {name: config.get(name) for name in ("num_attention_heads", "attention_head_dim", "num_layers")}
    for name, value in numbers.items():
        if type(value) is not int or value < 1:
            raise ValueError(f"{name} must be a whole number from 1 on, got {value!r}")
    heads, head_dim, layers = numbers.values()
    assert heads is not None and head_dim is not None and layers is not None
    layers += config.get("num_single_layers", 0)
    return VideoNetwork(
        heads, head_dim, layers, spatial * (patch[1] if isinstance(patch, list) else patch), temporal, batched
    )

"""A video transformer's attention: its tokens, heads and layers, from a model's name or a checkpoint's configs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from fame_accel.media.packages import require
from fame_accel.tools.planner.network import LevelOfTokens, read_config
from fame_accel.tools.planner.video_models import FAMILIES, MODELS, VAES, Family

SIDE_FLAGS = ("--size: height", "--size: width")  # what gave height and width, as messages name it
_MOST = 10**6  # of any number in a config
_MOST_LAYERS = 1000


@dataclass(frozen=True)
class VideoModel:
    """A video transformer.

    patch, compression: (frames, pixels per side) of latents in a token, and of the video in a latent.
    parameters: of the transformers; None where diffusers is missing to count them.
    """

    name: str
    family: Family
    heads: int
    head_dim: int
    layers: int
    patch: tuple[int, int]
    compression: tuple[int, int]
    parameters: int | None

    def token_grid(
        self, frames: int, size: tuple[int, int], side_flags: tuple[str, str] = SIDE_FLAGS
    ) -> tuple[int, int, int]:
        """(frames, height, width) in tokens.

        Args:
            frames: frames of the video.
            size: (height, width) of a frame in pixels.
            side_flags: what gave height and width, for messages.

        Raises:
            ValueError: the VAE does not take that many frames, or the patches do not divide a side.
        """
        step = self.compression[0]
        if (frames - 1) % step:
            below = (frames - 1) // step * step + 1
            nearest = f"{below} or {below + step}"
            raise ValueError(f"--frames must be {step}k+1 for {self.name}, such as {nearest}, got {frames}")
        multiple = self.compression[1] * self.patch[1]
        for flag, side in zip(side_flags, size, strict=True):
            if side % multiple:
                below = side // multiple * multiple
                nearest = f"{below} or {below + multiple}" if below else str(multiple)
                wanted = f"a multiple of {multiple} for {self.name}, such as {nearest}"
                raise ValueError(f"{flag} must be {wanted}, got {side}")
        latents = (frames - 1) // step + 1
        return -(-latents // self.patch[0]), size[0] // multiple, size[1] // multiple

    def most_video_frames(self, token_frames: int) -> int:
        """The most frames of a video that have that many frames of tokens; 0 for none."""
        return (token_frames * self.patch[0] - 1) * self.compression[0] + 1 if token_frames else 0

    def level(self, sides: tuple[int, int]) -> LevelOfTokens:
        """The self-attention layers, over frames of (height, width) tokens."""
        return LevelOfTokens(1, self.heads, self.head_dim, self.layers, sides)


def read_video_model(model: str) -> VideoModel | None:
    """A video transformer.

    Args:
        model: a name in `video_models.MODELS`, or a checkpoint folder in diffusers' layout.

    Returns:
        The model; None where `model` is neither a name nor a folder with transformer/config.json.

    Raises:
        ValueError: a config cannot be read, or is not of a class that is served.
    """
    if model in MODELS:
        published = MODELS[model]
        compression = _compression(FAMILIES[published.transformer], published.config, {})
        return _of_config(model, published.transformer, published.config, compression, published.parameters)
    folder = Path(model)
    transformer, vae_file = folder / "transformer" / "config.json", folder / "vae" / "config.json"
    if not transformer.is_file():
        return None
    configs: list[dict[str, Any]] = []
    for file in (transformer, folder / "transformer_2" / "config.json"):
        if file.is_file():
            with _naming(file):
                configs.append(read_config(file))
                if (kind := configs[-1].get("_class_name")) not in list(FAMILIES):
                    raise ValueError(f"_class_name must be one of {', '.join(FAMILIES)}, got {kind!r}")
    vae: dict[str, Any] = {}
    if vae_file.is_file():
        with _naming(vae_file):
            vae = read_config(vae_file)
    kind = configs[0]["_class_name"]
    with _naming(vae_file if vae else transformer):
        compression = _compression(FAMILIES[kind], configs[0], vae)
    with _naming(transformer):
        read = _of_config(model, kind, configs[0], compression, None)
        return replace(read, parameters=_count(configs))


@contextmanager
def _naming(file: Path) -> Iterator[None]:
    """Let a ValueError name the flag and the file."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"--model: {file}: {error}") from error


def _of_config(
    name: str, kind: str, config: Mapping[str, Any], compression: tuple[int, int], parameters: int | None
) -> VideoModel:
    family = FAMILIES[kind]
    if kind == "Kandinsky5Transformer3DModel":
        head_dim = sum(_numbers(config, "axes_dims", 3))
        heads, remainder = divmod(_number(config, "model_dim"), head_dim)
        if remainder or not heads:
            raise ValueError(f"model_dim must be a multiple of the head_dim {head_dim}, got {config['model_dim']}")
        if config.get("attention_type", "regular") != "regular":
            raise ValueError(f"attention_type must be 'regular', got {config['attention_type']!r}")
    else:
        heads, head_dim = _number(config, "num_attention_heads"), _number(config, "attention_head_dim")
    if head_dim > 256:
        raise ValueError(f"has a head_dim of {head_dim}: the operation takes up to 256")
    if isinstance(config.get("patch_size"), list):
        patch_t, patch_h, patch_w = _numbers(config, "patch_size", 3)
        if patch_h != patch_w:
            raise ValueError(f"patch_size must be square in height and width, got {config['patch_size']}")
    else:
        patch_h = _number(config, "patch_size")
        patch_t = 1 if config.get("patch_size_t") is None else _number(config, "patch_size_t")
    layers = sum(
        len(config[key]) if isinstance(config.get(key), list) else _number(config, key) for key in family.depth
    )
    if not 1 <= layers <= _MOST_LAYERS:
        raise ValueError(f"{' and '.join(family.depth)} must make 1 to {_MOST_LAYERS} layers, got {layers}")
    return VideoModel(name, family, heads, head_dim, layers, (patch_t, patch_h), compression, parameters)


def _compression(family: Family, config: Mapping[str, Any], vae: Mapping[str, Any]) -> tuple[int, int]:
    """Of the video by the VAE: (frames, pixels per side) in a latent."""
    kind = vae.get("_class_name", family.vae)
    if kind is None:
        raise ValueError("its models differ in their VAE: the folder needs vae/config.json, and there is none")
    if kind not in list(VAES):
        raise ValueError(f"_class_name must be one of {', '.join(VAES)}, got {kind!r}")
    temporal, spatial, channels = VAES[kind]
    if not vae and config.get("out_channels", channels) not in (None, channels):
        raise ValueError(f"has {config['out_channels']!r} channels, which {kind} does not make: the folder needs "
                         "vae/config.json, and there is none")  # fmt: skip
    for key in ("temporal_compression_ratio", "scale_factor_temporal"):
        temporal = temporal if vae.get(key) is None else _number(vae, key)
    for key in ("spatial_compression_ratio", "scale_factor_spatial"):
        spatial = spatial if vae.get(key) is None else _number(vae, key)
    return temporal, spatial


def _count(configs: Sequence[Mapping[str, Any]]) -> int | None:
    """Parameters of the transformers of a folder, made by diffusers on the meta device; None where it is missing."""
    try:
        diffusers = require("diffusers", "diffusers")
    except ImportError:
        return None
    total = 0
    for config in configs:
        try:
            with torch.device("meta"):
                network = getattr(diffusers, config["_class_name"]).from_config(dict(config))
        except (
            TypeError,
            ValueError,
            AttributeError,
            KeyError,
            RuntimeError,
            ArithmeticError,
            AssertionError,
        ) as error:
            raise ValueError(f"diffusers does not take it: {error}") from error
        total += sum(parameter.numel() for parameter in network.parameters())
    return total


def _number(config: Mapping[str, Any], key: str) -> int:
    return _numbers({key: [config.get(key)]}, key, 1)[0]


def _numbers(config: Mapping[str, Any], key: str, count: int) -> list[int]:
    """`count` whole numbers of at least 1; 4.0 counts as one."""
    values = config.get(key)
    if not isinstance(values, list) or len(values) != count:
        raise ValueError(f"{key} must be a list of {count} numbers, got {values!r}")
    for value in values:
        whole = type(value) is int or (type(value) is float and value.is_integer())
        if not whole or not 1 <= value <= _MOST:
            raise ValueError(f"{key} must be whole numbers of 1 to {_MOST}, got {value!r}")
    return [int(value) for value in values]

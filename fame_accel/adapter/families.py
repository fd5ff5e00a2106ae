"""The video transformers of diffusers that `apply_fame` serves: a row of data each.

A new family is one more `VideoFamily` in `FAMILIES`. A row says where the video's tokens stand, what the layers are
called, and how the model is told of noise and guidance; it holds no mathematics of the model.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

Arguments = Mapping[str, Any]
Grid = tuple[int, int, int]


@dataclass(frozen=True)
class TextTokens:
    """The prompt's tokens of one batch item.

    Attributes:
        valid: int64 [n], which tokens of the prompt are no padding.
        keys: int64 [n], where these stand: in the joined sequence, or among the keys of cross-attention.
        others: int64 [m], where further valid tokens stand that are neither of the video nor of the prompt.
        total: tokens of the joined sequence besides the video's.
    """

    valid: Tensor
    keys: Tensor
    others: Tensor
    total: int


@dataclass(frozen=True, kw_only=True)
class Family:
    """What all families have.

    Attributes:
        name: of the family.
        models: names of the model classes.
        latents: argument of the model's forward that holds the latents.
        noise: the noise level in [0, 1], 1 is pure noise, from the greatest timestep that the model is given and the
            pipeline's scheduler, None for a model without pipeline.
        guidance: how the pipelines call the model for classifier-free guidance. "named": two calls, in which
            `cache_context` names the unconditional one. "ordered": two calls, the conditional first. "batched": one
            call, the unconditional half of the batch first.
    """

    name: str
    models: tuple[str, ...]
    latents: str = "hidden_states"
    noise: Callable[[float, Any], float] = lambda timestep, scheduler: timestep / 1000
    guidance: Literal["named", "ordered", "batched"] = "named"

    def check_patterns(self, **patterns: str | None) -> None:
        """ValueError where a pattern of layers' names is no regular expression."""
        for name, pattern in patterns.items():
            try:
                re.compile(pattern or "")
            except (re.error, TypeError) as error:
                raise ValueError(f"{name} must be a regular expression of layers' names, got {pattern!r}") from error


@dataclass(frozen=True, kw_only=True)
class VideoFamily(Family):
    """How a family of video transformers is built; what `apply_fame` needs to know of one.

    Attributes:
        name, models, latents, noise, guidance: as in `Family`.
        grid: (frames, height, width) of the video's tokens, from the model's config and the arguments of its forward.
        layers: regular expression of the names of the layers in which the video attends to itself.
        cross: the same of the layers in which it attends to the text; None where text stands in the same sequence.
        text: the prompt's tokens of each batch item, from grid and arguments; None for a model without prompt.
        video_start: position of the video's first token in the joined sequence.
        references: whether frames of reference images may stand before the video's.
        causal_blocks: frames of a block of block-causal attention, from the config; 0 where all frames see all.
        masked: whether layers pass masks that `text` and `causal_blocks` describe in full.
        items_apart: whether the layers call attention once for each batch item, in order.
        order: int64 [N], which token of the row comes where, from the arguments; None where the row needs no sorting.
    """

    grid: Callable[[Any, Arguments], Grid]
    layers: str
    cross: str | None = None
    text: Callable[[Grid, Arguments], list[TextTokens]] | None = None
    video_start: Callable[[Arguments], int] = lambda arguments: 0
    references: bool = False
    causal_blocks: Callable[[Any], int] = lambda config: 0
    masked: bool = False
    items_apart: bool = False
    order: Callable[[Arguments], Tensor | None] = lambda arguments: None

    def __post_init__(self) -> None:
        self.check_patterns(layers=self.layers, cross=self.cross)
        if not callable(self.grid):
            raise TypeError(f"grid must be a function of config and arguments, got {type(self.grid).__name__}")


def _patches(config: Any) -> Grid:
    """(frames, height, width) of a patch, however a config writes it."""
    size = config.patch_size
    if isinstance(size, (tuple, list)):
        return int(size[0]), int(size[1]), int(size[2])
    return int(getattr(config, "patch_size_t", None) or 1), int(size), int(size)


def _latents(axes: str) -> Callable[[Any, Arguments], Grid]:
    """The grid from hidden_states with axes such as "BCFHW"."""

    def grid(config: Any, arguments: Arguments) -> Grid:
        shape, patch = arguments["hidden_states"].shape, _patches(config)
        frames, height, width = (shape[axes.index(axis)] // size for axis, size in zip("FHW", patch, strict=True))
        return frames, height, width

    return grid


def _given_grid(_: Any, arguments: Arguments) -> Grid:
    return arguments["num_frames"], arguments["height"], arguments["width"]


def _dense_grid(config: Any, arguments: Arguments) -> Grid:
    """Kandinsky 5's, whose sparse attention chooses blocks of keys anew in each call."""
    if arguments.get("sparse_params") is not None:
        raise ValueError(
            "sparse_params must be None under FAME attention: it needs a model with attention_type 'regular'"
        )
    return _latents("BFHWC")(config, arguments)


def _position_grid(_: Any, arguments: Arguments) -> Grid:
    positions = arguments["position_ids"][arguments["video_indices"]]
    frames, height, width = (len(axis.unique()) for axis in positions.unbind(1))
    return frames, height, width


def _prompt(
    mask: str | None = None, offset: Literal["first", "last", "keys"] = "keys", more: str | None = None
) -> Callable[[Grid, Arguments], list[TextTokens]]:
    """Text that keeps its order.

    Args:
        mask: argument that says which of its tokens are valid, [B, T]; None where all are.
        offset: whether the text stands before the video, after it, or by itself, as the keys of cross-attention.
        more: argument with text tokens of a second encoder, which follow.
    """

    def text(grid: Grid, arguments: Arguments) -> list[TextTokens]:
        embeddings = arguments["encoder_hidden_states"]
        batch, tokens = embeddings.shape[:2]
        start = grid[0] * grid[1] * grid[2] if offset == "last" else 0
        second = arguments.get(more) if more else None
        further = 0 if second is None else second.shape[1]
        others = torch.arange(start + tokens, start + tokens + further, device=embeddings.device)
        given = arguments.get(mask) if mask else None
        if given is None:
            valid = [torch.arange(tokens, device=embeddings.device)] * batch
        else:
            valid = [row.nonzero().flatten() for row in given.reshape(batch, tokens) > 0.5]
        return [TextTokens(index, index + start, others, tokens + further) for index in valid]

    return text


def _valid_prompt_alone(grid: Grid, arguments: Arguments) -> list[TextTokens]:
    """Mochi: each item's valid tokens follow the video, the padding is left out."""
    texts = _prompt("encoder_attention_mask", "last")(grid, arguments)
    start = grid[0] * grid[1] * grid[2]
    alone = [torch.arange(len(text.valid), device=text.valid.device) for text in texts]
    return [
        TextTokens(text.valid, index + start, text.others, len(index)) for text, index in zip(texts, alone, strict=True)
    ]


def _valid_first(grid: Grid, arguments: Arguments) -> list[TextTokens]:
    """HunyuanVideo 1.5: after the video come the valid tokens of image, glyphs and prompt, then what is padding."""
    start, texts = grid[0] * grid[1] * grid[2], []
    image = arguments["image_embeds"]
    has_image = 0 if bool((image == 0).all()) else image.shape[1]
    masks = (arguments["encoder_attention_mask"], arguments["encoder_attention_mask_2"])
    total = image.shape[1] + sum(mask.shape[1] for mask in masks)
    for prompt, glyphs in zip(*(mask.bool() for mask in masks), strict=True):
        valid = prompt.nonzero().flatten()
        before = start + has_image + int(glyphs.sum())
        keys = torch.arange(len(valid), device=valid.device) + before
        texts.append(TextTokens(valid, keys, torch.arange(start, before, device=valid.device), total))
    return texts


def _packed(grid: Grid, arguments: Arguments) -> list[TextTokens]:
    """MiniMax H3, after sorting: video, prompt, audio."""
    start, tokens = grid[0] * grid[1] * grid[2], len(arguments["text_indices"])
    valid = torch.arange(tokens, device=arguments["text_indices"].device)
    audio = torch.arange(len(arguments["audio_indices"]), device=valid.device) + start + tokens
    text = TextTokens(valid, valid + start, audio, tokens + len(audio))
    return [text] * len(arguments["hidden_states"])


def _packed_order(arguments: Arguments) -> Tensor:
    return torch.cat([arguments[name] for name in ("video_indices", "text_indices", "audio_indices")])


def _text_length(more: str | None = None) -> Callable[[Arguments], int]:
    def length(arguments: Arguments) -> int:
        second = arguments.get(more) if more else None
        return arguments["encoder_hidden_states"].shape[1] + (0 if second is None else second.shape[1])

    return length


def _share_of_noise(timestep: float, scheduler: Any) -> float:
    """Cosmos 2 is told sigma / (sigma + 1), in thousandths or not; Cosmos 1's scheduler gives log(sigma) / 4."""
    if type(scheduler).__name__ == "EDMEulerScheduler":
        sigma = math.exp(4 * timestep)
        return sigma / (sigma + 1)
    return timestep if timestep <= 1 else timestep / 1000


_WAN = VideoFamily(
    name="Wan",
    models=("WanTransformer3DModel",),
    grid=_latents("BCFHW"),
    layers=r"(vace_)?blocks\.\d+\.attn1",
    cross=r"(vace_)?blocks\.\d+\.attn2",
    text=_prompt(),
)
_BLOCKS = r"transformer_blocks\.\d+\.attn"

FAMILIES = (
    _WAN,
    replace(_WAN, name="Wan VACE", models=("WanVACETransformer3DModel",), references=True),
    replace(
        _WAN,
        name="SkyReels-V2",
        models=("SkyReelsV2Transformer3DModel",),
        causal_blocks=lambda config: config.num_frame_per_block if config.num_frame_per_block > 1 else 0,
        masked=True,
    ),
    replace(_WAN, name="ChronoEdit", models=("ChronoEditTransformer3DModel",)),
    VideoFamily(
        name="HunyuanVideo",
        models=("HunyuanVideoTransformer3DModel",),
        grid=_latents("BCFHW"),
        layers=r"(single_)?transformer_blocks\.\d+\.attn",
        text=_prompt("encoder_attention_mask", "last"),
        masked=True,
    ),
    VideoFamily(
        name="HunyuanVideo 1.5",
        models=("HunyuanVideo15Transformer3DModel",),
        grid=_latents("BCFHW"),
        layers=_BLOCKS,
        text=_valid_first,
        masked=True,
    ),
    VideoFamily(
        name="CogVideoX",
        models=("CogVideoXTransformer3DModel", "ConsisIDTransformer3DModel"),
        grid=_latents("BFCHW"),
        layers=_BLOCKS + "1",
        text=_prompt(offset="first"),
        video_start=_text_length(),
        guidance="batched",
    ),
    VideoFamily(
        name="LTX",
        models=("LTXVideoTransformer3DModel", "LTX2VideoTransformer3DModel"),
        grid=_given_grid,
        layers=_BLOCKS + "1",
        cross=_BLOCKS + "2",
        text=_prompt("encoder_attention_mask"),
        guidance="batched",
        masked=True,
    ),
    VideoFamily(
        name="Mochi",
        models=("MochiTransformer3DModel",),
        grid=_latents("BCFHW"),
        layers=_BLOCKS + "1",
        text=_valid_prompt_alone,
        noise=lambda timestep, scheduler: 1 - timestep / 1000,
        guidance="batched",
        items_apart=True,
    ),
    VideoFamily(
        name="Kandinsky 5",
        models=("Kandinsky5Transformer3DModel",),
        grid=_dense_grid,
        layers=r"visual_transformer_blocks\.\d+\.self_attention",
        cross=r"visual_transformer_blocks\.\d+\.cross_attention",
        text=_prompt(),
        guidance="ordered",
    ),
    VideoFamily(
        name="EasyAnimate",
        models=("EasyAnimateTransformer3DModel",),
        grid=_latents("BCFHW"),
        layers=_BLOCKS + "1",
        text=_prompt(offset="first", more="encoder_hidden_states_t5"),
        video_start=_text_length("encoder_hidden_states_t5"),
        guidance="batched",
    ),
    VideoFamily(
        name="MiniMax H3",
        models=("MiniMaxH3Transformer3DModel",),
        grid=_position_grid,
        layers=_BLOCKS,
        text=_packed,
        noise=lambda timestep, scheduler: timestep,
        order=_packed_order,
    ),
    VideoFamily(
        name="Cosmos",
        models=("CosmosTransformer3DModel",),
        grid=_latents("BCFHW"),
        layers=_BLOCKS + "1",
        cross=_BLOCKS + "2",
        text=_prompt(),
        noise=_share_of_noise,
        guidance="ordered",
    ),
)


def is_self(family: VideoFamily, layer: str) -> bool:
    """Whether the layer of this name is one in which the video attends to itself."""
    return re.fullmatch(family.layers, layer) is not None


def is_cross(family: VideoFamily, layer: str) -> bool:
    """Whether the layer of this name is one in which the video attends to the text alone."""
    return family.cross is not None and re.fullmatch(family.cross, layer) is not None

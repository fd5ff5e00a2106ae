"""What the networks of a checkpoint hold beside attention: weights, and activations at their peak.

Activations grow with images and pixels, so their peaks are kept as elements per image and pixel. footprints.json has
them for named models, so that these need torch alone; those of a checkpoint folder are measured from its configs, with
diffusers' networks on the meta device, where no weight is read and nothing computed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fame_accel.core.limits import VAE_SCALE_FACTOR
from fame_accel.media.packages import require
from fame_accel.tools.planner.network import FAMILIES, AttentionLevel, read_config
from fame_accel.tools.planner.tracker import MemoryTracker

FILE = Path(__file__).with_name("footprints.json")
TEXT_TOKENS = 77
_SIDE = 16  # of the latents that are measured


@dataclass(frozen=True)
class Footprint:
    """A checkpoint's networks, in elements of their dtype.

    parameters: of each network, by the name of its folder.
    unet: the most activations of the UNet outside of self-attention, per image and pixel of the latents.
    at_attention: what stands beside a call of self-attention, by "divisor heads head_dim" of its level, likewise.
    encoder, decoder: the most activations of the VAE's halves, per image and pixel.
    upcast: whether the VAE runs in float32 where the weights are float16.
    """

    parameters: Mapping[str, int]
    unet: float
    at_attention: Mapping[str, float]
    encoder: float
    decoder: float
    upcast: bool

    def beside(self, level: AttentionLevel) -> float:
        """What stands beside a call of a level's self-attention, per image and pixel of the latents."""
        return self.at_attention[_key(level.divisor, level.heads, level.head_dim)]


def read_footprint(model: str | Path) -> Footprint | None:
    """The footprint of a model.

    Args:
        model: a family of `network.FAMILIES`, or a checkpoint folder.

    Returns:
        The footprint; None for a folder without the configs of all networks, or where diffusers or transformers is
        missing to measure them.

    Raises:
        ValueError: a config cannot be read, or diffusers does not take it.
    """
    if str(model) in FAMILIES:
        return Footprint(**json.loads(FILE.read_text(encoding="utf-8"))[str(model)])
    folder = Path(model)
    try:
        for package in ("diffusers", "transformers"):
            require(package, "diffusers")
    except ImportError:
        return None
    names = [name for name in ("text_encoder", "text_encoder_2", "unet", "vae") if (folder / name).is_dir()]
    files = {name: folder / name / "config.json" for name in names}
    if not {"text_encoder", "vae"} <= set(names) or not all(file.is_file() for file in files.values()):
        return None
    return measure({name: read_config(file) for name, file in files.items()})


def measure(configs: Mapping[str, Mapping[str, Any]]) -> Footprint:
    """The footprint of networks.

    Args:
        configs: the config.json of each network, by the name of its folder: unet, vae, text_encoder, text_encoder_2.

    Raises:
        ValueError: diffusers does not take a config.
    """
    diffusers, transformers = require("diffusers", "diffusers"), require("transformers", "diffusers")
    try:
        with torch.device("meta"), torch.no_grad():
            unet = diffusers.UNet2DConditionModel.from_config(dict(configs["unet"])).eval()
            vae = diffusers.AutoencoderKL.from_config(dict(configs["vae"])).eval()
            parameters = {"unet": _count(unet), "vae": _count(vae)}
            for name in sorted(set(configs) - set(parameters)):
                text = transformers.CLIPTextConfig(**configs[name])
                with_projection = name != "text_encoder"
                kind = transformers.CLIPTextModelWithProjection if with_projection else transformers.CLIPTextModel
                parameters[name] = _count(kind(text))
            peak, at_attention = _unet_elements(unet)
            encoder, decoder = _vae_elements(vae)
    except (TypeError, ValueError, AttributeError, KeyError, RuntimeError) as error:
        raise ValueError(f"--model: its configs do not fit together: {error}") from error
    return Footprint(parameters, peak, at_attention, encoder, decoder, bool(vae.config.get("force_upcast", False)))


class _Projections:
    """An attention processor that runs the projections alone, and notes what stands beside its calls."""

    def __init__(self, tracker: MemoryTracker) -> None:
        self.tracker = tracker
        self.live: dict[tuple[int, int, int], int] = {}  # by tokens of an image, heads and head_dim

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        shape = hidden_states.shape
        if hidden_states.ndim == 4:  # the VAE's
            hidden_states = hidden_states.flatten(2).transpose(1, 2)
        elif encoder_hidden_states is None:
            key = (shape[1], attn.heads, attn.inner_dim // attn.heads)
            self.live[key] = max(self.live.get(key, 0), self.tracker.live)
        result = attn.to_out[0](attn.to_q(hidden_states))
        return result.transpose(1, 2).reshape(shape) if len(shape) == 4 else result


def _unet_elements(unet: Any) -> tuple[float, dict[str, float]]:
    """Per image and pixel of the latents: the most elements, and those beside self-attention by level."""
    config, added = unet.config, {}
    if config.get("addition_embed_type") == "text_time":
        pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
        added = {"text_embeds": torch.empty(1, pooled), "time_ids": torch.empty(1, 6)}
    tracker = MemoryTracker()
    processor = _Projections(tracker)
    unet.set_attn_processor(processor)
    latents = torch.empty(1, config.in_channels, _SIDE, _SIDE)
    text = torch.empty(1, TEXT_TOKENS, config.cross_attention_dim)
    with tracker:
        unet(latents, torch.empty(1), text, added_cond_kwargs=added, return_dict=False)
    scale = _SIDE**2 * latents.itemsize
    levels = {
        _key(round((_SIDE**2 / tokens) ** 0.5), heads, head_dim): live / scale
        for (tokens, heads, head_dim), live in processor.live.items()
    }
    return tracker.peak / scale, levels


def _vae_elements(vae: Any) -> tuple[float, float]:
    """Per image and pixel: the most elements of the encoder and of the decoder."""
    side = _SIDE * VAE_SCALE_FACTOR
    peaks = []
    for run, channels, inputs in ((vae.encode, 3, side), (vae.decode, vae.config.latent_channels, _SIDE)):
        tracker = MemoryTracker()
        vae.set_attn_processor(_Projections(tracker))
        tensor = torch.empty(1, channels, inputs, inputs)
        with tracker:
            run(tensor, return_dict=False)
        peaks.append(tracker.peak / (side**2 * tensor.itemsize))
    return peaks[0], peaks[1]


def _count(network: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def _key(divisor: int, heads: int, head_dim: int) -> str:
    return f"{divisor} {heads} {head_dim}"

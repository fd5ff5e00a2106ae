"""A checkpoint in one .safetensors file, in Stable Diffusion's original layout: told by its header, loaded offline.

The file holds weights alone. Configs are those of Stable Diffusion 1.5 and of XL, in single_file.json; the names of the
tensors are changed by diffusers' own code; the tokenizer is CLIP's, as packaged.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fame_accel.edit.clip_tokenizer import clip_tokenizer
from fame_accel.media.loading import check_loaded, loading
from fame_accel.media.packages import require
from fame_accel.media.weights import Weights, shapes, some

_INPUT = "model.diffusion_model.input_blocks.0.0.weight"
# Tensors that no network has: averages and constants of training.
_NOT_WEIGHTS = re.compile(
    r"model_ema\..*|denoiser\..*|betas|alphas_cumprod.*|sqrt_.*|log_one_minus.*|posterior_.*|logvar|.*\.position_ids"
    r"|.*\.logit_scale|cond_stage_model\.transformer\.text_projection\.weight"
)
# What other files hold, by a pattern that one of their tensors matches.
_OTHERS = (
    (r"lora_|.*\.lora_", "a LoRA: load it into a checkpoint folder by diffusers' load_lora_weights"),
    (r"control_model\.|.*controlnet", "a ControlNet"),
    (r".*joint_blocks\.", "a Stable Diffusion 3"),
    (r".*double_blocks\.", "a Flux or HunyuanVideo"),
    (r"(model\.diffusion_model\.)?blocks\.0\.self_attn", "a Wan"),
    (r"(unet\.)?down_blocks\.", "a UNet in diffusers' format: give the folder that it belongs to"),
    (r"(first_stage_model\.)?(encoder|decoder)\.", "a VAE alone"),
)
_SD2 = "a Stable Diffusion 2, whose kind of prediction the file does not say: convert it into a folder with diffusers"


@cache
def _data() -> dict[str, Any]:
    return json.loads(files("fame_accel.edit").joinpath("single_file.json").read_text(encoding="utf-8"))


def recognize(file: Path) -> tuple[str, dict[str, tuple[int, ...]]]:
    """The pipeline class of the checkpoint in a file, and the shapes of its tensors.

    Raises:
        ValueError: it is not one of Stable Diffusion 1 or XL; the message says what it is.
    """
    tensors = shapes(file, "--model")

    def has(prefix: str) -> bool:
        return any(name.startswith(prefix) for name in tensors)

    got = None
    if _INPUT not in tensors:
        got = next((kind for pattern, kind in _OTHERS if any(re.match(pattern, name) for name in tensors)), "neither")
    elif has("cond_stage_model.model."):
        got = _SD2
    elif has("conditioner.embedders.0.model."):
        got = "the refiner of XL"
    elif "v_pred" in tensors:
        got = "a model of v-prediction: convert it into a folder with diffusers, which says so in its scheduler"
    elif tensors[_INPUT][1] != 4:
        got = f"a UNet of {tensors[_INPUT][1]} input channels, such as inpainting's"
    elif not has("conditioner.embedders.1.model.") and not has("cond_stage_model.transformer."):
        got = "one without a text encoder"
    if got is not None:
        raise ValueError(f"--model {file} must hold a Stable Diffusion 1 or XL in the original layout, got {got}")
    return ("StableDiffusionXLPipeline" if has("conditioner.embedders.1") else "StableDiffusionPipeline"), tensors


def component_config(kind: str, name: str) -> dict[str, Any]:
    """The config of a network of a checkpoint, as its class takes it."""
    data = _data()
    common = data["common"].get("text" if "text" in name else name, {})
    return {**common, **data[kind][name]}


def scheduler_config() -> dict[str, Any]:
    """The noise schedule of Stable Diffusion 1 and XL."""
    return dict(_data()["common"]["scheduler"])


def prefixes(kind: str) -> dict[str, str]:
    """How the names of each network's tensors begin."""
    return dict(_data()[kind]["prefixes"])


def check_names(file: Path, kind: str, names: Iterable[str]) -> list[str]:
    """The tensors that no network needs; ValueError where there are others that belong to none."""
    begin = tuple(prefixes(kind).values())
    unused = [name for name in names if _NOT_WEIGHTS.fullmatch(name)]
    unknown = [name for name in names if not name.startswith(begin) and not _NOT_WEIGHTS.fullmatch(name)]
    if unknown:
        raise ValueError(f"--model: {file} must hold just the tensors of the model; unexpected: {some(unknown)}")
    return unused


def load_components(file: Path, kind: str, dtype: torch.dtype) -> dict[str, Any]:
    """All components of a pipeline but ControlNets.

    Raises:
        ValueError: a network lacks tensors, or has others or such of other shapes.
    """
    load_file = require("safetensors.torch", "diffusers").load_file
    with loading(f"--model: {file}"):
        tensors = {name: tensor for name, tensor in load_file(file).items() if not _NOT_WEIGHTS.fullmatch(name)}
    parts: dict[str, Any] = {}
    for name, prefix in prefixes(kind).items():
        own = {key: tensors.pop(key) for key in list(tensors) if key.startswith(prefix)}
        parts[name] = _network(file, name, component_config(kind, name), own, prefix).to(dtype).eval()
    parts["tokenizer"] = copy.deepcopy(clip_tokenizer())
    if "text_encoder_2" in parts:
        parts["tokenizer_2"] = copy.deepcopy(clip_tokenizer())
        parts["tokenizer_2"].pad_token = "!"
    parts["scheduler"] = require("diffusers", "diffusers").DDIMScheduler(**scheduler_config())
    return parts


def _network(file: Path, name: str, config: Mapping[str, Any], tensors: dict[str, Tensor], prefix: str) -> Any:
    """A network with its tensors, which bear the names of the original layout."""
    diffusers, transformers = require("diffusers", "diffusers"), require("transformers", "diffusers")
    empty = require("accelerate", "diffusers").init_empty_weights
    with loading(f"--model: {file}"), empty():
        if name == "unet":
            model = diffusers.UNet2DConditionModel(**config)
        elif name == "vae":
            model = diffusers.AutoencoderKL(**config)
        elif name == "text_encoder":
            model = transformers.CLIPTextModel(transformers.CLIPTextConfig(**config))
        else:
            model = transformers.CLIPTextModelWithProjection(transformers.CLIPTextConfig(**config))
    with loading(f"--model: {file}"):
        converted = _converter(name)(model, tensors, prefix)
    wanted = model.state_dict()
    _check_all_used(file, tensors, converted)
    info = {
        "missing_keys": sorted(wanted.keys() - converted.keys()),
        "unexpected_keys": sorted(converted.keys() - wanted.keys()),
        "mismatched_keys": [
            (key, tuple(converted[key].shape), tuple(wanted[key].shape))
            for key in sorted(wanted.keys() & converted.keys())
            if converted[key].shape != wanted[key].shape
        ],
    }
    check_loaded(info, Weights((file,), None), f"--model ({name})")
    model.load_state_dict(converted, assign=True)
    return model


def _converter(name: str) -> Callable[[Any, dict[str, Tensor], str], dict[str, Tensor]]:
    from diffusers.loaders import single_file_utils as utils

    def unet(model: Any, tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
        return utils.convert_ldm_unet_checkpoint(tensors, model.config)

    def vae(model: Any, tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
        return utils.convert_ldm_vae_checkpoint(tensors, model.config)

    def clip(model: Any, tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
        return _as_named(model, {key.removeprefix(prefix): tensor for key, tensor in tensors.items()})

    def open_clip(model: Any, tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
        return _as_named(model, utils.convert_open_clip_checkpoint(model, tensors, prefix=prefix))

    return {"unet": unet, "vae": vae, "text_encoder": clip, "text_encoder_2": open_clip}[name]


def _as_named(model: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """CLIP's tensors as the installed transformers names them: with or without "text_model."."""
    if hasattr(model, "text_model"):
        return tensors
    return {key.removeprefix("text_model."): tensor for key, tensor in tensors.items()}


def _check_all_used(file: Path, tensors: Mapping[str, Tensor], converted: Mapping[str, Tensor]) -> None:
    """ValueError where the conversion left tensors out. What it cuts in three is a copy, and named in_proj."""
    used = {tensor.data_ptr() for tensor in converted.values()}
    left = [
        name
        for name, tensor in tensors.items()
        if tensor.data_ptr() not in used and "in_proj" not in name and not name.endswith("text_projection")
    ]
    if left:
        raise ValueError(f"--model: {file} must hold just the tensors of the model; unexpected: {some(left)}")

"""Checkpoints of diffusers written as one file in Stable Diffusion's original layout, for tests of reading it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

_RESNET = (
    ("norm1", "in_layers.0"), ("conv1", "in_layers.2"), ("time_emb_proj", "emb_layers.1"), ("norm2", "out_layers.0"),
    ("conv2", "out_layers.3"), ("conv_shortcut", "skip_connection"),
)  # fmt: skip
_ATTENTION = (
    ("group_norm", "norm"), ("to_q", "q"), ("to_k", "k"), ("to_v", "v"), ("to_out.0", "proj_out"),
)  # fmt: skip


def _renamed(name: str, pairs: tuple[tuple[str, str], ...]) -> str:
    part = next((old for old, _ in pairs if name.startswith(old + ".")), None)
    return name if part is None else dict(pairs)[part] + name[len(part) :]


def unet_name(name: str, layers: int) -> str:
    """The original name of a tensor of a UNet with so many layers in a block."""
    top = {
        "conv_in.": "input_blocks.0.0.", "conv_norm_out.": "out.0.", "conv_out.": "out.2.",
        "time_embedding.linear_1.": "time_embed.0.", "time_embedding.linear_2.": "time_embed.2.",
        "add_embedding.linear_1.": "label_emb.0.0.", "add_embedding.linear_2.": "label_emb.0.2.",
    }  # fmt: skip
    for begin, original in top.items():
        if name.startswith(begin):
            return original + name[len(begin) :]
    if name.startswith("mid_block."):
        _, kind, index, rest = name.split(".", 3)
        place = 1 if kind == "attentions" else 2 * int(index)
        return f"middle_block.{place}.{_renamed(rest, _RESNET) if kind == 'resnets' else rest}"
    side, block, kind, index, rest = name.split(".", 4)
    down = side == "down_blocks"
    first = int(block) * (layers + 1) + (1 if down else 0)
    begin = "input_blocks" if down else "output_blocks"
    if kind == "downsamplers":
        return f"{begin}.{first + layers}.0.op.{rest.removeprefix('conv.')}"
    if kind == "upsamplers":
        return f"{begin}.{first + layers}.UP.{rest}"  # the number depends on whether there is attention
    place = 0 if kind == "resnets" else 1
    return f"{begin}.{first + int(index)}.{place}.{_renamed(rest, _RESNET) if kind == 'resnets' else rest}"


def vae_name(name: str, blocks: int) -> str:
    """The original name of a tensor of a VAE with so many blocks."""
    if not name.startswith(("encoder.", "decoder.")):
        return name  # quant_conv, post_quant_conv
    coder, rest = name.split(".", 1)
    rest = rest.replace("conv_norm_out", "norm_out")
    if match := re.fullmatch(r"mid_block\.resnets\.(\d)\.(.*)", rest):
        rest = f"mid.block_{int(match[1]) + 1}.{match[2]}"
    elif match := re.fullmatch(r"mid_block\.attentions\.0\.(.*)", rest):
        rest = f"mid.attn_1.{_renamed(match[1], _ATTENTION)}"
    elif match := re.fullmatch(r"(down|up)_blocks\.(\d)\.(resnets|\w+samplers)\.(\d)\.(.*)", rest):
        block = int(match[2]) if match[1] == "down" else blocks - 1 - int(match[2])
        kind = f"block.{match[4]}" if match[3] == "resnets" else f"{match[1]}sample"
        rest = f"{match[1]}.{block}.{kind}.{match[5]}"
    return f"{coder}.{rest.replace('conv_shortcut', 'nin_shortcut')}"


def _unet(tensors: dict[str, Tensor], layers: int) -> dict[str, Tensor]:
    named = {unet_name(name, layers): tensor for name, tensor in tensors.items()}
    result = {}
    for name, tensor in named.items():
        if ".UP." in name:
            before = name.split(".UP.")[0]
            has_attention = any(other.startswith(f"{before}.1.") for other in named)
            name = name.replace(".UP.", ".2." if has_attention else ".1.")
        result[f"model.diffusion_model.{name}"] = tensor
    return result


def _vae(tensors: dict[str, Tensor], blocks: int) -> dict[str, Tensor]:
    result = {}
    for name, tensor in tensors.items():
        original = vae_name(name, blocks)
        is_linear = "mid.attn_1" in original and original.endswith("weight") and tensor.dim() == 2
        result[f"first_stage_model.{original}"] = tensor[:, :, None, None] if is_linear else tensor
    return result


def _open_clip(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    result: dict[str, Tensor] = {}
    parts: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        name = name.removeprefix("text_model.")
        if match := re.fullmatch(r"encoder\.layers\.(\d+)\.self_attn\.([qkv])_proj\.(weight|bias)", name):
            parts.setdefault(f"transformer.resblocks.{match[1]}.attn.in_proj_{match[3]}", {})[match[2]] = tensor
            continue
        for old, new in (
            ("embeddings.token_embedding.weight", "token_embedding.weight"),
            ("embeddings.position_embedding.weight", "positional_embedding"),
            ("final_layer_norm", "ln_final"), ("text_projection.weight", "text_projection"),
            ("encoder.layers", "transformer.resblocks"), ("self_attn.out_proj", "attn.out_proj"),
            ("layer_norm1", "ln_1"), ("layer_norm2", "ln_2"), ("mlp.fc1", "mlp.c_fc"), ("mlp.fc2", "mlp.c_proj"),
        ):  # fmt: skip
            name = name.replace(old, new)
        result[prefix + name] = tensor.T.contiguous() if name == "text_projection" else tensor
    for name, three in parts.items():
        result[prefix + name] = torch.cat([three[letter] for letter in "qkv"])
    return result


def _folder_tensors(folder: Path) -> dict[str, Tensor]:
    [file] = folder.glob("*.safetensors")
    return load_file(file)


def _config(folder: Path) -> dict[str, Any]:
    return {
        key: value for key, value in json.loads((folder / "config.json").read_text()).items() if not key.startswith("_")
    }


def single_file(folder: Path, file: Path, **more: Tensor) -> dict[str, Any]:
    """Write a checkpoint folder as one file; the result is what single_file.json would say of it."""
    xl = (folder / "text_encoder_2").exists()
    unet, vae = _config(folder / "unet"), _config(folder / "vae")
    tensors = _unet(_folder_tensors(folder / "unet"), unet["layers_per_block"])
    tensors |= _vae(_folder_tensors(folder / "vae"), len(vae["block_out_channels"]))
    text = "conditioner.embedders.0.transformer." if xl else "cond_stage_model.transformer."
    for name, tensor in _folder_tensors(folder / "text_encoder").items():
        tensors[f"{text}text_model.{name.removeprefix('text_model.')}"] = tensor
    parts = {"unet": unet, "vae": vae, "text_encoder": _config(folder / "text_encoder")}
    prefixes = {"unet": "model.diffusion_model.", "vae": "first_stage_model.", "text_encoder": text}
    if xl:
        prefixes["text_encoder_2"] = "conditioner.embedders.1.model."
        tensors |= _open_clip(_folder_tensors(folder / "text_encoder_2"), prefixes["text_encoder_2"])
        parts["text_encoder_2"] = _config(folder / "text_encoder_2")
    save_file({name: tensor.contiguous() for name, tensor in (tensors | more).items()}, file)
    return {**parts, "prefixes": prefixes}

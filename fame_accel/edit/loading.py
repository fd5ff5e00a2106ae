"""A pipeline from a checkpoint: classes of diffusers and transformers alone, and no code of the folder."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import torch

from fame_accel.core.limits import WAN_TEXT_TOKENS
from fame_accel.edit.checkpoint import CLASSES, TEXT_ENCODERS, TOKENIZERS, WAN_CLASSES, Checkpoint
from fame_accel.edit.clip_tokenizer import clip_tokenizer
from fame_accel.edit.options import one_or_list
from fame_accel.edit.single_file import load_components
from fame_accel.media.loading import LOCAL, load_diffusers_model, load_transformers_model, loading
from fame_accel.media.packages import require


def load_pipeline(checkpoint: Checkpoint, controlnets: Sequence[Checkpoint], dtype: torch.dtype) -> Any:
    """The pipeline of a checkpoint, loaded from safetensors alone and without the network.

    Args:
        checkpoint: as `find_checkpoint` gives it.
        controlnets: as `find_controlnet` gives them.
        dtype: of the weights.

    Returns:
        A FameVideoEditPipeline, a FameVideoEditXLPipeline for a checkpoint of Stable Diffusion XL, or a
        FameWanVideoEditPipeline for one of Wan.

    Raises:
        ValueError: a part cannot be loaded, or its weights are not those of its config.
    """
    from fame_accel.pipeline import FameVideoEditPipeline, FameVideoEditXLPipeline

    if checkpoint.is_wan:
        return _load_wan(checkpoint, dtype)
    file, folder, index = checkpoint.single_file, checkpoint.folder, checkpoint.index
    networks = [
        load_diffusers_model(network.kind, network.folder, network.weights["controlnet"], dtype, "--controlnet")
        for network in controlnets
    ]
    parts: dict[str, Any] = {"controlnet": one_or_list(networks)}
    if not networks and (index.get("controlnet") or [None])[0]:
        print(f"fame-accel: without --controlnet {folder / 'controlnet'}, it is not used", file=sys.stderr)
    if file is not None:
        parts.update(load_components(file, checkpoint.kind, dtype))
        return (FameVideoEditXLPipeline if checkpoint.xl else FameVideoEditPipeline)(**parts)
    for name, weights in checkpoint.weights.items():
        load = load_transformers_model if name in TEXT_ENCODERS[True] else load_diffusers_model
        parts[name] = load(CLASSES[name][0], folder / name, weights, dtype, "--model")
    parts.update(zip(TOKENIZERS[checkpoint.xl], load_tokenizers(checkpoint), strict=True))
    parts["scheduler"] = _load_scheduler(checkpoint)
    if not checkpoint.xl:
        return FameVideoEditPipeline(**parts)
    zeros = index.get("force_zeros_for_empty_prompt", True)
    return FameVideoEditXLPipeline(**parts, force_zeros_for_empty_prompt=zeros)


def _load_scheduler(checkpoint: Checkpoint) -> Any:
    folder = checkpoint.folder / "scheduler"
    scheduler = getattr(require("diffusers", "diffusers"), checkpoint.index["scheduler"][1])
    with loading(f"--model: {folder}"):
        return scheduler.from_pretrained(folder, local_files_only=True)


def _load_wan(checkpoint: Checkpoint, dtype: torch.dtype) -> Any:
    """The pipeline of a Wan. Its VAE is loaded in float32, in which it was trained."""
    from fame_accel.pipeline import FameWanVideoEditPipeline

    parts: dict[str, Any] = {}
    for name, weights in checkpoint.weights.items():
        load = load_transformers_model if name == "text_encoder" else load_diffusers_model
        kind = WAN_CLASSES[name.removesuffix("_2")][0]
        own = torch.float32 if name == "vae" else dtype
        parts[name] = load(kind, checkpoint.folder / name, weights, own, "--model")
    [parts["tokenizer"]] = load_tokenizers(checkpoint)
    settings = {
        name: checkpoint.index[name] for name in ("boundary_ratio", "expand_timesteps") if name in checkpoint.index
    }
    return FameWanVideoEditPipeline(**parts, scheduler=_load_scheduler(checkpoint), **settings)


def _load_wan_tokenizer(checkpoint: Checkpoint) -> Any:
    folder = checkpoint.folder / "tokenizer"
    transformers = require("transformers", "diffusers")
    with loading(f"--model: {folder}"):
        tokenizer = transformers.T5TokenizerFast.from_pretrained(folder, **LOCAL)
    tokenizer.model_max_length = WAN_TEXT_TOKENS  # the folders of Wan leave it open, their pipeline does not
    return tokenizer


def load_tokenizers(checkpoint: Checkpoint) -> list[Any]:
    """Load the checkpoint's tokenizers alone, which takes a fraction of a second."""
    if checkpoint.is_wan:
        return [_load_wan_tokenizer(checkpoint)]
    if checkpoint.single_file is not None:
        return [clip_tokenizer()] * len(TOKENIZERS[checkpoint.xl])
    transformers = require("transformers", "diffusers")
    tokenizers = []
    for name, encoder in zip(TOKENIZERS[checkpoint.xl], TEXT_ENCODERS[checkpoint.xl], strict=True):
        folder = checkpoint.folder / name
        with loading(f"--model: {folder}"):
            tokenizer = transformers.CLIPTokenizer.from_pretrained(folder, **LOCAL)
            config = transformers.CLIPTextConfig.from_pretrained(checkpoint.folder / encoder, **LOCAL)
        if (largest := max(tokenizer.get_vocab().values())) >= config.vocab_size:
            raise ValueError(
                f"--model: {folder} must have at most the {config.vocab_size} entries of {encoder}'s embeddings, got "
                f"{largest + 1}: save the text encoder again after the tokens that were added"
            )
        tokenizers.append(tokenizer)
    return tokenizers

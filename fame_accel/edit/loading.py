"""A pipeline from a checkpoint: classes of diffusers and transformers alone, and no code of the folder."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import torch

from fame_accel.edit.checkpoint import CLASSES, TEXT_ENCODERS, TOKENIZERS, Checkpoint
from fame_accel.edit.options import one_or_list
from fame_accel.media.loading import LOCAL, load_diffusers_model, load_transformers_model, loading
from fame_accel.media.packages import require


def load_pipeline(checkpoint: Checkpoint, controlnets: Sequence[Checkpoint], dtype: torch.dtype) -> Any:
    """The pipeline of a checkpoint, loaded from safetensors alone and without the network.

    Args:
        checkpoint: as `find_checkpoint` gives it.
        controlnets: as `find_controlnet` gives them.
        dtype: of the weights.

    Returns:
        A FameVideoEditPipeline, or a FameVideoEditXLPipeline for a checkpoint of Stable Diffusion XL.

    Raises:
        ValueError: a part cannot be loaded, or its weights are not those of its config.
    """
    from fame_accel.pipeline import FameVideoEditPipeline, FameVideoEditXLPipeline

    folder, index = checkpoint.folder, checkpoint.index
    networks = [
        load_diffusers_model(network.kind, network.folder, network.weights["controlnet"], dtype, "--controlnet")
        for network in controlnets
    ]
    parts: dict[str, Any] = {"controlnet": one_or_list(networks)}
    if not networks and (index.get("controlnet") or [None])[0]:
        print(f"fame-accel: without --controlnet {folder / 'controlnet'}, it is not used", file=sys.stderr)
    for name, weights in checkpoint.weights.items():
        load = load_transformers_model if name in TEXT_ENCODERS[True] else load_diffusers_model
        parts[name] = load(CLASSES[name][0], folder / name, weights, dtype, "--model")
    parts.update(zip(TOKENIZERS[checkpoint.xl], load_tokenizers(checkpoint), strict=True))
    scheduler = getattr(require("diffusers", "diffusers"), index["scheduler"][1])
    with loading(f"--model: {folder / 'scheduler'}"):
        parts["scheduler"] = scheduler.from_pretrained(folder / "scheduler", local_files_only=True)
    if not checkpoint.xl:
        return FameVideoEditPipeline(**parts)
    zeros = index.get("force_zeros_for_empty_prompt", True)
    return FameVideoEditXLPipeline(**parts, force_zeros_for_empty_prompt=zeros)


def load_tokenizers(checkpoint: Checkpoint) -> list[Any]:
    """Load the checkpoint's tokenizers alone, which takes a fraction of a second."""
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

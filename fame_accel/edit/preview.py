"""What an edit would work on, as one picture, without its networks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from fame_accel.edit.options import EditOptions
from fame_accel.edit.prepare import prepare
from fame_accel.edit.target import check_outputs
from fame_accel.fairness.tokens import max_length, tokenize
from fame_accel.media.outputs import atomic_write
from fame_accel.media.pictures import mask_overlay


def preview_edit(options: EditOptions) -> Path:
    """Draw the frames as they are cropped and resized, their regions, and the phrase and tokens of each region.

    Args:
        options: of the edit.

    Returns:
        The picture, a PNG beside options.out.

    Raises:
        ValueError, RuntimeError, ImportError: as the edit would raise them before its networks are loaded.
    """
    outputs = check_outputs(options)
    ready = prepare(options, outputs, {})
    inputs = ready.inputs
    masks, legend = inputs.masks, [region_line(name, options, ready.tokenizers[0]) for name in inputs.names]
    left_out = ~masks.any(0)
    if left_out.any() and not options.no_rest:
        masks, legend = torch.cat([masks, left_out[None]]), [*legend, "rest of the frame"]
    with atomic_write(outputs.preview) as temporary:
        mask_overlay(temporary, inputs.video.frames, masks, legend)
    return outputs.preview


def region_line(name: str, options: EditOptions, tokenizer: Any) -> str:
    """A region with its phrase and the tokens of the prompt that are bound to it: 'man: "a doctor" = a, doctor'."""
    phrase = options.region.get(name)
    if phrase is None:
        return f"{name}: no phrase"
    prompt = tokenize(tokenizer, options.prompt, max_length(tokenizer), pad=False)
    tokens = tokenizer.convert_ids_to_tokens(prompt.ids[prompt.find(phrase)].tolist())
    return f'{name}: "{phrase}" = {", ".join(token.removesuffix("</w>").removeprefix("▁") for token in tokens)}'

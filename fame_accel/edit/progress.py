"""One progress bar for inversion, editing and decoding."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from fame_accel.media.packages import require


@contextmanager
def progress(pipeline: Any, frames: int, steps: int, guided: bool, inverted: int = 0, edited: int = 0) -> Iterator[Any]:
    """Show a tqdm bar that counts each pass of a frame through the UNet or the VAE's decoder.

    It replaces the pipeline's own bars. Because it counts passes, its estimate of the time left allows for steps of
    editing being slower than steps of inversion.

    Args:
        pipeline: a FameVideoEditPipeline or its XL variant.
        frames: number of frames of the clip.
        steps: of inversion, and as many of editing.
        guided: whether a step of editing takes each frame twice.
        inverted, edited: steps of either that were made before.
    """
    passes = 2 if guided else 1  # of a frame in a step of editing
    total, before = frames * (steps * (1 + passes) + 1), frames * (inverted + edited * passes)
    pipeline.set_progress_bar_config(disable=True)
    with ExitStack() as stack:
        bar = stack.enter_context(
            require("tqdm", "diffusers").tqdm(total=total, initial=before, unit="frame", desc="inverting")
        )

        def count(_module: torch.nn.Module, inputs: tuple[Tensor, ...], _output: Any) -> None:
            bar.update(len(inputs[0]))

        for module in (pipeline.unet, pipeline.vae.decoder):
            stack.callback(module.register_forward_hook(count).remove)
        yield bar

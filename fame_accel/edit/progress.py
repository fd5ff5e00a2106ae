"""One progress bar over inversion, editing and decoding."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from fame_accel.media.packages import require


@contextmanager
def progress(pipeline: Any, frames: int, steps: int, guided: bool) -> Iterator[Any]:
    """A tqdm bar that counts the passes of a frame through the UNet, and through the VAE's decoder.

    frames: F. steps: of inversion and of editing. guided: whether an editing step takes each frame twice. So the time
    left allows for the longer steps of editing; the pipeline's own bars are off.
    """
    total = frames * (steps * (3 if guided else 2) + 1)
    pipeline.set_progress_bar_config(disable=True)
    with ExitStack() as stack:
        bar = stack.enter_context(require("tqdm", "diffusers").tqdm(total=total, unit="frame", desc="inverting"))

        def count(_: torch.nn.Module, inputs: tuple[Tensor, ...], __: Any) -> None:
            bar.update(len(inputs[0]))

        for module in (pipeline.unet, pipeline.vae.decoder):
            stack.callback(module.register_forward_hook(count).remove)
        yield bar

"""FAME attention in a UNet that sees the frames of a clip as its batch: processors that take over its layers."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from fame_accel.adapter.config import FameConfig
from fame_accel.adapter.handle import FameHandle, handle_of
from fame_accel.adapter.levels import halvings
from fame_accel.adapter.processors import FameCrossAttnProcessor, FameSelfAttnProcessor
from fame_accel.adapter.state import FameState, Layer
from fame_accel.adapter.steps import run_before

_FORWARD = ("sample", "timestep", "encoder_hidden_states")


class FameUNetHandle(FameHandle):
    """What `apply_fame` returns for a UNet that sees the frames of a clip as its batch.

    Attributes:
        processors: the installed ones by their diffusers name.
        config: as given.
    """

    def __init__(self, called: torch.nn.Module, unet: UNet2DConditionModel, config: FameConfig) -> None:
        super().__init__(config)
        self._unet = unet
        self._originals = dict(unet.attn_processors)
        self.processors: dict[str, FameSelfAttnProcessor | FameCrossAttnProcessor] = {}
        layers = []
        for name, original in self._originals.items():
            processor = self._processor_for(name)
            if processor is not None:
                processor.original = original
                self.processors[name] = processor
                attn = unet.get_submodule(name.removesuffix(".processor"))
                head_dim = attn.inner_dim // attn.heads
                layers.append(Layer(processor, halvings(name, len(unet.config.down_block_types)), head_dim))
        self._state = FameState(config, layers)
        unet.set_attn_processor(self._originals | self.processors)
        self._register(unet)
        self._stop = run_before(called, self._before_forward)

    def _processor_for(self, name: str) -> FameSelfAttnProcessor | FameCrossAttnProcessor | None:
        if name.endswith(".attn1.processor") and self.config.self_modulation is not None:
            return FameSelfAttnProcessor()
        if name.endswith(".attn2.processor") and self.config.token_regions is not None:
            return FameCrossAttnProcessor()
        return None

    def restore(self) -> None:
        if self._models:
            self.forget()
            self._unet.set_attn_processor(dict(self._originals))
            state = self._state
            if state.steps and not state.active_steps and self.config.active_fraction > 0:
                threshold = (1 - self.config.active_fraction) * self.config.num_train_timesteps
                warnings.warn(
                    f"none of the {state.steps} steps was modulated: no timestep reached {threshold:g}; "
                    "take more steps or raise active_fraction",
                    stacklevel=2,
                )

    def forget(self) -> None:
        """Stop watching the model, and leave its processors as they are."""
        self._stop()
        self._unregister()

    @property
    def is_lost(self) -> bool:
        """Whether none of the installed processors is left."""
        current = self._unet.attn_processors
        return not any(current.get(name) is processor for name, processor in self.processors.items())

    def _before_forward(self, args: tuple, kwargs: dict[str, Any]) -> None:
        current = self._unet.attn_processors
        lost = [name for name, processor in self.processors.items() if current.get(name) is not processor]
        if lost:
            raise RuntimeError(
                f"FAME's processor was replaced in {len(lost)} layers, {lost[0]} among them. "
                "fuse_qkv_projections, set_attention_slice, xformers, set_attn_processor, enable_free_noise and "
                "load_ip_adapter do that: undo it, restore() this handle and call apply_fame again"
            )
        sample, timestep, text = (_argument(args, kwargs, i, name) for i, name in enumerate(_FORWARD))
        self._state.paused = self._paused
        self._state.prepare(sample, timestep, text)


def apply_to_unet(called: torch.nn.Module, unet: UNet2DConditionModel, config: FameConfig) -> FameUNetHandle:
    """Install FAME attention on a UNet that is called as `called`, which may be torch.compile's wrapper of it.

    Raises:
        RuntimeError: it could not work with the processors that are there.
    """
    previous = handle_of(unet)
    if isinstance(previous, FameUNetHandle) and previous.is_lost:
        previous.forget()  # nothing of it is left to restore
    elif previous is not None:
        raise RuntimeError("FAME attention is installed already: restore() its handle, or call restore_fame(), first")
    for name, processor in unet.attn_processors.items():
        kind = type(processor).__name__
        if "IPAdapter" in kind:
            raise RuntimeError(f"{name} is a {kind}: FAME does not support IP-Adapter, unload it first")
        if kind.startswith("Fused"):
            raise RuntimeError(f"{name} is a {kind}: call unfuse_qkv_projections() first")
    return FameUNetHandle(called, unet, config)


def _argument(args: tuple, kwargs: dict[str, Any], position: int, name: str) -> Tensor | Any:
    if len(args) > position:
        return args[position]
    if name in kwargs:
        return kwargs[name]
    raise TypeError(f"the UNet was called without {name}")

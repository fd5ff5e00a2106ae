"""apply_fame: install the processors on a UNet and keep watch that they stay."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from fame_accel.adapter.config import FameConfig
from fame_accel.adapter.processors import FameCrossAttnProcessor, FameSelfAttnProcessor
from fame_accel.adapter.state import FameState, Layer


class FameHandle:
    """What `apply_fame` returns; `restore()`, or leaving the `with` block, puts the former processors back.

    Attributes:
        processors: the installed ones by their diffusers name.
        config: as given.
    """

    def __init__(self, called: torch.nn.Module, unet: UNet2DConditionModel, config: FameConfig) -> None:
        self.config = config
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
                layers.append(Layer(processor, _halvings(name, len(unet.config.down_block_types)), head_dim))
        if not self.processors:
            raise ValueError("config modulates neither self- nor cross-attention: set self_modulation or token_regions")
        self._state = FameState(config, layers)
        unet.set_attn_processor(self._originals | self.processors)
        _HANDLES[unet] = self
        self._hook: Any = called.register_forward_pre_hook(self._before_forward, with_kwargs=True)

    def _processor_for(self, name: str) -> FameSelfAttnProcessor | FameCrossAttnProcessor | None:
        if name.endswith(".attn1.processor") and self.config.self_modulation is not None:
            return FameSelfAttnProcessor()
        if name.endswith(".attn2.processor") and self.config.token_regions is not None:
            return FameCrossAttnProcessor()
        return None

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Within the block every step is plain, whatever its timestep: for a separate unconditional pass."""
        self._state.paused = True
        try:
            yield
        finally:
            self._state.paused = False

    def restore(self) -> None:
        """Put the former processors back; a second call does nothing."""
        if self._hook is not None:
            self._hook.remove()
            self._hook = None
            _HANDLES.pop(self._unet, None)
            self._unet.set_attn_processor(dict(self._originals))
            state = self._state
            if state.steps and not state.active_steps and self.config.active_fraction > 0:
                threshold = (1 - self.config.active_fraction) * self.config.num_train_timesteps
                warnings.warn(
                    f"none of the {state.steps} steps was modulated: no timestep reached {threshold:g}; "
                    "take more steps or raise active_fraction",
                    stacklevel=2,
                )

    def __enter__(self) -> FameHandle:
        return self

    def __exit__(self, *exception: object) -> None:
        self.restore()

    def _before_forward(self, _: torch.nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        current = self._unet.attn_processors
        lost = [name for name, processor in self.processors.items() if current.get(name) is not processor]
        if lost:
            raise RuntimeError(
                f"FAME's processor was replaced in {len(lost)} layers, {lost[0]} among them. "
                "fuse_qkv_projections, set_attention_slice, xformers, set_attn_processor, enable_free_noise and "
                "load_ip_adapter do that: undo it, restore() this handle and call apply_fame again"
            )
        sample, timestep, text = (_argument(args, kwargs, i, name) for i, name in enumerate(_FORWARD))
        self._state.prepare(sample, timestep, text)


_HANDLES: WeakKeyDictionary[torch.nn.Module, FameHandle] = WeakKeyDictionary()
_FORWARD = ("sample", "timestep", "encoder_hidden_states")


def apply_fame(model_or_pipeline: Any, config: FameConfig) -> FameHandle:
    """Give a pipeline's UNet FAME attention. Needs the `diffusers` extra.

    A model wrapped by torch.compile, or with compile_repeated_blocks, keeps its compiled code from step to step and
    from clip to clip.

    Args:
        model_or_pipeline: a diffusers UNet2DConditionModel, or a pipeline with one as `.unet` (StableDiffusionPipeline,
            Img2Img, ControlNet, ControlNetImg2Img). It must be called with the frames of the clip as its batch: a list
            with the prompt once per frame.
        config: the regions, modulations and schedule of the edit.

    Returns:
        A handle with `.restore()`, usable in a `with` statement.

    Raises:
        TypeError: another model.
        RuntimeError: FAME attention is installed already, or could not work with the processors that are.
    """
    if not isinstance(config, FameConfig):
        raise TypeError(f"config must be a FameConfig, got {type(config).__name__}")
    called = getattr(model_or_pipeline, "unet", model_or_pipeline)
    unet = getattr(called, "_orig_mod", called)  # torch.compile's wrapper: the hook must run outside, uncompiled
    if not isinstance(unet, UNet2DConditionModel):
        raise TypeError(
            "model_or_pipeline must be a UNet2DConditionModel or a pipeline with one as .unet, "
            f"got {type(model_or_pipeline).__name__}"
        )
    previous = _HANDLES.get(unet)
    if previous is not None:
        if any(unet.attn_processors.get(name) is processor for name, processor in previous.processors.items()):
            raise RuntimeError(
                "FAME attention is installed already: restore() its handle, or call restore_fame(), first"
            )
        previous._hook.remove()  # its processors were all replaced: nothing of it is left to restore
    for name, processor in unet.attn_processors.items():
        kind = type(processor).__name__
        if "IPAdapter" in kind:
            raise RuntimeError(f"{name} is a {kind}: FAME does not support IP-Adapter, unload it first")
        if kind.startswith("Fused"):
            raise RuntimeError(f"{name} is a {kind}: call unfuse_qkv_projections() first")
    return FameHandle(called, unet, config)


def restore_fame(model_or_pipeline: Any) -> None:
    """Undo `apply_fame` without its handle; does nothing where FAME attention is not installed."""
    called = getattr(model_or_pipeline, "unet", model_or_pipeline)
    handle = _HANDLES.get(getattr(called, "_orig_mod", called))
    if handle is not None:
        handle.restore()


def _halvings(name: str, levels: int) -> int:
    """How often the latents are halved on the way to a layer of a UNet with so many levels."""
    block, _, rest = name.partition(".")
    if block == "mid_block":
        return levels - 1
    index = rest.partition(".")[0]
    if block not in ("down_blocks", "up_blocks") or not index.isdigit():
        raise ValueError(f"model_or_pipeline has an attention layer in a place unknown to FAME: {name}")
    return int(index) if block == "down_blocks" else levels - 1 - int(index)


def _argument(args: tuple, kwargs: dict[str, Any], position: int, name: str) -> Tensor | Any:
    if len(args) > position:
        return args[position]
    if name in kwargs:
        return kwargs[name]
    raise TypeError(f"the UNet was called without {name}")

"""FAME attention in video transformers: one model, or the models of a pipeline."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch

from fame_accel.adapter.config import FameConfig
from fame_accel.adapter.families import VideoFamily
from fame_accel.adapter.handle import FameHandle, uncompiled
from fame_accel.adapter.hook import AttentionHook, hook_attention
from fame_accel.adapter.motion import MotionFamily, MotionState
from fame_accel.adapter.steps import CallNames, Steps, run_before
from fame_accel.adapter.video_state import VideoState


class FameVideoHandle(FameHandle):
    """What `apply_fame` returns for a video transformer.

    Attributes:
        layers: the modulated attention modules by name.
        config, family: as given or found in the table.
    """

    def __init__(
        self,
        models: Sequence[torch.nn.Module],
        family: VideoFamily | MotionFamily,
        config: FameConfig,
        pipeline: Any | None,
    ) -> None:
        super().__init__(config)
        self.family = family
        self._steps = Steps(config, family, getattr(pipeline, "scheduler", None))
        self._in_pipeline = pipeline is not None
        self._installed: list[_Installed] = []
        try:
            for called in models:
                self._installed.append(_Installed(called, self._steps, self._plain_items, family, config))
                self._register(called)
        except BaseException:
            self.restore()
            raise

    @property
    def layers(self) -> dict[str, torch.nn.Module]:
        """The modulated attention modules by name."""
        return {name: layer for one in self._installed for name, layer in one.hook.layers.items()}

    def restore(self) -> None:
        installed, self._installed = self._installed, []
        for one in reversed(installed):
            one.restore()
        self._unregister()
        steps = self._steps
        if installed and steps.count and not steps.active_count and self.config.active_fraction > 0:
            warnings.warn(
                f"none of the {steps.count} steps was modulated: raise active_fraction, or start with more noise",
                stacklevel=2,
            )

    def _plain_items(self, latents: torch.Tensor, unconditional: bool) -> int:
        """How many items of a batch, from the first on, get plain attention."""
        batch = len(latents)
        if self._paused or not self._steps.active:
            return batch
        if self.config.guidance == "all":
            return 0
        if self.family.guidance == "batched":
            return self._unconditional_half(latents)
        if self.family.guidance == "ordered":
            unconditional = self._in_pipeline and self._steps.repeated
        return batch if unconditional else 0

    def _unconditional_half(self, latents: torch.Tensor) -> int:
        batch = len(latents)
        half = batch // 2
        if batch == 1:
            return 0
        if batch % 2 or not torch.equal(latents[:half], latents[half:]):
            raise ValueError(
                f"the batch of {batch} is not twice the same latents, as under guidance, so that guidance="
                "'conditional' cannot tell the conditional half: use guidance='all'"
            )
        return half


class _Installed:
    """One model's hook, and what it is told before each call."""

    def __init__(
        self,
        called: torch.nn.Module,
        steps: Steps,
        plain_items: Callable[[torch.Tensor, bool], int],
        family: VideoFamily | MotionFamily,
        config: FameConfig,
    ) -> None:
        model: Any = uncompiled(called)
        self._signature = inspect.signature(type(model).forward)
        self._model = model
        self._steps = steps
        self._plain_items = plain_items
        self._power = config.power
        self._latents = family.latents
        self._state = (
            MotionState(config, family, model.config)
            if isinstance(family, MotionFamily)
            else VideoState(config, family, model.config)
        )
        self.hook: AttentionHook = hook_attention(model, self._state.select)
        self._names = CallNames(model)
        self._stop = run_before(called, self._before)

    def _before(self, args: tuple, kwargs: dict[str, Any]) -> None:
        self.hook.check()
        arguments = self._signature.bind(self._model, *args, **kwargs).arguments
        arguments.update(arguments.pop("kwargs", {}))
        self._steps.advance(arguments["timestep"])
        plain = self._plain_items(arguments[self._latents], self._names.unconditional)
        schedule = max(self._steps.noise, 0.0) ** self._power
        if isinstance(self._state, MotionState):
            self._state.prepare(arguments, schedule, plain)
        else:
            self._state.prepare(arguments, schedule, plain, *self._ranks())

    def _ranks(self) -> tuple[int, int]:
        """This process's rank, and the number of ranks, where diffusers divides the tokens among several."""
        processors = (layer.processor for layer in self.hook.layers.values())
        parallel = next((getattr(one, "_parallel_config", None) for one in processors), None)
        config = None if parallel is None else parallel.context_parallel_config
        return (0, 1) if config is None else (config._rank, config._world_size)

    def restore(self) -> None:
        """Undo it."""
        self._stop()
        self._names.restore()
        self.hook.restore()

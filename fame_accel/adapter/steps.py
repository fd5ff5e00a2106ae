"""Where in its denoising a video model is: the step, its noise level, and which calls are the prompt's."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from fame_accel.adapter.config import FameConfig
from fame_accel.adapter.families import Family

_ROUNDING = 0.005  # of timesteps in bfloat16


class Steps:
    """Steps of a model's runs, counted from its calls.

    With a pipeline, a step's index is its place among the timesteps of the scheduler. A bare model's steps are counted
    from the first call on: another noise level is the next step, and more noise than before is a new run.

    Attributes:
        noise: level of the last call, in [0, 1].
        active: whether the last call's step is modulated.
        repeated: whether the last call had the noise level of the one before, as a second call for guidance has.
        count, active_count: how many steps there were, and how many of them were active.
    """

    def __init__(self, config: FameConfig, family: Family, scheduler: Any) -> None:
        self._config = config
        self._family = family
        self._scheduler = scheduler
        self._index = -1
        self.noise = -1.0
        self.active = False
        self.repeated = False
        self.count = 0
        self.active_count = 0

    def advance(self, timestep: Tensor | float) -> None:
        """Take note of a call with this timestep; of several, the greatest counts."""
        step = float(timestep.max()) if isinstance(timestep, Tensor) else float(timestep)
        noise = self._family.noise(step, self._scheduler)
        if not -1e-3 <= noise <= 1 + 1e-3:
            raise ValueError(f"timestep {step:g} is noise level {noise:g} of {self._family.name}, not one in [0, 1]")
        self.repeated = noise == self.noise
        if not self.repeated:
            self._index = 0 if noise > self.noise else self._index + 1
            self.noise = noise
            index, total = self._place(noise)
            share = self._config.active_fraction
            self.active = share > 0 and index < max(1, round(share * total))
            self.count += 1
            self.active_count += self.active

    def _place(self, noise: float) -> tuple[int, int]:
        """Index of the step, from the noisy end, and the number of steps."""
        timesteps = getattr(self._scheduler, "timesteps", None)
        if timesteps is None:
            return self._index, self._config.num_inference_steps
        levels = sorted({self._family.noise(float(step), self._scheduler) for step in timesteps}, reverse=True)
        nearest = min(range(len(levels)), key=lambda index: abs(levels[index] - noise))
        is_same = abs(levels[nearest] - noise) <= _ROUNDING  # some models are told other numbers than the scheduler's
        return nearest if is_same else self._index, len(levels)


class CallNames:
    """The name that a pipeline gives a call of its model by `model.cache_context(name)`: "cond", "uncond"."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.name: str | None = None
        self._model = model
        self._own: Callable[..., Any] | None = getattr(model, "cache_context", None)
        if self._own is not None:
            model.cache_context = self._listen  # type: ignore[assignment]

    @contextmanager
    def _listen(self, name: str, **details: Any) -> Iterator[None]:
        assert self._own is not None
        before, self.name = self.name, name
        try:
            with self._own(name, **details):
                yield
        finally:
            self.name = before

    @property
    def unconditional(self) -> bool:
        """Whether the call is for guidance alone."""
        return self.name is not None and "uncond" in self.name and self.name != "cond_uncond"

    def restore(self) -> None:
        """Stop listening."""
        if self._own is not None:
            del self._model.cache_context


def run_before(model: torch.nn.Module, function: Callable[[tuple, dict[str, Any]], None]) -> Callable[[], None]:
    """Call function(args, kwargs) before each call of a model, outside of what torch.compile compiles.

    Returns:
        What undoes it.
    """

    def hook(_: torch.nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        if model._compiled_call_impl is not None:
            raise RuntimeError("the model was compiled after apply_fame: call model.compile() first, then apply_fame")
        function(args, kwargs)

    compiled = model._compiled_call_impl
    if compiled is None:
        return model.register_forward_pre_hook(hook, with_kwargs=True).remove

    @functools.wraps(compiled)
    def call(*args: Any, **kwargs: Any) -> Any:
        function(args, kwargs)
        return compiled(*args, **kwargs)

    model._compiled_call_impl = call
    return functools.partial(setattr, model, "_compiled_call_impl", compiled)

"""The state of one model's processors: before each forward pass it gives every layer what that pass needs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from weakref import ref

import torch
from torch import Tensor

from fame_accel.adapter.config import FameConfig
from fame_accel.adapter.processors import FameCrossAttnProcessor, FameSelfAttnProcessor, LayerCall
from fame_accel.adapter.sizes import cross_size
from fame_accel.core.backend import resolve_backend
from fame_accel.core.distributed import group_rank, group_size
from fame_accel.core.layout import TokenLayout
from fame_accel.core.modulation import Modulation
from fame_accel.core.planning import find_plan

_ROUNDING = 0.01


@dataclass(frozen=True)
class Layer:
    """An attention layer of the model: its processor, how often the latents are halved on the way to it, its
    head_dim."""

    processor: FameSelfAttnProcessor | FameCrossAttnProcessor
    halvings: int
    head_dim: int

    @property
    def is_cross(self) -> bool:
        """Whether it attends to the text."""
        return isinstance(self.processor, FameCrossAttnProcessor)


@dataclass
class Resolution:
    """Layers of one size: their layouts, the size terms of their row strengths and the strengths of this step.

    `layout` is of the frames that this process has, `whole` of all. Sizes and strengths are float32
    [1, frames * tokens]; those of cross-attention are None where it is not modulated.
    """

    layout: TokenLayout
    whole: TokenLayout
    self_size: Tensor
    self_strength: Tensor
    cross_size: Tensor | None
    cross_strength: Tensor | None
    calls: dict[tuple[bool, int, torch.dtype], LayerCall] = field(default_factory=dict)


class FameState:
    """Shared by all processors of a model.

    Attributes:
        active: whether this step is modulated.
        paused: whether every step is plain.
        steps, active_steps: how many steps were prepared, and how many of them were active.
    """

    def __init__(self, config: FameConfig, layers: Sequence[Layer]) -> None:
        self.config = config
        self.layers = layers
        ranks = 1 if config.group is None else group_size(config.group)
        if config.layout.num_frames % ranks:
            raise ValueError(f"layout has {config.layout.num_frames} frames, which {ranks} ranks cannot divide")
        self.frames = config.layout.num_frames // ranks
        self._first_frame = 0 if config.group is None else self.frames * group_rank(config.group)
        self.active = False
        self.paused = False
        self.steps = 0
        self.active_steps = 0
        self._cross_modulation = config.cross_modulation or Modulation.videograin(
            config.layout.num_frames, key_frames=1
        )
        self._text_layout: TokenLayout | None = None
        self._text_weights: Tensor | None = None
        self._plain_parts = torch.zeros(1, dtype=torch.int64, device="cpu")
        self._resolutions: dict[tuple[int, int, torch.device], Resolution] = {}
        self._shared_text: tuple[Callable[[], Tensor | None], int | None] = (lambda: None, None)

    @torch.inference_mode(False)  # what is kept for later steps must be usable outside inference mode too
    @torch.no_grad()
    def prepare(self, sample: Tensor, timestep: Tensor | float | int, text: Tensor | None) -> None:
        """Prepare all layers for the latents [parts * frames, C, H, W], timestep and text embeddings of a pass."""
        parts = self._check_parts(sample)
        if isinstance(text, Tensor):
            self._check_one_prompt(text, parts)
        if self.config.token_regions is not None:
            self._prepare_text(text, sample.device)
        step = self._check_timestep(timestep)
        steps = self.config.num_train_timesteps
        self.active = not self.paused and step >= (1 - self.config.active_fraction) * steps
        self.steps += 1
        self.active_steps += self.active
        plain = parts if not self.active else parts - 1 if self.config.guidance == "conditional" else 0
        self._plain_parts.fill_(plain)
        schedule = (max(step - 1, 0.0) / steps) ** self.config.power
        for resolution in self._prepare_layers(sample, parts):
            torch.mul(resolution.self_size, self.config.self_factor * schedule, out=resolution.self_strength)
            if resolution.cross_size is not None and resolution.cross_strength is not None:
                torch.mul(resolution.cross_size, self.config.cross_factor * schedule, out=resolution.cross_strength)

    def _check_parts(self, sample: Tensor) -> int:
        """How many times the frames stand in the batch: 2 under classifier-free guidance."""
        batch = len(sample)
        if batch % self.frames or not batch:
            raise ValueError(
                f"layout has {self.frames} frames, but the model got a batch of {batch}: it must hold every frame "
                "once, or once per part of a guided batch"
            )
        parts = batch // self.frames
        if parts > 2 and self.config.guidance == "conditional":
            raise ValueError(
                f"the batch holds {parts} parts of {self.frames} frames, of which guidance='conditional' cannot "
                "tell the conditional one: use guidance='all'"
            )
        if parts > 1 and not torch.equal(sample[self.frames :], sample[: -self.frames]):
            raise ValueError(
                f"the batch of {batch} is {parts} times the layout's {self.frames} frames, but not the same "
                "latents repeated, as under guidance: the masks must have one frame for each frame of the clip"
            )
        return parts

    def _check_timestep(self, timestep: Tensor | float | int) -> float:
        step = float(timestep.flatten()[0]) if isinstance(timestep, Tensor) else float(timestep)
        if isinstance(timestep, Tensor) and timestep.numel() > 1 and bool((timestep != step).any()):
            raise ValueError("timestep must be the same for the whole batch")
        steps = self.config.num_train_timesteps
        if not 0 <= step <= steps:
            raise ValueError(f"timestep must lie in [0, num_train_timesteps = {steps}], got {step}")
        return step

    def _prepare_layers(self, sample: Tensor, parts: int) -> list[Resolution]:
        """Give every layer its call, and return the resolutions that have any."""
        device, dtype = sample.device, sample.dtype
        if torch.is_autocast_enabled(device.type):
            dtype = torch.get_autocast_dtype(device.type)
        resolutions: dict[int, Resolution] = {}
        for layer in self.layers:
            layer.processor.call = None
            if 1 << layer.halvings not in self.config.levels:
                continue
            if layer.halvings not in resolutions:
                height, width = sample.shape[2:]
                for _ in range(layer.halvings):
                    height, width = (height + 1) // 2, (width + 1) // 2
                resolutions[layer.halvings] = self._resolution(height, width, device)
            call = self._call(resolutions[layer.halvings], layer.is_cross, layer.head_dim, dtype)
            call.parts = parts
            layer.processor.call = call
        return list(resolutions.values())

    def _resolution(self, height: int, width: int, device: torch.device) -> Resolution:
        key = (height, width, device)
        if key not in self._resolutions:
            whole = self.config.layout.tokens(height, width, device)
            layout = self._own_part(whole, height * width)
            size = layout.size_regularization(whole)[None]
            cross = None if self._text_layout is None else cross_size(self.config, layout, self._text_layout)
            strengths = (None if x is None else torch.zeros_like(x) for x in (size, cross))
            self_strength, cross_strength = strengths
            assert self_strength is not None
            self._resolutions[key] = Resolution(layout, whole, size, self_strength, cross, cross_strength)
        return self._resolutions[key]

    def _own_part(self, whole: TokenLayout, tokens: int) -> TokenLayout:
        """The layout of this process's frames, of so many tokens each."""
        if self.config.group is None:
            return whole
        own = slice(self._first_frame * tokens, (self._first_frame + self.frames) * tokens)
        return TokenLayout(whole.region[0, own], whole.frame[0, own], whole.num_frames)

    def _call(self, resolution: Resolution, is_cross: bool, head_dim: int, dtype: torch.dtype) -> LayerCall:
        key = (is_cross, head_dim, dtype)
        if key not in resolution.calls:
            layout = resolution.layout
            backend = resolve_backend(self.config.backend, layout.device, dtype)
            if is_cross:
                key_layout, modulation = self._text_layout, self._cross_modulation
                strength, weight = resolution.cross_strength, self._text_weights
                assert key_layout is not None and strength is not None
            else:
                key_layout, modulation = resolution.whole, self.config.self_modulation or Modulation()
                strength, weight = resolution.self_strength, None
            plan = find_plan(layout, key_layout, modulation, backend, 1, head_dim, dtype, weight is not None)
            resolution.calls[key] = LayerCall(
                plan, 1, self.frames, strength, weight, self._plain_parts, self.config.group
            )
        return resolution.calls[key]

    def _prepare_text(self, text: Tensor | None, device: torch.device) -> None:
        if not isinstance(text, Tensor):
            raise RuntimeError(
                "encoder_hidden_states must be one tensor for FAME's cross-attention, got "
                f"{type(text).__name__}: IP-Adapter is not supported, unload it"
            )
        regions = self.config.token_regions
        assert regions is not None
        if text.shape[1] != len(regions):
            raise ValueError(f"token_regions has {len(regions)} tokens, but the text embeddings have {text.shape[1]}")
        if self._text_layout is None or self._text_layout.device != device:
            regions = regions.to(device)
            self._text_layout = TokenLayout(regions, torch.zeros_like(regions), 1)
            weights = self.config.token_weights
            self._text_weights = None if weights is None else weights.to(device, torch.float32)[None]

    def _check_one_prompt(self, text: Tensor, parts: int) -> None:
        """ValueError unless every frame of a part has the same text embeddings."""
        version = None if text.is_inference() else text._version
        known, known_version = self._shared_text
        if version is not None and known() is text and known_version == version:  # once per edit, not per step
            return
        if len(text) != parts * self.frames:
            raise ValueError(
                f"the text embeddings have batch {len(text)}, but the latents have {parts * self.frames}: "
                "pass the prompt once per frame, [prompt] * frames"
            )
        by_part = text.unflatten(0, (parts, self.frames))
        difference, size = (x.abs().amax((0, 1, 2)) for x in (by_part - by_part[:, :1], by_part))
        if bool((difference > _ROUNDING * size).any()):  # a batched text encoder rounds its rows differently
            raise ValueError(
                f"the {self.frames} frames of a clip must share one prompt and one negative prompt, "
                "but their text embeddings differ"
            )
        self._shared_text = (ref(text), version)

"""What the processors of one model need to know about the current step; set before each forward pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from weakref import ref

import torch
from torch import Tensor

from fame_accel.adapter.config import FameConfig
from fame_accel.core.layout import TokenLayout
from fame_accel.core.modulation import Modulation

_ROUNDING = 0.01


@dataclass
class Level:
    """One resolution: its layout and the row strengths of this step, [tokens of all frames] in [0, 1].

    The strengths are updated in place, so that a compiled model reads them as inputs and is not compiled again.
    """

    layout: TokenLayout
    self_size: Tensor
    self_strength: Tensor
    cross_size: Tensor | None
    cross_strength: Tensor | None


class FameState:
    """Shared by all processors of a model. `active`: whether this step is modulated; `chunks`: how many times the
    frames stand in the batch (2 under classifier-free guidance); `paused`: every step is plain; `steps`,
    `active_steps`: how many were prepared."""

    def __init__(self, config: FameConfig) -> None:
        self.config = config
        self.frames = config.layout.num_frames
        self.active = False
        self.paused = False
        self.chunks = 1
        self.steps = 0
        self.active_steps = 0
        self.cross_modulation = config.cross_modulation or Modulation.videograin(self.frames, key_frames=1)
        self.text_layout: TokenLayout | None = None
        self.text_weights: Tensor | None = None
        self._levels: dict[tuple[int, int, torch.device], Level] = {}
        self._current: dict[int, Level] = {}
        self._sizes: set[int] = set()
        self._shared_text: tuple[Callable[[], Tensor | None], int | None] = (lambda: None, None)

    @torch.inference_mode(False)  # what is kept for later steps must be usable outside inference mode too
    @torch.no_grad()
    def prepare(self, sample: Tensor, timestep: Tensor | float | int, text: Tensor | None) -> None:
        """Take over the batch [chunks * frames, C, H, W], the timestep and the text embeddings of a step."""
        batch, _, height, width = sample.shape
        if batch % self.frames:
            raise ValueError(
                f"layout has {self.frames} frames, but the model got a batch of {batch}: it must hold every frame "
                "once, or once per part of a guided batch"
            )
        self.chunks = batch // self.frames
        if self.chunks > 2 and self.config.guidance == "conditional":
            raise ValueError(
                f"the batch holds {self.chunks} parts of {self.frames} frames, of which guidance='conditional' cannot "
                "tell the conditional one: use guidance='all'"
            )
        if self.chunks > 1 and not torch.equal(sample[self.frames :], sample[: -self.frames]):
            raise ValueError(
                f"the batch of {batch} is {self.chunks} times the layout's {self.frames} frames, but not the same "
                "latents repeated, as under guidance: the masks must have one frame for each frame of the clip"
            )
        if isinstance(text, Tensor):
            self._check_one_prompt(text)
        if self.config.token_regions is not None:
            self._prepare_text(text, sample.device)
        step = float(timestep.flatten()[0]) if isinstance(timestep, Tensor) else float(timestep)
        if isinstance(timestep, Tensor) and timestep.numel() > 1 and bool((timestep != step).any()):
            raise ValueError("timestep must be the same for the whole batch")
        steps = self.config.num_train_timesteps
        if not 0 <= step <= steps:
            raise ValueError(f"timestep must lie in [0, num_train_timesteps = {steps}], got {step}")
        self.active = not self.paused and step >= (1 - self.config.active_fraction) * steps
        self.steps += 1
        self.active_steps += self.active
        self._prepare_levels(height, width, sample.device)
        schedule = max(step - 1, 0.0) / steps
        schedule **= self.config.power
        for level in self._current.values():
            torch.mul(level.self_size, self.config.self_factor * schedule, out=level.self_strength)
            if level.cross_size is not None:
                torch.mul(level.cross_size, self.config.cross_factor * schedule, out=level.cross_strength)

    def level(self, tokens: int) -> Level | None:
        """The configured level with that many tokens a frame, None for a layer to leave alone."""
        if tokens not in self._sizes:
            raise ValueError(
                f"a layer has {tokens} tokens a frame, but halving the latents gives {sorted(self._sizes)}: "
                "methods that merge or drop tokens cannot be combined with FAME"
            )
        return self._current.get(tokens)

    def _prepare_levels(self, height: int, width: int, device: torch.device) -> None:
        self._current, self._sizes = {}, set()
        for shift in range(8):
            tokens = height * width
            if 1 << shift in self.config.levels and tokens not in self._current:
                self._current[tokens] = self._level(height, width, device)
            self._sizes.add(tokens)
            height, width = (height + 1) // 2, (width + 1) // 2

    def _level(self, height: int, width: int, device: torch.device) -> Level:
        key = (height, width, device)
        if key not in self._levels:
            layout = self.config.layout.tokens(height, width, device)
            size = layout.size_regularization()
            cross = None if self.text_layout is None else self._cross_size(layout)
            spare = None if cross is None else torch.zeros_like(cross)
            self._levels[key] = Level(layout, size, torch.zeros_like(size), cross, spare)
        return self._levels[key]

    def _cross_size(self, layout: TokenLayout) -> Tensor:
        if self.config.cross_size == "tokens":
            return layout.size_regularization(self.text_layout)
        region = layout.region.view(self.frames, -1)
        return TokenLayout(region, torch.zeros_like(region), 1).size_regularization().flatten()

    def _prepare_text(self, text: Tensor | None, device: torch.device) -> None:
        if not isinstance(text, Tensor):
            raise RuntimeError(
                "encoder_hidden_states must be one tensor for FAME's cross-attention, got "
                f"{type(text).__name__}: IP-Adapter is not supported, unload it"
            )
        if text.shape[1] != len(self.config.token_regions):
            raise ValueError(
                f"token_regions has {len(self.config.token_regions)} tokens, "
                f"but the text embeddings have {text.shape[1]}"
            )
        if self.text_layout is None or self.text_layout.device != device:
            regions = self.config.token_regions.to(device)
            self.text_layout = TokenLayout(regions, torch.zeros_like(regions), 1)
            weights = self.config.token_weights
            self.text_weights = None if weights is None else weights.to(device, torch.float32)

    def _check_one_prompt(self, text: Tensor) -> None:
        """Every frame of a part must have the same text embeddings."""
        version = None if text.is_inference() else text._version
        known, known_version = self._shared_text
        if version is not None and known() is text and known_version == version:  # once per edit, not per step
            return
        if len(text) != self.chunks * self.frames:
            raise ValueError(
                f"the text embeddings have batch {len(text)}, but the latents have {self.chunks * self.frames}: "
                "pass the prompt once per frame, [prompt] * frames"
            )
        parts = text.unflatten(0, (self.chunks, self.frames))
        apart, size = (x.abs().amax((0, 1, 2)) for x in (parts - parts[:, :1], parts))
        if bool((apart > _ROUNDING * size).any()):  # a batched text encoder rounds its rows differently
            raise ValueError(
                f"the {self.frames} frames of a clip must share one prompt and one negative prompt, "
                "but their text embeddings differ"
            )
        self._shared_text = (ref(text), version)

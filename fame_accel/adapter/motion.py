"""UNets with layers of their own for space and for time: AnimateDiff, Stable Video Diffusion, I2VGen-XL.

Layers in space see one frame at a time, layers in time one pixel at a time over all frames. Both take the modulation of
self-attention: in space its tables of a frame with itself, in time the whole tables.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from fame_accel.adapter.config import FameConfig
from fame_accel.adapter.dispatched import Attend
from fame_accel.adapter.families import Arguments, Family
from fame_accel.adapter.levels import halvings
from fame_accel.core.attention import layout_attention
from fame_accel.core.layout import TokenLayout
from fame_accel.core.modulation import Modulation


@dataclass(frozen=True, kw_only=True)
class MotionFamily(Family):
    """How a family of UNets with layers in space and in time is built.

    Attributes:
        name, models, latents, noise, guidance: as in `Family`.
        axes: of the latents, such as "BCFHW".
        space, time: regular expressions of the names of the layers that attend within a frame, and of those that attend
            over the frames of a pixel.
        cross: the same of the layers that attend to the text; None where there are none.
    """

    axes: str
    space: str
    time: str
    cross: str | None = None
    latents: str = "sample"

    def __post_init__(self) -> None:
        self.check_patterns(space=self.space, time=self.time, cross=self.cross)


def _noise_of_log_sigma(timestep: float, scheduler: Any) -> float:
    sigma = math.exp(4 * timestep)
    return sigma / (sigma + 1)


_BLOCKS = r"(down_blocks\.\d+|mid_block|up_blocks\.\d+)\."
MOTION_FAMILIES = (
    MotionFamily(
        name="AnimateDiff",
        models=("UNetMotionModel",),
        axes="BCFHW",
        space=_BLOCKS + r"attentions\.\d+\.transformer_blocks\.\d+\.attn1",
        time=_BLOCKS + r"motion_modules\.\d+\.transformer_blocks\.\d+\.attn[12]",
        cross=_BLOCKS + r"attentions\.\d+\.transformer_blocks\.\d+\.attn2",
        guidance="batched",
    ),
    MotionFamily(
        name="Stable Video Diffusion",
        models=("UNetSpatioTemporalConditionModel",),
        axes="BFCHW",
        space=_BLOCKS + r"attentions\.\d+\.transformer_blocks\.\d+\.attn1",
        time=_BLOCKS + r"attentions\.\d+\.temporal_transformer_blocks\.\d+\.attn1",
        noise=_noise_of_log_sigma,
        guidance="batched",
    ),
    MotionFamily(
        name="I2VGen-XL",
        models=("I2VGenXLUNet",),
        axes="BCFHW",
        space=_BLOCKS + r"attentions\.\d+\.transformer_blocks\.\d+\.attn1",
        time=_BLOCKS + r"temp_attentions\.\d+\.transformer_blocks\.\d+\.attn[12]",
        guidance="batched",
    ),
)


class MotionRole:
    """Layers of one kind and size, and what replaces their attention call.

    Attributes:
        query_layout: with a batch of frames, or of pixels, of the modulated clips.
        key_layout: of the text; None where the layer attends to itself.
        row_strength: float32 [batch, Nq], or None for 1.
        key_weight: float32 [Nk], or None for 1.
        clips, plain_clips: of the batch, and how many of them, from the first on, get plain attention.
    """

    def __init__(self, modulation: Modulation, backend: str) -> None:
        self._modulation = modulation
        self._backend = backend
        self.query_layout: TokenLayout | None = None
        self.key_layout: TokenLayout | None = None
        self.row_strength: Tensor | None = None
        self.key_weight: Tensor | None = None
        self.clips = 1
        self.plain_clips = 1

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None, scale: float | None
    ) -> Tensor | None:
        """The attention of a layer's query, key and value [B, H, N, D]; None to leave it to the model."""
        if self.plain_clips == self.clips:
            return None
        if attn_mask is not None:
            raise ValueError("attn_mask must be None in layers modulated by FAME: masks are not supported there")
        plain = query.shape[0] * self.plain_clips // self.clips
        out = layout_attention(
            query[plain:], key[plain:], value[plain:], self.query_layout, self.key_layout, self._modulation,
            row_strength=self.row_strength, key_weight=self.key_weight, scale=scale, backend=self._backend,
        )  # fmt: skip
        if not plain:
            return out
        return torch.cat([scaled_dot_product_attention(query[:plain], key[:plain], value[:plain], scale=scale), out])


class MotionState:
    """The roles of one model, made ready before each of its calls."""

    def __init__(self, config: FameConfig, family: MotionFamily, model_config: Any) -> None:
        self._config = config
        self._family = family
        self._levels = len(model_config.down_block_types)
        self._frames = config.layout.num_frames
        self._roles: dict[tuple[str, int], MotionRole] = {}
        self._layouts: dict[tuple, tuple[TokenLayout, TokenLayout | None, Tensor]] = {}

    def select(self, name: str) -> Attend | None:
        """What replaces the attention call of the layer of this name."""
        config, family = self._config, self._family
        kinds = {"space": family.space, "time": family.time} if config.self_modulation is not None else {}
        if config.token_regions is not None and family.cross is not None:
            kinds["cross"] = family.cross
        kind = next((kind for kind, pattern in kinds.items() if re.fullmatch(pattern, name)), None)
        if kind is None:
            return None
        level = halvings(name, self._levels)
        if 1 << level not in config.levels:
            return None
        if (kind, level) not in self._roles:
            modulation = config.self_modulation or Modulation()
            if kind == "cross":
                modulation = config.cross_modulation or Modulation.videograin(self._frames, key_frames=1)
            self._roles[kind, level] = MotionRole(modulation, config.backend)
        return self._roles[kind, level].attend

    @torch.inference_mode(False)  # what is kept for later calls must be usable outside inference mode too
    @torch.no_grad()
    def prepare(self, arguments: Arguments, schedule: float, plain_items: int) -> None:
        """Make the roles ready for a call; arguments as in `VideoState.prepare`."""
        latents = arguments[self._family.latents]
        shape = dict(zip(self._family.axes, latents.shape, strict=True))
        if shape["F"] != self._frames:
            raise ValueError(f"layout has {self._frames} frames, but the latents of the model have {shape['F']}")
        if any(kind == "cross" for kind, _ in self._roles):
            self._check_text(arguments["encoder_hidden_states"])
        for (kind, level), role in self._roles.items():
            role.clips, role.plain_clips = shape["B"], plain_items
            if plain_items < shape["B"]:
                self._fill(role, kind, level, shape, latents.device, schedule)

    def _check_text(self, text: Tensor) -> None:
        regions = self._config.token_regions
        if regions is not None and text.shape[1] != len(regions):
            raise ValueError(f"token_regions has {len(regions)} tokens, but the text embeddings have {text.shape[1]}")

    def _fill(
        self, role: MotionRole, kind: str, level: int, shape: dict[str, int], device: torch.device, schedule: float
    ) -> None:
        """Give a role the layouts of this call, and the strengths of its step, in place."""
        clips = role.clips - role.plain_clips
        key = (kind, level, shape["H"], shape["W"], clips, device)
        if key not in self._layouts:
            self._layouts[key] = self._layout(kind, level, shape, clips, device)
        role.query_layout, role.key_layout, size = self._layouts[key]
        factor = self._config.cross_factor if kind == "cross" else self._config.self_factor
        if role.row_strength is None or role.row_strength.shape != size.shape:
            role.row_strength = torch.empty_like(size)
        torch.mul(size, factor * schedule, out=role.row_strength)
        weights = self._config.token_weights
        role.key_weight = None if kind != "cross" or weights is None else weights.to(size)

    def _layout(
        self, kind: str, level: int, shape: dict[str, int], clips: int, device: torch.device
    ) -> tuple[TokenLayout, TokenLayout | None, Tensor]:
        """Layouts of queries and keys, and the size term of the row strengths."""
        height, width = shape["H"], shape["W"]
        for _ in range(level):
            height, width = (height + 1) // 2, (width + 1) // 2
        tokens = self._config.layout.tokens(height, width, device)
        region, frame = (side.view(self._frames, -1) for side in (tokens.region, tokens.frame))
        if kind == "time":
            region, frame = region.T, frame.T
        layout = TokenLayout(region.repeat(clips, 1), frame.repeat(clips, 1), self._frames)
        if kind != "cross":
            return layout, None, layout.size_regularization()
        regions = self._config.token_regions
        assert regions is not None
        text = TokenLayout(regions.to(device), torch.zeros_like(regions, device=device), 1)
        if self._config.cross_size == "tokens":
            return layout, text, layout.size_regularization(text)
        within = TokenLayout(region, torch.zeros_like(region), 1).size_regularization()
        return layout, text, within.repeat(clips, 1)

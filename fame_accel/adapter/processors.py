"""The attention processors, and what one call of them needs.

A processor takes no arguments: `apply_fame` gives it its layer, and before each forward pass what that pass needs.
Where diffusers constructs one anew, it says that it was not installed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fame_accel.core.dispatch import run_plan
from fame_accel.core.distributed import gather_tokens
from fame_accel.core.planning import AttentionPlan
from fame_accel.core.validation import check_scale, refuse_derivatives


@dataclass
class LayerCall:
    """What a configured layer needs to know in a forward pass.

    The tensors that a step changes are changed in place, so that a compiled model reads them as inputs.

    Attributes:
        plan: of the layer's attention over all frames.
        parts: how many times the frames stand in the batch: 2 under classifier-free guidance.
        frames: number of frames, which follow each other in the batch.
        row_strength: float32 [1, frames * tokens] in [0, 1].
        key_weight: float32 [1, text tokens] in [0, 1], or None for 1.
        plain_parts: int64 [1] on the CPU, how many parts, from the first on, get plain attention.
        group: process group whose ranks have other frames of the clip, or None.
    """

    plan: AttentionPlan
    parts: int
    frames: int
    row_strength: Tensor
    key_weight: Tensor | None
    plain_parts: Tensor
    group: Any = None


class _FameProcessor:
    """Common to both processors: the `original` that apply_fame replaced, and the `call` of this pass."""

    def __init__(self) -> None:
        self.original: Callable[..., Tensor] | None = None
        self.call: LayerCall | None = None

    def _attend(self, attn: Any, clip: Tensor, source: Tensor, call: LayerCall) -> Tensor:
        """Attention of a clip [parts, frames * tokens, channels] to a source [parts, keys, channels], as heads."""
        query, key, value = (_heads(attn, x) for x in (attn.to_q(clip), attn.to_k(source), attn.to_v(source)))
        query = query if attn.norm_q is None else attn.norm_q(query)
        key = key if attn.norm_k is None else attn.norm_k(key)
        if call.group is not None and source is clip:
            key, value = gather_tokens(key, call.group), gather_tokens(value, call.group)
        for name, side in (("query", query), ("key", key), ("value", value)):
            refuse_derivatives(name, side)
        scale = check_scale(attn.scale, query.shape[-1])
        out, _ = run_plan(
            call.plan, query, key, value, call.row_strength, call.key_weight, scale, False, call.plain_parts
        )
        return out

    def _configured(self, hidden_states: Tensor, is_own_kind: bool, attention_mask: Tensor | None) -> LayerCall | None:
        """The call of a layer that is configured and of this processor's kind; None for one to leave alone."""
        call = self.call
        if call is None or hidden_states.dim() != 3 or not is_own_kind:
            return None
        tokens = call.plan.query_region.shape[1]  # of a tensor, as torch.compile takes numbers for constants
        if call.frames * hidden_states.shape[1] != tokens:
            raise ValueError(
                f"a layer has {hidden_states.shape[1]} tokens a frame where halving the latents gives "
                f"{tokens // call.frames}: methods that merge or drop tokens cannot be combined with FAME"
            )
        if attention_mask is not None:
            raise ValueError("attention_mask must be None in layers modulated by FAME: masks are not supported there")
        return call

    def _replaced(self) -> Callable[..., Tensor]:
        if self.original is None:
            raise RuntimeError(
                f"{type(self).__name__} was not installed by apply_fame (loading an IP-Adapter re-creates processors): "
                "call apply_fame again"
            )
        return self.original


class FameSelfAttnProcessor(_FameProcessor):
    """Self-attention over the tokens of all frames, modulated at active steps, plain at the others.

    hidden_states is [parts * frames, tokens, channels]; under guidance a batch has two parts. Layers at levels that are
    not configured go to the processor that this one replaced.
    """

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        call = self._configured(hidden_states, encoder_hidden_states is None, attention_mask)
        if call is None:
            return self._replaced()(attn, hidden_states, encoder_hidden_states, attention_mask, temb)
        clip = hidden_states.unflatten(0, (call.parts, call.frames)).flatten(1, 2)
        return _project_out(attn, self._attend(attn, clip, clip, call), hidden_states)


class FameCrossAttnProcessor(_FameProcessor):
    """Cross-attention with the text tokens bound to regions, modulated at active steps, plain at the others.

    hidden_states is [parts * frames, tokens, channels]. encoder_hidden_states is [parts * frames, T, channels], equal
    for the frames of a part, so that its keys are projected once.
    """

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        call = self._configured(hidden_states, encoder_hidden_states is not None, attention_mask)
        if call is None or encoder_hidden_states is None:
            return self._replaced()(attn, hidden_states, encoder_hidden_states, attention_mask, temb)
        clip = hidden_states.unflatten(0, (call.parts, call.frames)).flatten(1, 2)
        text = encoder_hidden_states.unflatten(0, (call.parts, call.frames))[:, 0]
        if attn.norm_cross:
            text = attn.norm_encoder_hidden_states(text)
        return _project_out(attn, self._attend(attn, clip, text, call), hidden_states)


def _heads(attn: Any, projected: Tensor) -> Tensor:
    """[B, N, heads * D] -> [B, heads, N, D]"""
    return projected.unflatten(-1, (attn.heads, -1)).transpose(1, 2)


def _project_out(attn: Any, out: Tensor, hidden_states: Tensor) -> Tensor:
    """The layer's output projection of [parts, heads, frames * tokens, D], in the shape of hidden_states."""
    out = out.transpose(1, 2).flatten(2).reshape(hidden_states.shape[0], hidden_states.shape[1], -1)
    out = attn.to_out[1](attn.to_out[0](out.to(hidden_states.dtype)))
    if attn.residual_connection:
        out = out + hidden_states
    return out / attn.rescale_output_factor

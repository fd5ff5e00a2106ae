"""The attention processors. They carry no arguments: `apply_fame` gives them their state and the processor they
replace, and diffusers may construct them anew, in which case they say that they were not installed."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from fame_accel.adapter.state import FameState
from fame_accel.core.attention import layout_attention


class _FameProcessor:
    def __init__(self) -> None:
        self.state: FameState | None = None
        self.original = None

    def _state(self) -> FameState:
        if self.state is None:
            raise RuntimeError(
                f"{type(self).__name__} was not installed by apply_fame (loading an IP-Adapter re-creates processors): "
                "call apply_fame again"
            )
        return self.state


class FameSelfAttnProcessor(_FameProcessor):
    """Self-attention over the tokens of all frames, modulated at active steps, plain at the others.

    hidden_states [chunks * frames, tokens, channels]. Layers at levels that are not configured go to the processor
    this one replaced.
    """

    def __call__(
        self,
        attn: torch.nn.Module,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        state = self._state()
        level = state.level(hidden_states.shape[1]) if hidden_states.dim() == 3 else None
        if level is None or encoder_hidden_states is not None:
            return self.original(attn, hidden_states, encoder_hidden_states, attention_mask, temb)
        _refuse_mask(attention_mask)
        clip = hidden_states.unflatten(0, (state.chunks, state.frames)).flatten(1, 2)
        query, key, value = (_heads(attn, project(clip)) for project in (attn.to_q, attn.to_k, attn.to_v))
        query, key = _normalised(attn, query, key)

        def modulated(part: slice) -> Tensor:
            return layout_attention(
                query[part], key[part], value[part], level.layout, modulation=state.config.self_modulation,
                row_strength=level.self_strength, scale=attn.scale, backend=state.config.backend,
            )  # fmt: skip

        out = _by_guidance(state, query, key, value, attn.scale, modulated)
        return _finish(attn, out, hidden_states)


class FameCrossAttnProcessor(_FameProcessor):
    """Cross-attention with the text tokens bound to regions, modulated at active steps, plain at the others.

    hidden_states [chunks * frames, tokens, channels], encoder_hidden_states [chunks * frames, T, channels], equal
    for the frames of a chunk: its keys are projected once.
    """

    def __call__(
        self,
        attn: torch.nn.Module,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        state = self._state()
        level = state.level(hidden_states.shape[1]) if hidden_states.dim() == 3 else None
        if level is None or encoder_hidden_states is None:
            return self.original(attn, hidden_states, encoder_hidden_states, attention_mask, temb)
        _refuse_mask(attention_mask)
        clip = hidden_states.unflatten(0, (state.chunks, state.frames)).flatten(1, 2)
        text = encoder_hidden_states[:: state.frames]
        if attn.norm_cross:
            text = attn.norm_encoder_hidden_states(text)
        query = _heads(attn, attn.to_q(clip))
        key, value = _heads(attn, attn.to_k(text)), _heads(attn, attn.to_v(text))
        query, key = _normalised(attn, query, key)

        def modulated(part: slice) -> Tensor:
            return layout_attention(
                query[part], key[part], value[part], level.layout, state.text_layout,
                modulation=state.cross_modulation, row_strength=level.cross_strength,
                key_weight=state.text_weights, scale=attn.scale, backend=state.config.backend,
            )  # fmt: skip

        out = _by_guidance(state, query, key, value, attn.scale, modulated)
        return _finish(attn, out, hidden_states)


def _by_guidance(state: FameState, query: Tensor, key: Tensor, value: Tensor, scale: float, modulated) -> Tensor:
    """Modulated attention for the parts of the batch that are to have it, plain attention for the others."""
    plain = state.chunks - 1 if state.config.guidance == "conditional" else 0
    if not state.active:
        plain = state.chunks
    parts = []
    if plain:
        parts.append(scaled_dot_product_attention(query[:plain], key[:plain], value[:plain], scale=scale))
    if plain < state.chunks:
        parts.append(modulated(slice(plain, None)))
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _heads(attn: torch.nn.Module, projected: Tensor) -> Tensor:
    """[B, N, heads * D] -> [B, heads, N, D]"""
    return projected.unflatten(-1, (attn.heads, -1)).transpose(1, 2)


def _normalised(attn: torch.nn.Module, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
    query = query if attn.norm_q is None else attn.norm_q(query)
    key = key if attn.norm_k is None else attn.norm_k(key)
    return query, key


def _finish(attn: torch.nn.Module, out: Tensor, hidden_states: Tensor) -> Tensor:
    """Output projection of [chunks, heads, frames * tokens, D] in the shape of hidden_states."""
    out = out.transpose(1, 2).flatten(2).reshape(hidden_states.shape[0], hidden_states.shape[1], -1)
    out = attn.to_out[1](attn.to_out[0](out.to(hidden_states.dtype)))
    if attn.residual_connection:
        out = out + hidden_states
    return out / attn.rescale_output_factor


def _refuse_mask(attention_mask: Tensor | None) -> None:
    if attention_mask is not None:
        raise ValueError("attention_mask must be None in layers modulated by FAME: masks are not supported there")

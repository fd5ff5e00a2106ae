"""Checking the arguments of layout attention, once for every backend."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fame_accel.core.layout import TokenLayout
from fame_accel.core.modulation import Modulation

MAX_HEAD_DIM = 256
_DTYPES = (torch.float16, torch.bfloat16, torch.float32)


@dataclass(frozen=True)
class Arguments:
    """Arguments of one call, checked and with the defaults filled in.

    query [B, H, Nq, D], key and value [B, H, Nk, D]; row_strength [P, Nq] and key_weight [P, Nk] float32 with
    P in (1, B), or None for 1.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    query_layout: TokenLayout
    key_layout: TokenLayout
    modulation: Modulation
    row_strength: Tensor | None
    key_weight: Tensor | None
    scale: float


_PLAIN = Modulation()


def check(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    query_layout: TokenLayout,
    key_layout: TokenLayout | None,
    modulation: Modulation | None,
    row_strength: Tensor | None,
    key_weight: Tensor | None,
    scale: float | None,
    doubles: bool = False,
) -> Arguments:
    """Arguments of one call, or a TypeError, ValueError or RuntimeError that names the argument at fault."""
    _check_tensors(query, key, value, doubles)
    key_layout = _check_layouts(query, key, query_layout, key_layout)
    modulation = _PLAIN if modulation is None else modulation
    if not isinstance(modulation, Modulation):
        raise TypeError(f"modulation must be a fame_accel.Modulation or None, got {type(modulation).__name__}")
    frames = (query_layout.num_frames, key_layout.num_frames)
    if modulation.frames_shape is not None and modulation.frames_shape != frames:
        raise ValueError(
            f"modulation has tables for (query, key) frames {modulation.frames_shape}, "
            f"but query_layout and key_layout have {frames}"
        )
    row_strength = _check_vector("row_strength", row_strength, query)
    key_weight = _check_vector("key_weight", key_weight, key)
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    if not isinstance(scale, (int, float)) or isinstance(scale, bool):
        raise TypeError(f"scale must be a number or None, got {type(scale).__name__}")
    if not 0 < scale < math.inf:
        raise ValueError(f"scale must be finite and > 0, got {scale!r}")
    return Arguments(query, key, value, query_layout, key_layout, modulation, row_strength, key_weight, float(scale))


def _check_tensors(query: Tensor, key: Tensor, value: Tensor, doubles: bool) -> None:
    allowed = (*_DTYPES, torch.float64) if doubles else _DTYPES
    for name, tensor in (("query", query), ("key", key), ("value", value)):
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name} must be a tensor, got {type(tensor).__name__}")
        if tensor.dtype not in allowed:
            names = ", ".join(str(dtype).removeprefix("torch.") for dtype in allowed)
            raise TypeError(f"{name} must be one of {names}, got {tensor.dtype}")
        if tensor.dim() != 4:
            raise ValueError(f"{name} must have shape [B, H, N, D], got {tuple(tensor.shape)}")
        if tensor.dtype != query.dtype:
            raise TypeError(f"{name} must have the dtype of query, {query.dtype}, got {tensor.dtype}")
        if tensor.device != query.device:
            raise ValueError(f"{name} must be on the device of query, {query.device}, got {tensor.device}")
        if tensor.requires_grad and torch.is_grad_enabled():
            raise RuntimeError(
                f"{name} requires grad, but layout attention has no backward: "
                "call it under torch.no_grad() or pass a detached tensor"
            )
    batch, heads, _, head_dim = query.shape
    if not 1 <= head_dim <= MAX_HEAD_DIM:
        raise ValueError(f"query must have a head_dim from 1 to {MAX_HEAD_DIM}, got {head_dim}")
    wanted = (batch, heads, key.shape[2], head_dim)
    for name, tensor in (("key", key), ("value", value)):
        if tuple(tensor.shape) != wanted:
            raise ValueError(
                f"{name} must have shape {wanted} to match query {tuple(query.shape)} and key length "
                f"{key.shape[2]}, got {tuple(tensor.shape)}"
            )


def _check_layouts(
    query: Tensor, key: Tensor, query_layout: TokenLayout, key_layout: TokenLayout | None
) -> TokenLayout:
    key_layout = query_layout if key_layout is None else key_layout
    for name, layout, tensor in (("query_layout", query_layout, query), ("key_layout", key_layout, key)):
        if not isinstance(layout, TokenLayout):
            raise TypeError(f"{name} must be a fame_accel.TokenLayout, got {type(layout).__name__}")
        if layout.num_tokens != tensor.shape[2]:
            raise ValueError(
                f"{name} has {layout.num_tokens} tokens, but its side of the attention has {tensor.shape[2]}"
            )
        if layout.batch not in (None, tensor.shape[0]):
            raise ValueError(f"{name} has batch {layout.batch}, but query has batch {tensor.shape[0]}")
        if layout.device != tensor.device:
            raise ValueError(
                f"{name} is on {layout.device}, but query is on {tensor.device}: use {name}.to({str(tensor.device)!r})"
            )
    return key_layout


def _check_vector(name: str, vector: Tensor | None, side: Tensor) -> Tensor | None:
    """`vector` as float32 [P, N] with P in (1, B)."""
    if vector is None:
        return None
    batch, tokens = side.shape[0], side.shape[2]
    if not isinstance(vector, Tensor) or not vector.is_floating_point():
        kind = vector.dtype if isinstance(vector, Tensor) else type(vector).__name__
        raise TypeError(f"{name} must be a floating tensor [N] or [B, N], got {kind}")
    if tuple(vector.shape) not in ((tokens,), (batch, tokens)):
        raise ValueError(f"{name} must have shape [{tokens}] or [{batch}, {tokens}], got {tuple(vector.shape)}")
    if vector.device != side.device:
        raise ValueError(f"{name} must be on the device of query, {side.device}, got {vector.device}")
    if vector.requires_grad and torch.is_grad_enabled():
        raise RuntimeError(f"{name} requires grad, but layout attention has no backward: pass a detached tensor")
    inside = ((vector >= 0) & (vector <= 1)).all()
    message = f"{name} must lie in [0, 1] without NaN"
    if torch.compiler.is_compiling() or vector.device.type == "cuda":
        torch._assert_async(inside, message)  # no synchronisation: the device reports it
    elif vector.device.type != "meta" and not bool(inside):
        raise ValueError(f"{message}, got values from {vector.min().item():g} to {vector.max().item():g}")
    return torch.atleast_2d(vector).to(torch.float32).contiguous()

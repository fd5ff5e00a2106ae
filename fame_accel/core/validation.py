"""Checks of the arguments of layout attention, the same for every backend."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd import forward_ad

from fame_accel.core.checks import check_dense, shown
from fame_accel.core.layout import TokenLayout
from fame_accel.core.modulation import Modulation
from fame_accel.core.tracing import has_values, unwrapped

MAX_HEAD_DIM = 256
# float32 logits stay finite up to it: products of float16 rows reach 256 * 65504**2 = 1.1e12, which leaves 3e26
MAX_SCALE = 1e25
DTYPES = (torch.float16, torch.bfloat16, torch.float32)
_PLAIN = Modulation()


@dataclass(frozen=True)
class Call:
    """Checked arguments of one call, defaults filled in.

    Attributes:
        query_layout, key_layout, modulation: as given, or their defaults.
        row_strength, key_weight: float32 [P, Nq] and [P, Nk] with P in (1, B), or None for 1.
        scale: of the logits.
    """

    query_layout: TokenLayout
    key_layout: TokenLayout
    modulation: Modulation
    row_strength: Tensor | None
    key_weight: Tensor | None
    scale: float


def check_call(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    query_layout: TokenLayout | None,
    key_layout: TokenLayout | None,
    modulation: Modulation | None,
    row_strength: Tensor | None,
    key_weight: Tensor | None,
    scale: float | None,
    doubles: bool = False,
) -> Call:
    """The checked arguments of a call with layouts; float64 is allowed where `doubles`.

    Raises:
        TypeError, ValueError, RuntimeError: the message names the argument, what came and what was wanted.
    """
    check_tensors(query, key, value, doubles)
    if query_layout is None:
        raise TypeError("query_layout must be a fame_accel.TokenLayout, got NoneType; only a plan replaces it")
    key_layout = query_layout if key_layout is None else key_layout
    modulation = _PLAIN if modulation is None else modulation
    check_layouts(query_layout, key_layout, modulation)
    for name, layout, tensor in (("query_layout", query_layout, query), ("key_layout", key_layout, key)):
        check_side(name, layout.num_tokens, layout.batch, layout.device, tensor)
    factors = check_factors(query, key, row_strength, key_weight)
    return Call(query_layout, key_layout, modulation, *factors, check_scale(scale, query.shape[-1]))


def check_layouts(query_layout: TokenLayout, key_layout: TokenLayout, modulation: Modulation) -> None:
    """TypeError or ValueError where these do not belong together."""
    for name, layout in (("query_layout", query_layout), ("key_layout", key_layout)):
        if not isinstance(layout, TokenLayout):
            raise TypeError(f"{name} must be a fame_accel.TokenLayout, got {type(layout).__name__}")
    if not isinstance(modulation, Modulation):
        raise TypeError(f"modulation must be a fame_accel.Modulation or None, got {type(modulation).__name__}")
    frames = (query_layout.num_frames, key_layout.num_frames)
    if modulation.frames_shape is not None and modulation.frames_shape != frames:
        raise ValueError(
            f"modulation has tables for (query, key) frames {modulation.frames_shape}, "
            f"but query_layout and key_layout have {frames}"
        )


def check_tensors(query: Tensor, key: Tensor, value: Tensor, doubles: bool) -> None:
    """Query, key and value: types, dtypes, shapes, devices, and that no derivative is asked for."""
    allowed = (*DTYPES, torch.float64) if doubles else DTYPES
    for name, tensor in (("query", query), ("key", key), ("value", value)):
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name} must be a tensor, got {type(tensor).__name__}")
        if tensor.dtype not in allowed:
            names = ", ".join(str(dtype).removeprefix("torch.") for dtype in allowed)
            raise TypeError(f"{name} must be one of {names}, got {tensor.dtype}")
        check_dense(name, tensor)
        if tensor.dim() != 4:
            raise ValueError(f"{name} must have shape [B, H, N, D], got {tuple(tensor.shape)}")
        if tensor.dtype != query.dtype:
            raise TypeError(f"{name} must have the dtype of query, {query.dtype}, got {tensor.dtype}")
        if tensor.device != query.device:
            raise ValueError(f"{name} must be on the device of query, {query.device}, got {tensor.device}")
        refuse_derivatives(name, tensor)
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


def check_side(name: str, tokens: int, batch: int | None, device: torch.device, side: Tensor) -> None:
    """Whether a layout with these tokens, batch and device fits its side of the attention."""
    if tokens != side.shape[2]:
        raise ValueError(f"{name} has {tokens} tokens, but its side of the attention has {side.shape[2]}")
    if batch not in (None, side.shape[0]):
        raise ValueError(f"{name} has batch {batch}, but query has batch {side.shape[0]}")
    if device != side.device:
        raise ValueError(f"{name} is on {device}, but query is on {side.device}: use {name}.to({str(side.device)!r})")


def check_scale(scale: float | None, head_dim: int) -> float:
    """The scale as a float; default head_dim ** -0.5."""
    scale = int(head_dim) ** -0.5 if scale is None else scale  # int: a traced size is none
    if not isinstance(scale, (int, float)) or isinstance(scale, bool):
        raise TypeError(f"scale must be a number or None, got {type(scale).__name__}")
    if not 0 < scale <= MAX_SCALE:
        raise ValueError(f"scale must be finite, > 0 and at most {MAX_SCALE:g}, got {shown(scale)}")
    return float(scale)


def check_factors(
    query: Tensor, key: Tensor, row_strength: Tensor | None, key_weight: Tensor | None
) -> tuple[Tensor | None, Tensor | None]:
    """Both factors as float32 [P, N] with P in (1, B); None stays None."""
    return _check_factor("row_strength", row_strength, query), _check_factor("key_weight", key_weight, key)


def _check_factor(name: str, factor: Tensor | None, side: Tensor) -> Tensor | None:
    if factor is None:
        return None
    batch, tokens = side.shape[0], side.shape[2]
    if not isinstance(factor, Tensor) or not factor.is_floating_point():
        kind = factor.dtype if isinstance(factor, Tensor) else type(factor).__name__
        raise TypeError(f"{name} must be a floating tensor [N] or [B, N], got {kind}")
    check_dense(name, factor)
    if tuple(factor.shape) not in ((tokens,), (batch, tokens)):
        raise ValueError(f"{name} must have shape [{tokens}] or [{batch}, {tokens}], got {tuple(factor.shape)}")
    if factor.device != side.device:
        raise ValueError(f"{name} must be on the device of query, {side.device}, got {factor.device}")
    refuse_derivatives(name, factor)
    inside = ((factor >= 0) & (factor <= 1)).all()
    message = f"{name} must lie in [0, 1] without NaN"
    if torch.compiler.is_compiling() or factor.device.type == "cuda":
        torch._assert_async(inside, message)  # the device reports it, nothing waits
    elif has_values(factor) and not bool(unwrapped(inside).all()):
        values = unwrapped(factor)
        raise ValueError(f"{message}, got values from {values.min().item():g} to {values.max().item():g}")
    return torch.atleast_2d(factor).to(torch.float32).contiguous()


def refuse_derivatives(name: str, tensor: Tensor) -> None:
    """RuntimeError where a derivative is asked for, of which there is none."""
    if tensor.requires_grad and torch.is_grad_enabled():
        raise RuntimeError(
            f"{name} requires grad, but layout attention has no backward: "
            "call it under torch.no_grad() or pass a detached tensor"
        )
    if forward_ad._current_level >= 0 and forward_ad.unpack_dual(tensor).tangent is not None:
        raise RuntimeError(
            f"{name} carries a tangent of forward-mode AD, but layout attention has no derivative: "
            "pass its primal, torch.autograd.forward_ad.unpack_dual(x).primal"
        )

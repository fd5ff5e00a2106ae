"""attention_mass: how much of each query's attention goes to groups of keys, without an N x N map."""

from __future__ import annotations

import torch
from torch import Tensor

from fame_accel.core.attention import layout_attention
from fame_accel.core.layout import TokenLayout
from fame_accel.core.modulation import Modulation


def attention_mass(
    query: Tensor,
    key: Tensor,
    groups: Tensor,
    query_layout: TokenLayout,
    key_layout: TokenLayout | None = None,
    modulation: Modulation | None = None,
    *,
    row_strength: Tensor | None = None,
    key_weight: Tensor | None = None,
    scale: float | None = None,
    backend: str = "auto",
) -> Tensor:
    """Sum each query's attention weights over groups of keys: words, regions, frames.

    With p the weights of `layout_attention` on the same arguments, mass_ig = sum over the keys j of group g of p_ij. It
    is attention to indicators of the groups, head_dim groups a call, so memory grows with the result alone.

    Args:
        query: [B, H, Nq, D], as in `layout_attention`.
        key: [B, H, Nk, D].
        groups: bool [G, Nk] or [B, G, Nk], which keys each group holds. Groups may overlap or leave keys out. For one
            group a key, as for the words of a prompt, it is `torch.eye(Nk, dtype=torch.bool)`.
        query_layout, key_layout, modulation, row_strength, key_weight, scale, backend: as in `layout_attention`.

    Returns:
        [B, H, Nq, G] in the query's dtype, in [0, 1] up to rounding.

    Raises:
        TypeError, ValueError, RuntimeError: the message names the argument, what came and what was wanted.
    """
    if not isinstance(key, Tensor) or key.dim() != 4:
        shape = tuple(key.shape) if isinstance(key, Tensor) else type(key).__name__
        raise TypeError(f"key must be a tensor [B, H, Nk, D], got {shape}")
    _check_groups(groups, key)
    batch, heads, tokens, head_dim = key.shape
    indicators = groups.expand(batch, -1, -1).transpose(1, 2)  # [B, Nk, G]
    parts = []
    for start in range(0, indicators.shape[-1], head_dim):
        chunk = indicators[..., start : start + head_dim].to(key.dtype)
        value = torch.nn.functional.pad(chunk, (0, head_dim - chunk.shape[-1]))
        out = layout_attention(
            query, key, value[:, None].expand(-1, heads, -1, -1), query_layout, key_layout, modulation,
            row_strength=row_strength, key_weight=key_weight, scale=scale, backend=backend,
        )  # fmt: skip
        parts.append(out[..., : chunk.shape[-1]])
    return torch.cat(parts, -1) if parts else query.new_zeros(*query.shape[:3], 0)


def _check_groups(groups: Tensor, key: Tensor) -> None:
    if not isinstance(groups, Tensor) or groups.dtype != torch.bool:
        kind = groups.dtype if isinstance(groups, Tensor) else type(groups).__name__
        raise TypeError(f"groups must be a bool tensor [G, Nk] or [B, G, Nk], got {kind}")
    batch, tokens = key.shape[0], key.shape[2]
    if groups.dim() not in (2, 3) or groups.shape[-1] != tokens or (groups.dim() == 3 and groups.shape[0] != batch):
        raise ValueError(
            f"groups must have shape [G, {tokens}] or [{batch}, G, {tokens}] to match key, got {tuple(groups.shape)}"
        )
    if groups.device != key.device:
        raise ValueError(f"groups must be on the device of key, {key.device}, got {groups.device}")

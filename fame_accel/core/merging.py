"""merge_attention: attention over all keys from attention over disjoint parts of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fame_accel.core.checks import shown


def merge_attention(parts: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Merge the attentions of the same queries over disjoint sets of keys.

    With lse_p the logarithm of a part's sum of exponentials:

        lse = logsumexp_p lse_p,   out = sum_p exp(lse_p - lse) * out_p

    Each part may have a modulation of its own: its extremes are then those of its own keys.

    Args:
        parts: (out, lse) of each part, as `layout_attention(..., return_lse=True)` returns them: out [B, H, Nq, D] and
            lse [B, H, Nq]; all of the same shapes, dtypes and devices.

    Returns:
        out and lse in the dtypes of the parts; a row without any key gets 0 and -inf.

    Raises:
        TypeError, ValueError: parts is empty, or its entries do not fit each other.
    """
    _check_parts(parts)
    out, lse = parts[0]
    if len(parts) == 1:
        return out, lse
    total = torch.logsumexp(torch.stack([part_lse for _, part_lse in parts]), 0)
    merged = torch.zeros_like(out, dtype=torch.promote_types(out.dtype, torch.float32))
    for part_out, part_lse in parts:
        share = torch.exp(part_lse - total).masked_fill(part_lse == -torch.inf, 0)
        merged += part_out * share[..., None]
    return merged.to(out.dtype), total


def _check_parts(parts: Sequence[tuple[Tensor, Tensor]]) -> None:
    if not isinstance(parts, (list, tuple)) or not parts:
        raise ValueError(f"parts must be a list of (out, lse) with at least one entry, got {shown(parts)}")
    for part in parts:
        if not isinstance(part, (list, tuple)) or len(part) != 2 or not all(isinstance(x, Tensor) for x in part):
            raise TypeError("parts must hold pairs of tensors, (out, lse): call layout_attention with return_lse=True")
    out, lse = parts[0]
    if out.dim() != 4 or not out.is_floating_point() or lse.shape != out.shape[:3] or not lse.is_floating_point():
        raise ValueError(
            "parts must hold out [B, H, Nq, D] and lse [B, H, Nq], both floating, "
            f"got {out.dtype} {tuple(out.shape)} and {lse.dtype} {tuple(lse.shape)}"
        )
    for index, part in enumerate(parts):
        for name, got, wanted in zip(("out", "lse"), part, (out, lse), strict=True):
            for what in ("shape", "dtype", "device"):
                if getattr(got, what) != getattr(wanted, what):
                    raise ValueError(
                        f"parts[{index}] must have the {what} of parts[0]: {name} has {getattr(got, what)}, "
                        f"not {getattr(wanted, what)}"
                    )

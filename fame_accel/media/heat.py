"""Heat maps over frames, such as those of `attention_mass`."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from fame_accel.media.frames import check_frames, to_bytes

_STOPS = ((0.0, (0.0, 0.0, 0.0)), (0.5, (0.8, 0.1, 0.1)), (1.0, (1.0, 0.95, 0.4)))  # heat, RGB


def heat_overlay(frames: Tensor, heat: Tensor, opacity: float = 0.7) -> Tensor:
    """Lay a heat map over a video: where there is none the frame is dimmed, where it is greatest it is bright yellow.

    The attention to a word, for example, is `attention_mass(...)[0, :, :, word].mean(0).view(frames, height, width)`.

    Args:
        frames: uint8 [F, H, W, 3], RGB.
        heat: floating [F, h, w], at least 0, of any resolution. Its largest value over all frames is the hottest.
        opacity: share of the heat in the result, in [0, 1].

    Returns:
        uint8 [F, H, W, 3].

    Raises:
        ValueError: shapes, dtypes or values do not fit.
    """
    check_frames(frames)
    if not isinstance(heat, Tensor) or not heat.is_floating_point() or heat.dim() != 3 or len(heat) != len(frames):
        got = f"{heat.dtype} {list(heat.shape)}" if isinstance(heat, Tensor) else type(heat).__name__
        raise ValueError(f"heat must be a floating tensor [{len(frames)}, h, w], one map a frame, got {got}")
    if not bool((heat.isfinite() & (heat >= 0)).all()):
        raise ValueError("heat must be finite and at least 0")
    if isinstance(opacity, bool) or not isinstance(opacity, (int, float)) or not 0 <= opacity <= 1:
        raise ValueError(f"opacity must lie in [0, 1], got {opacity!r}")
    level = heat.float() / heat.max().clamp(min=torch.finfo(torch.float32).tiny).float()
    level = interpolate(level[:, None], size=tuple(frames.shape[1:3]), mode="bilinear", align_corners=False)[:, 0]
    return to_bytes((1 - opacity) * frames.float() / 255 + opacity * _colors(level.to(frames.device)))


def _colors(level: Tensor) -> Tensor:
    """[..., 3] in [0, 1] for heat in [0, 1], linear between the stops."""
    colors = torch.zeros(*level.shape, 3, device=level.device)
    for (low, first), (high, second) in zip(_STOPS, _STOPS[1:], strict=False):
        share = ((level - low) / (high - low)).clamp(0, 1)[..., None]
        start, stop = (torch.tensor(color, device=level.device) for color in (first, second))
        colors = torch.where((level > low)[..., None], start + share * (stop - start), colors)
    return colors

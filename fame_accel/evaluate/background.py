"""Background preservation: PSNR and SSIM of the pixels that an edit should leave unchanged."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import conv2d

from fame_accel.evaluate.checks import check_mask, check_pair

WINDOW, SIGMA = 11, 1.5  # Wang et al. 2004
C1, C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


def background_psnr(source: Tensor, edited: Tensor, edited_region: Tensor) -> float:
    """Return the peak signal-to-noise ratio outside the edited region, in dB; infinite where nothing changed.

    It is the ratio of the squared error averaged over all background pixels of all frames and channels. A mean over the
    ratios of the frames would be infinite as soon as one frame is unchanged.

    Args:
        source, edited: uint8 [F, H, W, 3], RGB.
        edited_region: bool [F, H, W], True where the edit was meant to change something.

    Raises:
        ValueError: shapes or dtypes do not fit, or the region leaves no background.
    """
    background = _background(source, edited, edited_region)
    error = (source.int() - edited.int()).square()[background].double().mean().item()
    return 10 * math.log10(255**2 / error) if error else math.inf


def background_ssim(source: Tensor, edited: Tensor, edited_region: Tensor) -> float:
    """Return the structural similarity outside the edited region, at most 1.

    Wang et al., "Image quality assessment: from error visibility to structural similarity", IEEE TIP 2004: a
    Gaussian window of 11 x 11 pixels with sigma 1.5, K1 = 0.01, K2 = 0.03, for each channel, then averaged. The mean is
    over the windows of all frames that lie entirely within the frame and are centered outside the region. Where such a
    window reaches into the region, the source's pixels replace the edited ones, so that an unchanged background scores
    exactly 1 whatever the edit did to the region.

    Args:
        source, edited: uint8 [F, H, W, 3], RGB; at least 11 pixels high and wide.
        edited_region: bool [F, H, W], True where the edit was meant to change something.

    Raises:
        ValueError: shapes or dtypes do not fit, or no window is centered on the background.
    """
    background = _background(source, edited, edited_region)
    if min(source.shape[1:3]) < WINDOW:
        raise ValueError(f"SSIM needs frames of at least {WINDOW}x{WINDOW} pixels, got {list(source.shape)}")
    border = WINDOW // 2
    centered = background[:, border:-border, border:-border]
    if not centered.any():
        raise ValueError(f"edited_region leaves no background more than {border} pixels from the frame's edge")
    total = 0.0
    for before, after, unedited, centers in zip(source, edited, background, centered, strict=True):
        compared = torch.where(unedited[..., None], after, before)
        total += _ssim_map(before, compared)[:, centers].sum().item()
    return total / (3 * int(centered.sum()))


def _background(source: Tensor, edited: Tensor, edited_region: Tensor) -> Tensor:
    check_pair(source, edited)
    check_mask("edited_region", edited_region, source)
    if edited_region.all():
        raise ValueError("edited_region must leave some background to compare, got every pixel")
    return ~edited_region


def _ssim_map(first: Tensor, second: Tensor) -> Tensor:
    """SSIM of two frames, uint8 [H, W, 3], per channel and window: float64 [3, H - 10, W - 10]."""
    x, y = (frame.permute(2, 0, 1).double() for frame in (first, second))
    moments = torch.stack([x, y, x * x, y * y, x * y], dim=1)  # [3, 5, H, W]
    mean_x, mean_y, xx, yy, xy = _window_means(moments).unbind(1)
    variances = xx - mean_x**2 + yy - mean_y**2
    covariance = xy - mean_x * mean_y
    numerator = (2 * mean_x * mean_y + C1) * (2 * covariance + C2)
    return numerator / ((mean_x**2 + mean_y**2 + C1) * (variances + C2))


def _window_means(maps: Tensor) -> Tensor:
    """Gaussian means over each window: [3, 5, H, W] -> [3, 5, H - 10, W - 10]."""
    offsets = torch.arange(WINDOW, dtype=maps.dtype) - WINDOW // 2
    weights = torch.exp(-(offsets**2) / (2 * SIGMA**2))
    weights = (weights / weights.sum()).to(maps.device)
    planes = maps.flatten(0, 1)[:, None]
    planes = conv2d(conv2d(planes, weights.view(1, 1, -1, 1)), weights.view(1, 1, 1, -1))
    return planes.view(*maps.shape[:2], *planes.shape[-2:])

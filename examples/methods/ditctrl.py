"""DiTCtrl's sharing of keys (arXiv 2412.18597): the edit's object attends to the source's object, in text and video.

Text tokens see everything and are seen by all. Among video tokens, object sees object and background sees background.
DiTCtrl's code attends twice, with two N x N masks, and blends the results by the edit's mask. With two regions it is
one call: text is a frame of its own, and only pairs of video tokens in different regions are excluded.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fame_accel import Modulation, TokenLayout, layout_attention


def shared_attention(query: Tensor, key: Tensor, value: Tensor, edit_mask: Tensor, source_mask: Tensor) -> Tensor:
    """Attention of [text, video] tokens.

    Args:
        query: [B, H, T + N, D], of the edit, text first.
        key, value: [B, H, T + N, D], of the source.
        edit_mask, source_mask: bool [N], where the object is.

    Returns:
        [B, H, T + N, D].
    """
    text = query.shape[2] - edit_mask.numel()
    is_video = torch.arange(query.shape[2], device=query.device) >= text
    queries, keys = (
        TokenLayout(torch.nn.functional.pad(torch.where(mask, 1, 2), (text, 0)), is_video.int(), 2)
        for mask in (edit_mask, source_mask)
    )
    bias = torch.zeros(2, 2, 2)
    bias[0, 1, 1] = -torch.inf  # video and video in different regions, which are index 0
    return layout_attention(query, key, value, queries, keys, Modulation(bias_table=bias))


def main() -> None:
    query, key, value = (torch.randn(1, 2, 6 + 64, 32) for _ in range(3))
    print(f"ditctrl: {tuple(shared_attention(query, key, value, *(torch.rand(2, 64) > 0.5)).shape)}")


if __name__ == "__main__":
    main()

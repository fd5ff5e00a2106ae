"""DiTCtrl's sharing of keys (arXiv 2412.18597): in a joint sequence of text and video, object attends to object.

Text tokens are seen by all. A text token of the object sees the text and the video's object; the other text tokens see
the text and the video's background. DiTCtrl's code attends twice and blends; with two regions it is one call. Text is a
frame of its own, which every token sees.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fame_accel import Modulation, TokenLayout, layout_attention


def shared_attention(query: Tensor, key: Tensor, value: Tensor, text_mask: Tensor, video_mask: Tensor) -> Tensor:
    """Attention of [text, video] tokens.

    Args:
        query, key, value: [B, H, T + N, D], text first.
        text_mask: bool [T], the text tokens that name the object.
        video_mask: bool [N], where the object is.

    Returns:
        [B, H, T + N, D].
    """
    object_or_not = torch.where(torch.cat([text_mask, video_mask]), 1, 2)
    is_video = torch.cat([torch.zeros_like(text_mask), torch.ones_like(video_mask)]).int()
    layout = TokenLayout(object_or_not, is_video, 2)
    bias = torch.zeros(2, 2, 2)
    bias[0, :, 1] = -torch.inf  # video in another region; index 0 is "different region"
    return layout_attention(query, key, value, layout, modulation=Modulation(bias_table=bias))


def main() -> None:
    query, key, value = (torch.randn(1, 2, 6 + 64, 32) for _ in range(3))
    out = shared_attention(query, key, value, torch.tensor([0, 0, 1, 1, 0, 0]).bool(), torch.rand(64) > 0.5)
    print(f"ditctrl: {tuple(out.shape)}")


if __name__ == "__main__":
    main()

"""SkyReels-V2's diffusion forcing (arXiv 2504.13074): frames see the frames of their own block and of earlier ones.

diffusers passes an N x N mask to each layer. Here it is a table of frames, and excluded tiles cost nothing.
"""

from __future__ import annotations

import torch

from fame_accel import Modulation, SpaceTimeLayout, layout_attention


def block_causal(num_frames: int, block: int) -> Modulation:
    """The modulation of frames in blocks of so many."""
    if block < 1 or num_frames % block:
        raise ValueError(f"block must be at least 1 and divide num_frames, {num_frames}, got {block}")
    number = torch.arange(num_frames) // block
    return Modulation.frames(num_frames, number[None, :] <= number[:, None])


def main() -> None:
    frames, height, width = 6, 4, 4
    layout = SpaceTimeLayout.from_masks(torch.ones(1, frames, height, width, dtype=torch.bool)).tokens(height, width)
    query, key, value = (torch.randn(1, 2, layout.num_tokens, 32) for _ in range(3))
    out = layout_attention(query, key, value, layout, modulation=block_causal(frames, 2))
    print(f"block-causal: {tuple(out.shape)}")


if __name__ == "__main__":
    main()

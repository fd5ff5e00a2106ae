"""VideoGrain (arXiv 2502.17258): pairs in one region rise toward the row's maximum, others fall to its minimum.

The strength of a row is 0.3 * (1 - the share of keys in its region) * ((t - 1) / 1000) ** 5, in the first 15 of 50
steps. VideoGrain's code keeps the N x N logits and a mask of their size. Here it is a strength table of ones and a
strength a row.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fame_accel import Modulation, SpaceTimeLayout, TokenLayout, layout_attention


def self_attention(query: Tensor, key: Tensor, value: Tensor, layout: TokenLayout, timestep: int) -> Tensor:
    """VideoGrain's self-attention over all frames, query, key and value [B, H, N, D], at a timestep from 1 to 1000."""
    strength = 0.3 * layout.size_regularization() * ((timestep - 1) / 1000) ** 5
    modulation = Modulation.videograin(layout.num_frames)
    return layout_attention(query, key, value, layout, modulation=modulation, row_strength=strength)


def main() -> None:
    masks = torch.rand(2, 4, 32, 32) > 0.5
    layout = SpaceTimeLayout.from_masks(masks).tokens(8, 8)
    query, key, value = (torch.randn(1, 2, layout.num_tokens, 32) for _ in range(3))
    print(f"videograin: {tuple(self_attention(query, key, value, layout, 900).shape)}")


if __name__ == "__main__":
    main()

"""FLATTEN (arXiv 2310.05922): each token attends to the tokens that optical flow brings to its place in other frames.

FLATTEN does so after an attention over all frames, which is plain. A trajectory has at most one token a frame. So it is
a batch of N queries with F keys each; those that the flow loses are in no region of the query.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fame_accel import Modulation, TokenLayout, layout_attention


def trajectory_attention(query: Tensor, key: Tensor, value: Tensor, trajectory: Tensor, visible: Tensor) -> Tensor:
    """Attention along trajectories.

    Args:
        query, key, value: [1, H, N, D], the tokens of all frames.
        trajectory: int64 [N, F], the token of each frame that lies on the trajectory of a token.
        visible: bool [N, F], whether the flow finds it; each row has at least one.

    Returns:
        [1, H, N, D].
    """
    tokens, frames = trajectory.shape
    queries = query[0].transpose(0, 1)[:, :, None]  # [N, H, 1, D]
    keys, values = (side[0][:, trajectory].transpose(0, 1) for side in (key, value))  # [N, H, F, D]
    zeros = torch.zeros(tokens, frames, dtype=torch.int32, device=query.device)
    key_layout = TokenLayout(visible.int(), zeros, 1)
    query_layout = TokenLayout(torch.ones_like(zeros[:, :1]), zeros[:, :1], 1)
    out = layout_attention(queries, keys, values, query_layout, key_layout, Modulation.region_mask(1))
    return out[:, :, 0].transpose(0, 1)[None]


def main() -> None:
    frames, pixels = 4, 64
    tokens = frames * pixels
    query, key, value = (torch.randn(1, 2, tokens, 32) for _ in range(3))
    trajectory = torch.arange(frames) * pixels + torch.randint(pixels, (tokens, frames))
    visible = torch.rand(tokens, frames) > 0.3
    visible[:, 0] = True
    print(f"flatten: {tuple(trajectory_attention(query, key, value, trajectory, visible).shape)}")


if __name__ == "__main__":
    main()

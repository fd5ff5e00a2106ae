"""Reference keys of Wan-Animate 2: each frame but the first also sees the tokens of its own reference frame.

No paper was at hand: it is the attention of diffusers' WanAnimate2Transformer3DModel, which needs a block mask of
FlexAttention for it. Here the references are frames that follow the video's, and a table says which frame sees which.
"""

from __future__ import annotations

import torch

from fame_accel import Modulation, SpaceTimeLayout, TokenLayout, layout_attention


def with_references(video: TokenLayout, tokens: int) -> tuple[TokenLayout, Modulation]:
    """Layout of the keys [video, references of frames 1, 2, ...] and the modulation.

    Args:
        video: layout of the video, F frames.
        tokens: of each of the F - 1 references.
    """
    if video.num_frames < 2:
        raise ValueError(f"video must have at least 2 frames, as the first has no reference, got {video.num_frames}")
    frames = video.num_frames
    zeros = torch.zeros((frames - 1) * tokens, dtype=torch.int32)
    references = TokenLayout(zeros, torch.arange(frames - 1).repeat_interleave(tokens), frames - 1)
    own = torch.arange(frames)[:, None] == 1 + torch.arange(frames - 1)[None, :]
    table = torch.cat([torch.ones(frames, frames, dtype=torch.bool), own], 1)
    bias = torch.zeros(2, frames, 2 * frames - 1)
    return TokenLayout.cat([video, references]), Modulation(bias_table=bias).keep_frames(table)


def main() -> None:
    frames, height, width = 4, 4, 4
    video = SpaceTimeLayout.from_masks(torch.ones(1, frames, height, width, dtype=torch.bool)).tokens(height, width)
    keys, modulation = with_references(video, height * width)
    query = torch.randn(1, 2, video.num_tokens, 32)
    key, value = (torch.randn(1, 2, keys.num_tokens, 32) for _ in range(2))
    print(f"reference keys: {tuple(layout_attention(query, key, value, video, keys, modulation).shape)}")


if __name__ == "__main__":
    main()

"""Methods in which each frame attends to the tokens of a few frames: one table of key frames each.

Their code concatenates the keys of the named frames, frame by frame; a frame that is named twice counts twice. Here it
is one call over the clip, with a bias of -inf for the other frames and log n for a frame that is named n times.

    Tune-A-Video (arXiv 2212.11565)     the first frame and the one before
    Pix2Video (arXiv 2303.12688)        the same
    Text2Video-Zero (arXiv 2303.13439)  the first frame
    FateZero (arXiv 2303.09535)         the frame itself, the one before and the first, with repetitions
    vid2vid-zero (arXiv 2303.17599)     all frames
    TokenFlow (arXiv 2307.10373)        the key frames of the clip, for every frame
"""

from __future__ import annotations

import torch

from fame_accel import Modulation, SpaceTimeLayout, layout_attention
from fame_accel.core.modulation import Keep


def key_frames(method: str, num_frames: int, every: int = 8) -> Modulation:
    """The modulation of a method.

    Args:
        method: "tune-a-video", "pix2video", "text2video-zero", "fatezero", "vid2vid-zero" or "tokenflow".
        num_frames: of the clip.
        every: distance of TokenFlow's key frames.
    """
    patterns: dict[str, Keep] = {
        "tune-a-video": "first_previous",
        "pix2video": "first_previous",
        "text2video-zero": "first",
        "fatezero": "self_previous_first",
        "vid2vid-zero": num_frames,
        "tokenflow": list(range(0, num_frames, every)),
    }
    if method not in patterns:
        raise ValueError(f"method must be one of {', '.join(patterns)}, got {method!r}")
    return Modulation.frames(num_frames, patterns[method])


def main() -> None:
    frames, height, width = 4, 8, 8
    layout = SpaceTimeLayout.from_masks(torch.ones(1, frames, height, width, dtype=torch.bool)).tokens(height, width)
    query, key, value = (torch.randn(1, 2, layout.num_tokens, 32) for _ in range(3))
    for method in ("tune-a-video", "text2video-zero", "fatezero", "vid2vid-zero", "tokenflow"):
        out = layout_attention(query, key, value, layout, modulation=key_frames(method, frames, every=2))
        print(f"{method}: {tuple(out.shape)}")


if __name__ == "__main__":
    main()

"""Methods in which each frame attends to the tokens of a few frames: one table of key frames each.

Their code concatenates the keys of the named frames, frame by frame. Here it is one call over the clip, with a bias of
-inf for the other frames. A frame that is named n times counts n times: its bias is log n.

    Tune-A-Video (arXiv 2212.11565)     the first frame and the one before
    Pix2Video (arXiv 2303.12688)        the same
    Text2Video-Zero (arXiv 2303.13439)  the first frame
    vid2vid-zero (arXiv 2303.17599)     all frames in its dense layers; in the others as Tune-A-Video
    FateZero (arXiv 2303.09535)         a list of positions: ["mid"] in its configurations, [-1, "first"] in its code
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from fame_accel import Modulation, SpaceTimeLayout, layout_attention
from fame_accel.core.modulation import Keep


def key_frames(method: str, num_frames: int) -> Modulation:
    """The modulation of "tune-a-video", "pix2video", "text2video-zero" or "vid2vid-zero", whose dense layers it is."""
    patterns: dict[str, Keep] = {
        "tune-a-video": "first_previous",
        "pix2video": "first_previous",
        "text2video-zero": "first",
        "vid2vid-zero": num_frames,  # a window of so many frames is all of them
    }
    if method not in patterns:
        raise ValueError(f"method must be one of {', '.join(patterns)}, got {method!r}")
    return Modulation.frames(num_frames, patterns[method])


def fatezero(num_frames: int, positions: Sequence[int | str] = (-1, "first")) -> Modulation:
    """FateZero's keys.

    Args:
        num_frames: of the clip.
        positions: offsets from the query's frame, kept inside the clip, or "first", "mid" and "last".
    """
    fixed = {"first": 0, "mid": (num_frames - 1) // 2, "last": num_frames - 1}
    unknown = [position for position in positions if isinstance(position, str) and position not in fixed]
    if unknown or not positions:
        raise ValueError(f"positions must hold offsets or {', '.join(fixed)}, at least one, got {list(positions)!r}")
    last = num_frames - 1
    return Modulation.frames(
        num_frames,
        [
            [fixed[place] if isinstance(place, str) else min(max(frame + place, 0), last) for place in positions]
            for frame in range(num_frames)
        ],
    )


def main() -> None:
    frames, height, width = 4, 8, 8
    layout = SpaceTimeLayout.from_masks(torch.ones(1, frames, height, width, dtype=torch.bool)).tokens(height, width)
    query, key, value = (torch.randn(1, 2, layout.num_tokens, 32) for _ in range(3))
    for method in ("tune-a-video", "pix2video", "text2video-zero", "vid2vid-zero"):
        out = layout_attention(query, key, value, layout, modulation=key_frames(method, frames))
        print(f"{method}: {tuple(out.shape)}")
    print(f"fatezero: {tuple(layout_attention(query, key, value, layout, modulation=fatezero(frames)).shape)}")


if __name__ == "__main__":
    main()

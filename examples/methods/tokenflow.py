"""TokenFlow's key frames (arXiv 2307.10373): sampled frames attend to each other, the source's to themselves alone.

Its code runs three branches over the key frames: the source, whose frames attend to themselves, and the edit without
and with its prompt, whose frames attend to all key frames. Here the branches are items of one batch. A frame is what
the tables tell apart: each source frame is one, and an item of the edit is one more, which sees itself. All other
frames of the clip take their results from the nearest tokens of key frames, which is no attention.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from fame_accel import Modulation, TokenLayout, layout_attention

BRANCHES = ("source", "edit", "edit")  # without and with the prompt


def key_frame_layout(
    key_frames: int, tokens: int, branches: Sequence[str] = BRANCHES
) -> tuple[TokenLayout, Modulation]:
    """Layout and modulation of a batch of branches, each [key_frames * tokens].

    Args:
        key_frames: number of sampled frames.
        tokens: of each frame.
        branches: "source" or "edit" for each item of the batch.
    """
    unknown = sorted(set(branches) - {"source", "edit"})
    if unknown or not branches:
        raise ValueError(f"branches must hold 'source' or 'edit', at least one, got {list(branches)!r}")
    alone = torch.arange(key_frames).repeat_interleave(tokens)
    together = torch.full_like(alone, key_frames)
    frame = torch.stack([alone if branch == "source" else together for branch in branches])
    return TokenLayout(torch.zeros_like(frame), frame, key_frames + 1), Modulation.frames(key_frames + 1, "self")


def main() -> None:
    key_frames, tokens = 3, 64
    layout, modulation = key_frame_layout(key_frames, tokens)
    query, key, value = (torch.randn(len(BRANCHES), 2, key_frames * tokens, 32) for _ in range(3))
    print(f"tokenflow: {tuple(layout_attention(query, key, value, layout, modulation=modulation).shape)}")


if __name__ == "__main__":
    main()

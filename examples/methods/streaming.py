"""Streaming edits: each new frame attends to itself and to the last few frames, weighed by their age.

Past keys and values stay in a ring of fixed size. The table of a step says the age of each slot; a slot that has not
been filled is excluded. A frame's result is that of the whole clip under a causal window.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fame_accel import Modulation, TokenLayout, layout_attention


class StreamingAttention:
    """Causal attention with time decay over a ring of frames.

    Args:
        slots: frames that are kept, the newest included.
        decay: rate of the weights exp(-decay * age).
    """

    def __init__(self, slots: int, decay: float) -> None:
        if slots < 1 or decay < 0:
            raise ValueError(f"slots must be at least 1 and decay at least 0, got {slots} and {decay}")
        self.slots = slots
        self.decay = decay
        self.steps = 0
        self._keys: list[Tensor] = []
        self._values: list[Tensor] = []
        self._regions: list[Tensor] = []

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, region: Tensor) -> Tensor:
        """Attention of a new frame's tokens [B, H, n, D], whose regions are int [n]."""
        slot = self.steps % self.slots
        for ring, new in ((self._keys, key), (self._values, value), (self._regions, region)):
            ring[slot : slot + 1] = [new]
        age = [(slot - other) % self.slots for other in range(len(self._keys))]
        self.steps += 1
        tokens = region.numel()
        frame = torch.arange(len(age), device=region.device).repeat_interleave(tokens)
        weights = torch.tensor([-self.decay * frames for frames in age])
        bias = torch.stack([torch.full_like(weights, -math.inf), weights])[:, None]  # other regions are excluded
        return layout_attention(
            query, torch.cat(self._keys, 2), torch.cat(self._values, 2),
            TokenLayout(region, torch.zeros_like(region), 1), TokenLayout(torch.cat(self._regions), frame, len(age)),
            Modulation(bias_table=bias),
        )  # fmt: skip


def main() -> None:
    attend = StreamingAttention(slots=3, decay=0.2)
    for _ in range(5):
        query, key, value = (torch.randn(1, 2, 16, 32) for _ in range(3))
        out = attend(query, key, value, torch.ones(16, dtype=torch.int32))
    print(f"streaming: {tuple(out.shape)} after {attend.steps} frames")


if __name__ == "__main__":
    main()

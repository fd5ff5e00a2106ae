"""MasaCtrl with masks (arXiv 2304.08465): the edit's queries attend to the source's keys, object to object.

MasaCtrl's code attends twice, with the source's object and its background masked out in turn, and blends the results by
the edit's mask. Object and background are two regions: one call does both. Each mask must have both, as a query whose
keys are all excluded gets 0 here.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fame_accel import Modulation, TokenLayout, layout_attention


def mutual_attention(query: Tensor, key: Tensor, value: Tensor, edit_mask: Tensor, source_mask: Tensor) -> Tensor:
    """Mutual self-attention.

    Args:
        query: [B, H, N, D], of the edit.
        key, value: [B, H, M, D], of the source.
        edit_mask, source_mask: bool [N] and [M], where the object is.

    Returns:
        [B, H, N, D].
    """
    queries, keys = (
        TokenLayout(torch.where(mask, 1, 2), torch.zeros_like(mask, dtype=torch.int32), 1)
        for mask in (edit_mask, source_mask)
    )
    return layout_attention(query, key, value, queries, keys, Modulation.region_mask(1))


def main() -> None:
    query, key, value = (torch.randn(1, 2, 64, 32) for _ in range(3))
    masks = torch.rand(2, 64) > 0.5
    print(f"masactrl: {tuple(mutual_attention(query, key, value, *masks).shape)}")


if __name__ == "__main__":
    main()

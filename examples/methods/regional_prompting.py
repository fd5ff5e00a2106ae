"""Regional prompting of joint text-image transformers (arXiv 2411.02395): a prompt for each region.

A prompt sees itself and the pixels of its region. Pixels see the prompts of their regions and the pixels that share a
region; pixels in no region see each other. The method's code makes an N x N mask of it. Here prompts and pixels carry
the bits of their regions, and the mask is "same region". The base prompt has an unmasked pass of its own over [base
prompt, pixels], and the pixels of both passes are blended by the base ratio.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fame_accel import Modulation, TokenLayout, layout_attention


def regional_layout(prompt_tokens: Sequence[int], masks: Tensor) -> tuple[TokenLayout, Modulation]:
    """Layout and modulation of the sequence [a prompt for each region, pixels].

    Args:
        prompt_tokens: number of tokens of each region's prompt.
        masks: bool [regions, pixels], at most 30 regions, which may overlap.

    Returns:
        What `layout_attention` takes.
    """
    if len(prompt_tokens) != len(masks):
        raise ValueError(f"prompt_tokens must have one count for each of {len(masks)} masks, got {len(prompt_tokens)}")
    bits = 1 << torch.arange(len(masks) + 1, device=masks.device)
    nowhere = ~masks.any(0, keepdim=True)
    pixels = (torch.cat([masks, nowhere]) * bits[:, None]).sum(0)
    prompts = bits[:-1].repeat_interleave(torch.tensor(prompt_tokens, device=masks.device))
    region = torch.cat([prompts, pixels])
    return TokenLayout(region, torch.zeros_like(region), 1), Modulation.region_mask(1)


def main() -> None:
    layout, modulation = regional_layout([4, 5], torch.rand(2, 64) > 0.6)
    query, key, value = (torch.randn(1, 2, layout.num_tokens, 32) for _ in range(3))
    print(f"regional prompting: {tuple(layout_attention(query, key, value, layout, modulation=modulation).shape)}")


if __name__ == "__main__":
    main()

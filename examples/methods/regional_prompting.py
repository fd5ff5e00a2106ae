"""Regional prompting of joint text-image transformers (arXiv 2411.02395): a prompt for each region, and a base prompt.

A prompt sees itself and the pixels of its region. The base prompt sees all pixels. Pixels see the base prompt, the
prompts of their regions, and pixels that share a region. The method's code makes an N x N mask; here it is one layout:
the prompts are frames, the pixels another.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fame_accel import Modulation, TokenLayout, layout_attention


def regional_layout(prompt_tokens: Sequence[int], masks: Tensor) -> tuple[TokenLayout, Modulation]:
    """Layout and modulation of the sequence [base prompt, a prompt for each region, pixels].

    Args:
        prompt_tokens: number of tokens of each prompt, the base prompt's first.
        masks: bool [regions, pixels]; pixels in no region are one of their own.

    Returns:
        What `layout_attention` takes.
    """
    regions, pixels = masks.shape
    rest = 1 << regions
    bits = sum(mask.int() << region for region, mask in enumerate(masks))
    bits = torch.where(masks.any(0), bits, torch.full((pixels,), rest, dtype=torch.int32))
    prompts = [torch.full((prompt_tokens[0],), rest << 1)]
    prompts += [torch.full((count,), 1 << region) for region, count in enumerate(prompt_tokens[1:])]
    image = len(prompt_tokens)  # the frame of the pixels
    frame = torch.cat([torch.full((count,), number) for number, count in enumerate([*prompt_tokens, pixels])])
    bias = torch.full((2, image + 1, image + 1), -torch.inf)
    for prompt in range(image):
        bias[:, prompt, prompt] = 0
    bias[:, 0, image] = bias[:, image, 0] = 0  # the base prompt, whatever the region
    bias[1, 1:, 1:][:, -1] = bias[1, 1:, 1:][-1] = 0  # index 1 is "same region"
    return TokenLayout(torch.cat([*prompts, bits]).int(), frame, image + 1), Modulation(bias_table=bias)


def main() -> None:
    layout, modulation = regional_layout([5, 4, 4], torch.rand(2, 64) > 0.6)
    query, key, value = (torch.randn(1, 2, layout.num_tokens, 32) for _ in range(3))
    print(f"regional prompting: {tuple(layout_attention(query, key, value, layout, modulation=modulation).shape)}")


if __name__ == "__main__":
    main()

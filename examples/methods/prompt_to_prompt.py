"""Prompt-to-Prompt (arXiv 2208.01626): words are weighed after the softmax, and attention maps of words are read.

Weighing the attention to a word by c is the same as weighing its value by c. A map of a word is the mass of attention
to its token: [B, H, N, words], whatever the number of tokens N, and never N x N.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fame_accel import TokenLayout, attention_mass, layout_attention


def reweighted(query: Tensor, key: Tensor, value: Tensor, weights: Tensor) -> Tensor:
    """Cross-attention of query [B, H, N, D] to text [B, H, T, D], with each word's attention times weights [T]."""
    return layout_attention(query, key, value * weights[:, None], _unbound(query), _unbound(key))


def word_maps(query: Tensor, key: Tensor, words: Tensor) -> Tensor:
    """Attention to groups of text tokens, bool [words, T]: [B, H, N, words]."""
    return attention_mass(query, key, words, _unbound(query), _unbound(key))


def _unbound(side: Tensor) -> TokenLayout:
    zeros = torch.zeros(side.shape[2], dtype=torch.int32, device=side.device)
    return TokenLayout(zeros, zeros, 1)


def main() -> None:
    query, (key, value) = torch.randn(1, 2, 64, 32), torch.randn(2, 1, 2, 77, 32)
    weights = torch.ones(77)
    weights[5] = 3.0
    print(f"reweighted: {tuple(reweighted(query, key, value, weights).shape)}")
    print(f"maps of words: {tuple(word_maps(query, key, torch.eye(77, dtype=torch.bool)).shape)}")


if __name__ == "__main__":
    main()

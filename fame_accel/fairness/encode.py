"""Encoding a prompt with debiasings injected."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from fame_accel.fairness.debias import Debias, Injection, Step, plan
from fame_accel.fairness.encoder import Encoder
from fame_accel.fairness.tokens import TokenizedPrompt

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True, eq=False)
class FairEmbeddings:
    """An encoded prompt of T tokens, for a pipeline and for its FameConfig.

    prompt_embeds: [1, T, C], the encoder's dtype and device.
    pooled_prompt_embeds: [1, P], None where the encoder has none.
    token_regions: int32 [T] on the CPU, bit r for region r; 0 for special tokens and padding.
    similarity: float32 [T] on the CPU in [0, 1], FameConfig's token_weights: the similarity of each token to the
        debiasing direction. None without debiasing, which FameConfig takes for 1 everywhere.
    injections: what each debiasing came to, in the order given.
    """

    prompt_embeds: Tensor
    pooled_prompt_embeds: Tensor | None
    token_regions: Tensor
    similarity: Tensor | None
    injections: tuple[Injection, ...]


def encode_prompt(
    tokenizer: PreTrainedTokenizerBase,
    text_encoder: PreTrainedModel,
    prompt: str,
    *,
    debias: Sequence[Debias] = (),
    regions: Mapping[str, int] = MappingProxyType({}),
    threshold: float = 0.1,
    hidden_layer: int = -1,
    final_norm: bool = False,
    device: torch.device | str | None = None,
) -> FairEmbeddings:
    """Encode a prompt, the input embeddings of each debiasing's subject moved as :class:`Debias` says.

    Tokens keep their number and positions, so regions bound to them stay valid, and nothing in the encoder changes.
    FAME (arXiv 2510.22960) names the soft injection of debiasing tokens and a similarity mask; it publishes neither
    formula. Both here are our reading.

    Of a token's output embedding h, the similarity is max(0, cos(h, d)), and 0 below ``threshold``. d points from
    the other groups to the debiasing phrase in the same hidden state: the mean output embedding of the phrase's
    tokens in "a photo of a {}", less the mean of the others'. A difference, because embeddings share a large common
    part that makes the cosine of any two high. Tokens that carry the debiasing concept stand out, the subject among
    them as far as it was moved: a subject that is balanced has a similarity near 0. With several debiasings a token
    has the largest of its similarities.

    The two encoders of Stable Diffusion XL are encoded one by one (hidden_layer=-2), their prompt_embeds then
    concatenated on the last axis. As associations differ between encoders, so may the group of a ``toward`` that is
    None: ``injections`` says which it was.

    Args:
        tokenizer: a transformers tokenizer that gives word_ids.
        text_encoder: its encoder: CLIPTextModel, CLIPTextModelWithProjection or a plain one such as BertModel. CLIP's
            are called as diffusers' pipelines call them: padded to tokenizer.model_max_length, without an attention
            mask unless the config has use_attention_mask. Others are not padded.
        prompt: one prompt.
        debias: what to inject. Occurrences of a subject are moved alike; what falls on one token adds up.
        regions: for each phrase the bitset of its regions, as in :func:`token_regions`.
        threshold: similarities below it are 0; in [0, 1].
        hidden_layer: which hidden state: -1 the encoder's output, -2 the penultimate one as Stable Diffusion XL does.
            diffusers' clip_skip of k is -(k + 1) with ``final_norm`` in Stable Diffusion, -(k + 2) in XL.
        final_norm: apply CLIP's final layer norm to an earlier hidden state.
        device: of the inputs; None is the encoder's.

    Returns:
        The embeddings, token regions, similarities and what was injected.

    Raises:
        ValueError: the prompt is too long for tokenizer or encoder, a phrase does not occur in it (the message lists
            its tokens), the groups of a debiasing have the same tokens, or ``threshold``, ``hidden_layer``,
            ``final_norm`` or a region bitset is out of range.
        TypeError: ``prompt`` is no str, ``debias`` no sequence of Debias, or the tokenizer gives no word_ids.
        RuntimeError: the encoder does not call its input embeddings.
    """
    if not isinstance(debias, Sequence) or not all(isinstance(entry, Debias) for entry in debias):
        raise TypeError(f"debias must be a sequence of Debias, got {debias!r}")
    if isinstance(threshold, bool) or not isinstance(threshold, (int, float)) or not 0 <= threshold <= 1:
        raise ValueError(f"threshold must be a number in [0, 1], got {threshold!r}")
    encoder = Encoder(tokenizer, text_encoder, hidden_layer, final_norm, device)
    tokens = encoder.tokenize(prompt, pad=True)
    token_regions = tokens.regions(regions)
    subjects = [tokens.find(entry.subject) for entry in debias]  # a missing one is an error before any measurement
    steps = []
    for entry in debias:  # no comprehension: its frame, gone in Python 3.12, would count in plan's warning
        steps.append(plan(encoder, entry))
    # an injection of nothing is left out, as adding 0 could turn -0 into 0
    shifts = [(found, step.shift) for found, step in zip(subjects, steps, strict=True) if step.injection.share]
    hidden, pooled = encoder(tokens, shifts)
    similarity = _similarity(hidden[0], tokens, steps, threshold) if steps else None
    return FairEmbeddings(hidden, pooled, token_regions, similarity, tuple(step.injection for step in steps))


def _similarity(hidden: Tensor, tokens: TokenizedPrompt, steps: Sequence[Step], threshold: float) -> Tensor:
    directions = torch.stack([step.direction for step in steps])
    cosine = cosine_similarity(hidden.float()[:, None], directions[None], dim=-1).amax(1).cpu()  # [T]
    return cosine.clamp(0, 1).where(tokens.content() & (cosine >= threshold), torch.zeros(()))

"""Encoding a prompt with debiasings injected."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from fame_accel.core.checks import shown
from fame_accel.fairness.debias import Debias, Injection, PlannedInjection, plan_injection
from fame_accel.fairness.encoder import Encoder
from fame_accel.fairness.tokens import TokenizedPrompt

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True, eq=False)
class FairEmbeddings:
    """An encoded prompt of T tokens, for a pipeline and its FameConfig.

    Attributes:
        prompt_embeds: [1, T, C], in the encoder's dtype and on its device.
        pooled_prompt_embeds: [1, P]; None if the encoder has none.
        token_regions: int32 [T] on the CPU, bit r for region r; 0 for special tokens and padding.
        similarity: float32 [T] on the CPU in [0, 1], the similarity of each token to the debiasing direction: the
            token_weights of FameConfig. None without debiasing, which FameConfig reads as 1 for every token.
        injections: the outcome of each debiasing, in the given order.
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
    """Encode a prompt and move the input embeddings of each debiasing's subject, as :class:`Debias` describes.

    Tokens keep their number and positions, so regions bound to them stay valid. The encoder itself does not change.
    FAME (arXiv 2510.22960) names a soft injection of debiasing tokens and a similarity mask but publishes no formula
    for either. Both formulas here are our interpretation.

    The similarity of a token with output embedding h is max(0, cos(h, d)), and 0 below ``threshold``. d is the
    debiasing direction: the mean output embedding of the debiasing phrase's tokens in "a photo of a {}", minus the
    mean of the other groups'. It is a difference because embeddings share a large common part, which makes the cosine
    of any two high. Tokens that carry the debiasing concept stand out, and so does the subject as far as it was moved;
    a balanced subject has a similarity near 0. With several debiasings, a token has the largest of its similarities.

    For Stable Diffusion XL, call this once for each of the two encoders with hidden_layer=-2 and concatenate the
    prompt_embeds along the last axis. Associations differ between encoders, so if ``toward`` is None the group may
    differ too; ``injections`` tells which it was.

    Args:
        tokenizer: a transformers tokenizer with word_ids.
        text_encoder: a CLIPTextModel, a CLIPTextModelWithProjection or another encoder such as BertModel. CLIP's are
            called as diffusers' pipelines call them: the prompt is padded to tokenizer.model_max_length, and there is
            no attention mask unless the config has use_attention_mask. For other encoders nothing is padded.
        prompt: one prompt.
        debias: what to inject. Every occurrence of a subject is moved. Several shifts of one token are added.
        regions: the bitset of regions for each phrase, as in :func:`token_regions`.
        threshold: similarities below it become 0; in [0, 1].
        hidden_layer: which hidden state to take: -1 is the encoder's output, -2 the penultimate one, which Stable
            Diffusion XL uses. A clip_skip of k in diffusers is -(k + 1) with ``final_norm`` in Stable Diffusion and
            -(k + 2) in XL.
        final_norm: apply CLIP's final layer norm to an earlier hidden state.
        device: device of the inputs; None is the encoder's.

    Returns:
        The embeddings, token regions, similarities and injections.

    Raises:
        ValueError: the prompt is too long for the tokenizer or encoder, a phrase does not occur in it (the message
            lists its tokens), the groups of a debiasing have the same tokens, or ``threshold``, ``hidden_layer``,
            ``final_norm`` or a region bitset is out of range.
        TypeError: ``prompt`` is not a str, ``debias`` is not a sequence of Debias, ``regions`` is not a mapping, or the
            tokenizer or the encoder is none of transformers, or has no word_ids.
        RuntimeError: the encoder does not call its input embeddings.
    """
    if not isinstance(debias, Sequence) or not all(isinstance(entry, Debias) for entry in debias):
        raise TypeError(f"debias must be a sequence of Debias, got {shown(debias)}")
    if isinstance(threshold, bool) or not isinstance(threshold, (int, float)) or not 0 <= threshold <= 1:
        raise ValueError(f"threshold must be a number in [0, 1], got {shown(threshold)}")
    if not isinstance(regions, Mapping):
        raise TypeError(f"regions must map phrases to bitsets, got {shown(regions)}")
    if not hasattr(tokenizer, "model_max_length"):
        raise TypeError(f"tokenizer must be a tokenizer of transformers, got {shown(tokenizer)}")
    if not isinstance(text_encoder, torch.nn.Module) or not hasattr(text_encoder, "config"):
        raise TypeError(f"text_encoder must be a text encoder of transformers, got {shown(text_encoder)}")
    encoder = Encoder(tokenizer, text_encoder, hidden_layer, final_norm, device)
    tokens = encoder.tokenize(prompt, pad=True)
    token_regions = tokens.regions(regions)
    subjects = [tokens.find(entry.subject) for entry in debias]  # raises for a missing one before anything is measured
    planned = []
    for entry in debias:  # not a comprehension: its frame, gone in Python 3.12, would count in the warning's stacklevel
        planned.append(plan_injection(encoder, entry))
    # a share of 0 is left out, as adding 0 could turn -0 into 0
    shifts = [
        (positions, plan.shift) for positions, plan in zip(subjects, planned, strict=True) if plan.injection.share
    ]
    hidden, pooled = encoder(tokens, shifts)
    similarity = _similarity(hidden[0], tokens, planned, threshold) if planned else None
    return FairEmbeddings(hidden, pooled, token_regions, similarity, tuple(plan.injection for plan in planned))


def _similarity(
    hidden: Tensor, tokens: TokenizedPrompt, planned: Sequence[PlannedInjection], threshold: float
) -> Tensor:
    """Return the similarity [T] of each token to the debiasing directions, 0 for special tokens and padding."""
    directions = torch.stack([plan.direction for plan in planned])
    cosine = cosine_similarity(hidden.float()[:, None], directions[None], dim=-1).amax(1).cpu()  # [T]
    return cosine.clamp(0, 1).masked_fill(~(tokens.content() & (cosine >= threshold)), 0.0)

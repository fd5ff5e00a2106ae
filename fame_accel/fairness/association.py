"""How strongly a text encoder associates a word with groups of people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from fame_accel.fairness.encoder import Encoder

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

TEMPLATE = "a photo of a {}"


def association(
    tokenizer: PreTrainedTokenizerBase,
    text_encoder: PreTrainedModel,
    word: str,
    groups: Sequence[str] = ("male", "female"),
    *,
    template: str = TEMPLATE,
    hidden_layer: int = -1,
    final_norm: bool = False,
    device: torch.device | str | None = None,
) -> dict[str, float]:
    """Measure the cosine similarity of a word and each group phrase in a text encoder.

    The word and each phrase are put into the template. The embedding of a text is the mean of its hidden states over
    all tokens except special ones. If a word is nearer to one group than to another, the encoder learned this from its
    training text: over the 40 WinoBias professions in MiniLM, the difference between "male" and "female" correlates
    with the measured share of women. The similarity does not measure who holds a profession, whom an image model
    draws for it, or anything about a person. It depends on the encoder, on the words for the groups and on the
    template, and it says nothing about groups that are not named.

    Args:
        tokenizer, text_encoder: of transformers.
        word: a word or phrase.
        groups: phrases that name the groups, at least one.
        template: a text with one ``{}``.
        hidden_layer, final_norm, device: as in :func:`encode_prompt`.

    Returns:
        A cosine in [-1, 1] for each group phrase.

    Raises:
        ValueError: there are no groups, a phrase is empty, the template does not have one ``{}``, or ``hidden_layer``
            or ``final_norm`` does not fit the encoder.
        TypeError: ``groups`` is a str.
    """
    if isinstance(groups, str):
        raise TypeError(f"groups must be a sequence of phrases, got the str {groups!r}")
    if not groups:
        raise ValueError("groups must name at least one group")
    if template.count("{}") != 1:
        raise ValueError(f"template must have one {{}}, got {template!r}")
    encoder = Encoder(tokenizer, text_encoder, hidden_layer, final_norm, device)
    references = {group: phrase_embedding(encoder, group, template=template) for group in groups}
    return cosines(phrase_embedding(encoder, word, template=template), references)


def phrase_embedding(
    encoder: Encoder, phrase: str, shift: Tensor | None = None, *, template: str = TEMPLATE, phrase_only: bool = False
) -> Tensor:
    """Encode a phrase within the template.

    Args:
        encoder: what encodes it.
        phrase: a word or phrase.
        shift: float [C_in], added to the input embeddings of the phrase's tokens.
        template: a text with one ``{}``.
        phrase_only: take the mean over the tokens of the phrase, not over all words of the template.

    Returns:
        float32 [C], the mean of the hidden states.
    """
    if not phrase.strip():
        raise ValueError(f"phrases must not be empty, got {phrase!r}")
    prompt = encoder.tokenize(template.replace("{}", phrase))
    positions = prompt.find(phrase)
    hidden, _ = encoder(prompt, () if shift is None else [(positions, shift)])
    return hidden[0, positions if phrase_only else prompt.content()].float().mean(0)


def cosines(embedding: Tensor, references: Mapping[str, Tensor]) -> dict[str, float]:
    """Return the cosine similarity of an embedding [C] to each reference [C]."""
    return {group: float(cosine_similarity(embedding, other, dim=0)) for group, other in references.items()}

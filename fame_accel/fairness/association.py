"""How strongly a text encoder associates a word with the groups it may describe."""

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
    """The cosine similarity of a word and each group phrase in this encoder.

    Word and phrases are put into the template in turn; the embedding of each is the mean of the hidden state over the
    template's words, without special tokens. A word nearer to one group than to another is what the encoder makes
    of its training text: over the 40 WinoBias professions in MiniLM, the difference between "male" and "female"
    correlates with the measured share of women. It is no measure of who holds a profession, of whom an image model
    draws for it, or of a person: it depends on the encoder, on the words chosen for the groups and on the template,
    and groups that are not named are not seen.

    Args:
        tokenizer, text_encoder: of transformers.
        word: a word or phrase.
        groups: phrases of the groups, at least one.
        template: a text with one ``{}``.
        hidden_layer, final_norm, device: as in :func:`encode_prompt`.

    Returns:
        For each group phrase a cosine in [-1, 1].

    Raises:
        ValueError: no group, an empty phrase, a template without ``{}``, or a bad ``hidden_layer`` or ``final_norm``.
        TypeError: ``groups`` is one str.
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
    encoder: Encoder, phrase: str, shift: Tensor | None = None, *, template: str = TEMPLATE, own: bool = False
) -> Tensor:
    """float32 [C]: the mean hidden state over the words of the template with ``phrase`` in it.

    ``own`` takes the mean over the tokens of the phrase alone. ``shift`` [C_in] is added to their input embeddings.
    """
    if not phrase.strip():
        raise ValueError(f"a phrase must not be empty, got {phrase!r}")
    prompt = encoder.tokenize(template.replace("{}", phrase))
    positions = prompt.find(phrase)
    hidden, _ = encoder(prompt, () if shift is None else [(positions, shift)])
    return hidden[0, positions if own else prompt.content()].float().mean(0)


def cosines(embedding: Tensor, references: Mapping[str, Tensor]) -> dict[str, float]:
    """The cosine similarity of an embedding [C] to each reference [C]."""
    return {group: float(cosine_similarity(embedding, other, dim=0)) for group, other in references.items()}

"""The text of an edit: embeddings with the fairness injection and the phrases of regions, and what its tokens mean."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fame_accel.core.checks import shown
from fame_accel.fairness import Debias, FairEmbeddings, Injection, encode_prompt
from fame_accel.fairness.tokens import TokenizedPrompt, tokenize
from fame_accel.pipeline.checks import check_finite

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class EditText:
    """An encoded prompt of T tokens.

    Attributes:
        prompt_embeds: [1, T, C].
        pooled: [1, P], the pooled embedding of the last encoder; None if it has none.
        token_regions: int32 [T], the region bitset of each token.
        token_weights: float32 [T] in [0, 1]; None is 1 for every token.
        injections: the outcome of each debiasing, one encoder after the other.
    """

    prompt_embeds: Tensor
    pooled: Tensor | None
    token_regions: Tensor
    token_weights: Tensor | None
    injections: tuple[Injection, ...]


def encode_text(
    pipeline: Any,
    encoders: Sequence[tuple[Any, Any]],
    prompt: str,
    *,
    layer: Mapping[str, Any],
    debias: Sequence[Debias] = (),
    phrases: Mapping[str, str] | None = None,
    names: Sequence[str] = (),
    isolate: bool = False,
) -> EditText:
    """Encode a prompt as Stable Diffusion does, with debiasings injected and phrases bound to regions.

    Args:
        pipeline: the diffusers pipeline, which knows the words of textual inversion and the device.
        encoders: pairs of tokenizer and text encoder. Their embeddings are concatenated along the channels.
        prompt: one prompt for all frames.
        layer: hidden_layer and final_norm of :func:`encode_prompt`.
        debias: what to inject.
        phrases: the phrase bound to each region, by name.
        names: all regions; bit r stands for names[r].
        isolate: give the tokens of a phrase the embeddings of the phrase encoded alone, with the injections whose
            subject it contains. If phrases overlap, the longest one counts.

    Returns:
        The embeddings and what their tokens mean.

    Raises:
        ValueError, TypeError: an argument has the wrong form, a phrase or subject does not occur in the prompt, or the
            encoders disagree on the tokens or on the group that a debiasing moves toward.
    """
    phrases = {} if phrases is None else phrases
    _check(prompt, debias, phrases, names)
    options = dict(layer) | {"device": pipeline._execution_device}
    parts = []
    for tokenizer, text_encoder in encoders:
        expand = partial(pipeline.maybe_convert_prompt, tokenizer=tokenizer)  # textual inversion: a word, many tokens
        regions: dict[str, int] = {}
        for region, phrase in phrases.items():
            regions[expand(phrase)] = regions.get(expand(phrase), 0) | 1 << names.index(region)
        subjects = [replace(entry, subject=expand(entry.subject)) for entry in debias]
        parts.append(_encode(tokenizer, text_encoder, expand(prompt), subjects, regions, isolate, options))
    first = parts[0]
    for part in parts[1:]:
        _check_agreement(prompt, first, part)
    weights = [part.token_weights for part in parts if part.token_weights is not None]
    return EditText(
        torch.cat([part.prompt_embeds for part in parts], dim=-1),
        parts[-1].pooled,
        first.token_regions,
        torch.stack(weights).amax(0) if weights else None,
        tuple(injection for part in parts for injection in part.injections),
    )


def _encode(
    tokenizer: Any,
    text_encoder: Any,
    prompt: str,
    debias: Sequence[Debias],
    regions: Mapping[str, int],
    isolate: bool,
    options: Mapping[str, Any],
) -> EditText:
    """Encode the prompt with one encoder. ``regions``: bitset by phrase; ``options``: those of `encode_prompt`."""
    encoded = encode_prompt(tokenizer, text_encoder, prompt, debias=debias, regions=regions, **options)
    check_finite("text embeddings", encoded.prompt_embeds, text_encoder.dtype, "the text encoder")
    is_padded = text_encoder.config.model_type == "clip_text_model"  # other encoders get no padding
    tokens = tokenize(tokenizer, prompt, tokenizer.model_max_length, is_padded)
    embeddings = encoded.prompt_embeds.clone()
    if isolate:
        phrases = {phrase: tokenize(tokenizer, phrase, tokenizer.model_max_length, is_padded) for phrase in regions}
        # the longest phrase is written last
        for phrase in sorted(phrases, key=lambda phrase: (int(phrases[phrase].content().sum()), phrase)):
            alone = phrases[phrase]
            contained = [entry for entry in debias if alone.spans(entry.subject)]
            isolated = encode_prompt(tokenizer, text_encoder, phrase, debias=contained, **options).prompt_embeds
            for span in tokens.spans(phrase):
                if not torch.equal(tokens.ids[span], alone.ids[alone.content()]):
                    logger.warning("%r has other tokens alone than in the prompt: it is not encoded by itself", phrase)
                    continue
                embeddings[:, span] = isolated[:, alone.content()]
    weights = _token_weights(encoded, tokens, debias)
    return EditText(embeddings, encoded.pooled_prompt_embeds, encoded.token_regions, weights, encoded.injections)


def _token_weights(encoded: FairEmbeddings, tokens: TokenizedPrompt, debias: Sequence[Debias]) -> Tensor | None:
    """Weigh each token in cross-attention by its similarity to the debiasing direction.

    The tokens of a region without a subject that is moved toward a given phrase keep the weight 1, so that their
    phrases are not weakened. Without any such subject, None is returned, 1 for every token as in VideoGrain: a subject
    that is only balanced is similar to no group.
    """
    directed = [entry for entry in debias if entry.toward is not None and entry.eta]
    if not directed:
        return None
    debiased = 0
    for entry in directed:
        for bits in encoded.token_regions[tokens.find(entry.subject)].tolist():
            debiased |= bits
    others = (encoded.token_regions != 0) & ((encoded.token_regions & debiased) == 0)
    assert encoded.similarity is not None  # there is a debiasing
    return encoded.similarity.masked_fill(others, 1.0)


def _check(prompt: str, debias: Sequence[Debias], phrases: Mapping[str, str], names: Sequence[str]) -> None:
    """Raise if an argument of `encode_text` has the wrong form; messages use the names of the pipeline's arguments."""
    if not isinstance(prompt, str):
        raise TypeError(f"prompt must be a str, one for all frames, got {type(prompt).__name__}")
    if not isinstance(debias, (list, tuple)) or not all(isinstance(entry, Debias) for entry in debias):
        raise TypeError(f"debias must be a list or tuple of Debias, got {shown(debias)}")
    if not isinstance(phrases, Mapping) or not all(isinstance(phrase, str) for phrase in phrases.values()):
        raise TypeError(f"regions must map names of regions to phrases of the prompt, got {shown(phrases)}")
    unknown = [region for region in phrases if region not in names]
    if unknown:
        raise ValueError(f"regions names {unknown[0]!r}, but masks has {', '.join(names)}")


def _check_agreement(prompt: str, first: EditText, other: EditText) -> None:
    """Raise ValueError unless two encoders have the same tokens and move each subject toward the same group."""
    if not torch.equal(first.token_regions, other.token_regions):
        raise ValueError(f"prompt must have the same tokens for each text encoder, which differ: {prompt!r}")
    for one, another in zip(first.injections, other.injections, strict=True):
        if one.toward != another.toward:
            raise ValueError(
                f"debias of {one.subject!r} needs toward: the text encoders measure different groups as "
                f"under-represented, {one.toward!r} and {another.toward!r}"
            )

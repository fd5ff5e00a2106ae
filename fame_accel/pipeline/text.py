"""Text of an edit: embeddings with the fairness injection and the phrases of regions, and what its tokens mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fame_accel.fairness import Debias, FairEmbeddings, Injection, encode_prompt
from fame_accel.fairness.tokens import TokenizedPrompt, tokenize


@dataclass(frozen=True, eq=False)
class EditText:
    """An encoded prompt of T tokens.

    prompt_embeds [1, T, C]; pooled [1, P] of the last encoder, None where it has none; token_regions int32 [T], the
    region bitset of each token; token_weights float32 [T] in [0, 1] or None, which is 1 everywhere; injections: what
    each debiasing came to, encoder by encoder.
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

    encoders: (tokenizer, text encoder), whose embeddings are concatenated; layer: their hidden_layer and final_norm.
    phrases: by region name the phrase bound to it; names: all regions, bit r for names[r]. isolate: the embeddings of a
    phrase are those of the phrase encoded alone, with the injections whose subject it holds; where phrases overlap,
    those of the longest.
    """
    phrases = {} if phrases is None else phrases
    _check(prompt, debias, phrases, names)
    options = dict(layer) | {"device": pipeline._execution_device}
    parts = []
    for tokenizer, text_encoder in encoders:
        whole = partial(pipeline.maybe_convert_prompt, tokenizer=tokenizer)  # textual inversion's words of many tokens
        bits: dict[str, int] = {}
        for region, phrase in phrases.items():
            bits[whole(phrase)] = bits.get(whole(phrase), 0) | 1 << names.index(region)
        subjects = [replace(one, subject=whole(one.subject)) for one in debias]
        parts.append(_encode(tokenizer, text_encoder, whole(prompt), subjects, bits, isolate, options))
    first = parts[0]
    for part in parts[1:]:
        if not torch.equal(part.token_regions, first.token_regions):
            raise ValueError(f"prompt must have the same tokens for each text encoder, which differ: {prompt!r}")
        for one, other in zip(first.injections, part.injections, strict=True):
            if one.toward != other.toward:
                raise ValueError(
                    f"debias of {one.subject!r} needs toward: the text encoders measure different groups as "
                    f"under-represented, {one.toward!r} and {other.toward!r}"
                )
    weights = None
    if first.token_weights is not None:
        weights = torch.stack([part.token_weights for part in parts]).amax(0)
    return EditText(
        torch.cat([part.prompt_embeds for part in parts], dim=-1),
        parts[-1].pooled,
        first.token_regions,
        weights,
        tuple(injection for part in parts for injection in part.injections),
    )


def _encode(
    tokenizer: Any,
    text_encoder: Any,
    prompt: str,
    debias: Sequence[Debias],
    bits: Mapping[str, int],
    isolate: bool,
    options: Mapping[str, Any],
) -> EditText:
    whole = encode_prompt(tokenizer, text_encoder, prompt, debias=debias, regions=bits, **options)
    tokens = _tokenized(tokenizer, prompt)
    embeddings = whole.prompt_embeds
    if isolate and bits:
        embeddings = embeddings.clone()
        phrases = {phrase: _tokenized(tokenizer, phrase) for phrase in bits}
        for phrase in sorted(phrases, key=lambda phrase: (int(phrases[phrase].content().sum()), phrase)):
            alone = phrases[phrase]
            held = [one for one in debias if alone.spans(one.subject)]
            encoded = encode_prompt(tokenizer, text_encoder, phrase, debias=held, **options)
            for span in tokens.spans(phrase):
                embeddings[:, span] = encoded.prompt_embeds[:, alone.content()]
    weights = _token_weights(whole, tokens, debias)
    return EditText(embeddings, whole.pooled_prompt_embeds, whole.token_regions, weights, whole.injections)


def _token_weights(text: FairEmbeddings, tokens: TokenizedPrompt, debias: Sequence[Debias]) -> Tensor | None:
    """A token's similarity to the debiasing direction, but 1 for the tokens of regions without a subject that is drawn
    to a debiasing phrase: their own phrases keep their hold. None, 1 for every token as in VideoGrain, without any: a
    subject that is only balanced is similar to neither group."""
    drawn = [one for one in debias if one.toward is not None and one.eta]
    if not drawn:
        return None
    debiased = 0
    for one in drawn:
        for bits in text.token_regions[tokens.find(one.subject)].tolist():
            debiased |= bits
    others = (text.token_regions != 0) & ((text.token_regions & debiased) == 0)
    return text.similarity.masked_fill(others, 1.0)


def _tokenized(tokenizer: Any, text: str) -> TokenizedPrompt:
    return tokenize(tokenizer, text, tokenizer.model_max_length, pad=True)


def _check(prompt: str, debias: Sequence[Debias], phrases: Mapping[str, str], names: Sequence[str]) -> None:
    if not isinstance(prompt, str):
        raise TypeError(f"prompt must be a str, got {type(prompt).__name__}: one prompt is for all frames")
    if not isinstance(debias, (list, tuple)) or not all(isinstance(one, Debias) for one in debias):
        raise TypeError(f"debias must be a list or tuple of Debias, got {debias!r}")
    if not isinstance(phrases, Mapping) or not all(isinstance(phrase, str) for phrase in phrases.values()):
        raise TypeError(f"regions must map names of regions to phrases of the prompt, got {phrases!r}")
    unknown = [region for region in phrases if region not in names]
    if unknown:
        raise ValueError(f"regions names {unknown[0]!r}, but masks has {', '.join(names)}")

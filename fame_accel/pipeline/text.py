"""Text of an edit: embeddings with the fairness injection and the phrases of regions, and what its tokens mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fame_accel.fairness import Debias, FairEmbeddings, Injection, encode_prompt
from fame_accel.fairness.tokens import TokenizedPrompt, tokenize


@dataclass(frozen=True, eq=False)
class EditText:
    """prompt_embeds [1, T, C]; token_regions int32 [T], the region bitset of each token; token_weights float32 [T] in
    [0, 1] or None, which is 1 everywhere; injections: what each debiasing came to."""

    prompt_embeds: Tensor
    token_regions: Tensor
    token_weights: Tensor | None
    injections: tuple[Injection, ...]


def encode_text(
    pipeline: Any,
    prompt: str,
    *,
    debias: Sequence[Debias] = (),
    phrases: Mapping[str, str] | None = None,
    names: Sequence[str] = (),
    isolate: bool = False,
    clip_skip: int | None = None,
) -> EditText:
    """Encode a prompt as Stable Diffusion does, with debiasings injected and phrases bound to regions.

    phrases: by region name the phrase bound to it; names: all regions, bit r for names[r]. isolate: the embeddings of a
    phrase are those of the phrase encoded alone, with the injections whose subject it holds.
    """
    phrases = dict(phrases or {})
    _check(prompt, debias, phrases, names)
    prompt = pipeline.maybe_convert_prompt(prompt, pipeline.tokenizer)  # textual inversion's words of several tokens
    bits: dict[str, int] = {}
    for region, phrase in phrases.items():
        bits[phrase] = bits.get(phrase, 0) | 1 << names.index(region)

    def encode(text: str, debias: Sequence[Debias], regions: Mapping[str, int]) -> FairEmbeddings:
        return encode_prompt(
            pipeline.tokenizer,
            pipeline.text_encoder,
            text,
            debias=debias,
            regions=regions,
            hidden_layer=-1 - (clip_skip or 0),
            final_norm=bool(clip_skip),
            device=pipeline._execution_device,
        )

    whole = encode(prompt, debias, bits)
    tokens = _tokenized(pipeline, prompt)
    embeddings = whole.prompt_embeds
    if isolate and bits:
        embeddings = embeddings.clone()
        for phrase in bits:
            alone = _tokenized(pipeline, phrase)
            held = [one for one in debias if alone.spans(one.subject)]
            encoded = encode(phrase, held, {}).prompt_embeds[:, alone.content()]
            for span in tokens.spans(phrase):
                embeddings[:, span] = encoded
    weights = _token_weights(whole, tokens, debias)
    return EditText(embeddings, whole.token_regions, weights, whole.injections)


def _token_weights(text: FairEmbeddings, tokens: TokenizedPrompt, debias: Sequence[Debias]) -> Tensor | None:
    """A token's similarity to the debiasing direction, but 1 for the tokens of regions without a debiased subject,
    whose phrases keep their hold. None without debiasing, as in VideoGrain."""
    if text.similarity is None:
        return None
    debiased = 0
    for one in debias:
        for bits in text.token_regions[tokens.find(one.subject)].tolist():
            debiased |= bits
    others = (text.token_regions != 0) & ((text.token_regions & debiased) == 0)
    return text.similarity.masked_fill(others, 1.0)


def _tokenized(pipeline: Any, text: str) -> TokenizedPrompt:
    return tokenize(pipeline.tokenizer, text, pipeline.tokenizer.model_max_length, pad=True)


def _check(prompt: str, debias: Sequence[Debias], phrases: Mapping[str, str], names: Sequence[str]) -> None:
    if not isinstance(prompt, str):
        raise TypeError(f"prompt must be a str, got {type(prompt).__name__}: one prompt is for all frames")
    if not isinstance(debias, (list, tuple)) or not all(isinstance(one, Debias) for one in debias):
        raise TypeError(f"debias must be a list or tuple of Debias, got {debias!r}")
    unknown = [region for region in phrases if region not in names]
    if unknown:
        raise ValueError(f"regions names {unknown[0]!r}, but masks has {', '.join(names)}")

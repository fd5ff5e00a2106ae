"""The tokens of a prompt: which of them form a phrase, and which regions they are bound to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fame_accel.fairness.phrases import find_phrase

if TYPE_CHECKING:
    from transformers import BatchEncoding, PreTrainedTokenizerBase

_NO_LIMIT = 10**9  # tokenizers without a limit report 10**30


@dataclass(frozen=True, eq=False)
class TokenizedPrompt:
    """A prompt as its encoder sees it, with special tokens and padding.

    Attributes:
        tokenizer: the tokenizer.
        ids: int64 [T].
        attention_mask: int64 [T], 0 for padding.
        names: the tokens as text, without special tokens and padding.
        words: the positions of each word's tokens.
        text: the text.
        characters: the first character of each token and the one after its last; None for special tokens and padding.
    """

    tokenizer: PreTrainedTokenizerBase
    ids: Tensor
    attention_mask: Tensor
    names: list[str]
    words: list[slice]
    text: str
    characters: list[tuple[int, int] | None]

    def content(self) -> Tensor:
        """Return a mask, bool [T]: True for the tokens of words, False for special tokens and padding."""
        mask = torch.zeros(len(self.ids), dtype=torch.bool, device="cpu")
        for word in self.words:
            mask[word] = True
        return mask

    def find(self, phrase: str) -> Tensor:
        """Return a mask, bool [T], of every occurrence of a phrase as whole words; ValueError if there is none."""
        mask = torch.zeros(len(self.ids), dtype=torch.bool, device="cpu")
        for span in self.spans(phrase):
            mask[span] = True
        if not mask.any():
            raise ValueError(f"{phrase!r} does not occur in the prompt, whose tokens are {self.names}")
        return mask

    def spans(self, phrase: str) -> list[slice]:
        """Return the positions of every occurrence of a phrase as whole words."""
        _check_unicode("a phrase", phrase)
        normalizer = self.tokenizer.backend_tokenizer.normalizer
        spans = []
        for start, end in find_phrase(self.text, phrase, normalizer.normalize_str if normalizer else str):
            inside = [
                position
                for position, token in enumerate(self.characters)
                if token is not None and token[0] < end and start < token[1]
            ]
            if inside:
                spans.append(slice(inside[0], inside[-1] + 1))
        return spans

    def regions(self, bindings: Mapping[str, int]) -> Tensor:
        """Return the region bitset of each token, int32 [T], as :func:`token_regions` does."""
        regions = torch.zeros(len(self.ids), dtype=torch.int32, device="cpu")
        for phrase, bits in bindings.items():
            if type(bits) is not int:
                raise TypeError(f"the region bitset of {phrase!r} must be an int, got {type(bits).__name__}")
            if not 0 < bits < 2**31:
                raise ValueError(f"the region bitset of {phrase!r} must be 1 to 2**31 - 1, got {bits}")
            regions[self.find(phrase)] |= bits
        return regions


def tokenize(tokenizer: PreTrainedTokenizerBase, prompt: str, limit: int, pad: bool) -> TokenizedPrompt:
    """Tokenize a prompt.

    Args:
        tokenizer: a transformers tokenizer with word_ids.
        prompt: the prompt.
        limit: the most tokens it may have, special tokens included.
        pad: pad it to ``limit`` tokens.

    Raises:
        ValueError: the prompt has more tokens or is not valid Unicode.
        TypeError: it is not a str, or the tokenizer has no word_ids.
    """
    if not isinstance(prompt, str):
        raise TypeError(f"prompt must be a str, got {type(prompt).__name__}")
    _check_unicode("prompt", prompt)
    if not getattr(tokenizer, "is_fast", False):
        raise TypeError(
            f"tokenizer must have word_ids, as those built on the package tokenizers do; "
            f"{type(tokenizer).__name__} has none"
        )
    # what is a special token elsewhere, such as the "!" that Stable Diffusion XL pads with, is text in a prompt
    encoding = tokenizer(prompt, split_special_tokens=True, verbose=False)  # the length is checked here, not warned of
    length = len(encoding["input_ids"])
    if length > limit:
        raise ValueError(f"the prompt has {length} tokens, special tokens included; at most {limit} fit")
    words = _words(encoding)
    names = [token for word in words for token in encoding.tokens()[word]]
    if pad:
        encoding = tokenizer(prompt, split_special_tokens=True, padding="max_length", max_length=limit)
        words = _words(encoding)  # a tokenizer may pad on the left
    ids, mask = (torch.tensor(encoding[key], device="cpu") for key in ("input_ids", "attention_mask"))
    spans = [encoding.token_to_chars(position) for position in range(len(ids))]
    characters = [None if span is None else (span.start, span.end) for span in spans]
    return TokenizedPrompt(tokenizer, ids, mask, names, words, prompt, characters)


def token_regions(tokenizer: PreTrainedTokenizerBase, prompt: str, bindings: Mapping[str, int]) -> Tensor:
    """Bind phrases of a prompt to regions.

    Args:
        tokenizer: a transformers tokenizer with word_ids (CLIP's, WordPiece, byte-level BPE, SentencePiece with word
            boundaries).
        prompt: the prompt, at most T = ``tokenizer.model_max_length`` tokens with special ones: 77 for CLIP.
        bindings: the bitset of regions for each phrase: ``{"female doctor": 0b01, "car": 0b10}``. A phrase matches
            whole words, as `find_phrase` tells them, wherever it occurs; whether case matters depends on the tokenizer.
            If phrases overlap, a token gets the bits of both.

    Returns:
        int32 tensor [T], the region bitset of each token; 0 for special tokens, padding and unbound tokens.

    Raises:
        ValueError: the prompt is too long, a phrase does not occur in it, a bitset is not in 1 to 2**31 - 1, or the
            tokenizer has no model_max_length.
        TypeError: the prompt is not a str, a bitset is not an int, or the tokenizer has no word_ids.
    """
    limit = max_length(tokenizer)
    if limit >= _NO_LIMIT:
        raise ValueError("tokenizer.model_max_length must be set: the prompt is padded to it")
    return tokenize(tokenizer, prompt, limit, pad=True).regions(bindings)


def max_length(tokenizer: PreTrainedTokenizerBase, positions: int | None = None) -> int:
    """Return how many tokens fit in the tokenizer and in the encoder's position embeddings, if it has any."""
    return min(int(tokenizer.model_max_length), _NO_LIMIT if positions is None else positions)


def _check_unicode(name: str, text: str) -> None:
    """Raise ValueError for a lone surrogate, which Python makes of bytes that are not UTF-8."""
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        raise ValueError(f"{name} must be valid Unicode, got {text!r}")


def _words(encoding: BatchEncoding) -> list[slice]:
    """Return the positions of each word of an encoded text. Special tokens and padding are no words."""
    words = []
    ids = encoding.word_ids()
    for word, positions in groupby(range(len(ids)), ids.__getitem__):
        if word is not None:
            span = list(positions)
            words.append(slice(span[0], span[-1] + 1))
    return words

"""The tokens of a prompt: which of them make up a phrase, and the regions they are bound to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers import BatchEncoding, PreTrainedTokenizerBase

_NO_LIMIT = 10**9  # tokenizers without a limit give 10**30


@dataclass(frozen=True, eq=False)
class TokenizedPrompt:
    """A prompt as its encoder sees it, special tokens and padding included.

    ids: int64 [T]. attention_mask: int64 [T], 0 on padding. names: the tokens as text, without special ones and
    padding. words: (first position, token ids) of each word.
    """

    tokenizer: PreTrainedTokenizerBase
    ids: Tensor
    attention_mask: Tensor
    names: list[str]
    words: list[tuple[int, tuple[int, ...]]]

    def content(self) -> Tensor:
        """bool [T]: True on the tokens of words, False on special tokens and padding."""
        mask = torch.zeros(len(self.ids), dtype=torch.bool)
        for start, ids in self.words:
            mask[start : start + len(ids)] = True
        return mask

    def find(self, phrase: str) -> Tensor:
        """bool [T]: True on every occurrence of ``phrase`` as whole words; ValueError where there is none."""
        mask = torch.zeros(len(self.ids), dtype=torch.bool)
        for span in self.spans(phrase):
            mask[span] = True
        if not mask.any():
            raise ValueError(f"{phrase!r} does not occur in the prompt, whose tokens are {self.names}")
        return mask

    def spans(self, phrase: str) -> list[slice]:
        """Positions of every occurrence of ``phrase`` as whole words, none where it does not occur."""
        _check_unicode("a phrase", phrase)
        spans = []
        # byte-level BPE has other tokens for a word at the start of a text than after a space
        for text in (phrase, f" {phrase}"):
            wanted = [ids for _, ids in _words(self.tokenizer(text, add_special_tokens=False))]
            for first in range(len(self.words) - len(wanted) + 1) if wanted else ():
                words = self.words[first : first + len(wanted)]
                span = slice(words[0][0], words[-1][0] + len(words[-1][1]))
                if [ids for _, ids in words] == wanted and span not in spans:
                    spans.append(span)
        return spans

    def regions(self, bindings: Mapping[str, int]) -> Tensor:
        """int32 [T]: as :func:`token_regions`."""
        regions = torch.zeros(len(self.ids), dtype=torch.int32)
        for phrase, bits in bindings.items():
            if type(bits) is not int:
                raise TypeError(f"the region bitset of {phrase!r} must be an int, got {type(bits).__name__}")
            if not 0 < bits < 2**31:
                raise ValueError(f"the region bitset of {phrase!r} must be 1 to 2**31 - 1, got {bits}")
            regions[self.find(phrase)] |= bits
        return regions


def tokenize(tokenizer: PreTrainedTokenizerBase, prompt: str, limit: int, pad: bool) -> TokenizedPrompt:
    """Tokenize a prompt, padded to ``limit`` tokens if wanted; ValueError where it has more."""
    if not isinstance(prompt, str):
        raise TypeError(f"prompt must be a str, got {type(prompt).__name__}")
    _check_unicode("prompt", prompt)
    if not getattr(tokenizer, "is_fast", False):
        raise TypeError(
            f"tokenizer must tell words apart (word_ids), as those built on the package tokenizers do; "
            f"{type(tokenizer).__name__} does not"
        )
    encoding = tokenizer(prompt, verbose=False)  # said below, as an error
    length = len(encoding["input_ids"])
    if length > limit:
        raise ValueError(f"the prompt has {length} tokens, special ones included; at most {limit} fit")
    words = _words(encoding)
    names = [encoding.tokens()[start + index] for start, ids in words for index in range(len(ids))]
    if pad:
        encoding = tokenizer(prompt, padding="max_length", max_length=limit)
        words = _words(encoding)  # a tokenizer may pad on the left
    ids, mask = (torch.tensor(encoding[key]) for key in ("input_ids", "attention_mask"))
    return TokenizedPrompt(tokenizer, ids, mask, names, words)


def token_regions(tokenizer: PreTrainedTokenizerBase, prompt: str, bindings: Mapping[str, int]) -> Tensor:
    """Bind phrases of a prompt to regions.

    Args:
        tokenizer: a transformers tokenizer that gives word_ids (CLIP's, WordPiece, byte-level BPE, SentencePiece with
            word boundaries).
        prompt: the prompt, at most ``tokenizer.model_max_length`` tokens (T) with its special ones: 77 for CLIP.
        bindings: for each phrase the bitset of its regions: ``{"female doctor": 0b01, "car": 0b10}``. A phrase
            matches whole words wherever it occurs, upper and lower case alike if they are to the tokenizer. Where
            phrases overlap, a token gets the bits of both.

    Returns:
        int32 tensor [T]: the region bitset of each token. Special tokens, padding and unbound tokens have 0.

    Raises:
        ValueError: the prompt is too long, a phrase does not occur in it, a bitset is not 1 to 2**31 - 1, or the
            tokenizer has no model_max_length.
        TypeError: the prompt is no str, a bitset no int, or the tokenizer gives no word_ids.
    """
    limit = max_length(tokenizer)
    if limit >= _NO_LIMIT:
        raise ValueError("tokenizer.model_max_length must be set: the prompt is padded to it")
    return tokenize(tokenizer, prompt, limit, pad=True).regions(bindings)


def max_length(tokenizer: PreTrainedTokenizerBase, positions: int | None = None) -> int:
    """Tokens that fit the tokenizer and, if ``positions`` is not None, the encoder's position embeddings."""
    return min(int(tokenizer.model_max_length), _NO_LIMIT if positions is None else positions)


def _check_unicode(name: str, text: str) -> None:
    """ValueError for a lone surrogate, as Python makes of bytes that are not UTF-8: tokenizers raise a TypeError."""
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        raise ValueError(f"{name} must be valid Unicode, got {text!r}")


def _words(encoding: BatchEncoding) -> list[tuple[int, tuple[int, ...]]]:
    """(first position, token ids) of each word of an encoded text; special tokens and padding belong to none."""
    words = []
    ids = encoding["input_ids"]
    for word, positions in groupby(range(len(ids)), encoding.word_ids().__getitem__):
        if word is not None:
            span = list(positions)
            words.append((span[0], tuple(ids[position] for position in span)))
    return words

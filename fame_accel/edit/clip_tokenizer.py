"""CLIP's tokenizer, built offline."""

from __future__ import annotations

import gzip
from functools import cache
from typing import TYPE_CHECKING

from fame_accel.media.packages import MERGES, packaged_file, require

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

MAX_TOKENS = 77
WORD_END = "</w>"  # closes the last token of every word
START, END = "<|startoftext|>", "<|endoftext|>"


@cache
def clip_tokenizer() -> CLIPTokenizer:
    """Build the tokenizer of OpenAI's CLIP, which Stable Diffusion uses, from the merges in open-clip-torch.

    Returns:
        The tokenizer: 49,408 entries, at most 77 tokens. Every call returns the same object: copy it
        (``copy.deepcopy``) before adding tokens.

    Raises:
        ImportError: transformers 5 or the file of open-clip-torch is missing.
    """
    transformers = require("transformers")
    if int(transformers.__version__.split(".")[0]) < 5:
        raise ImportError(f"the tokenizer needs transformers 5, got {transformers.__version__}")
    file = packaged_file(*MERGES)
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        # line 0 is a header; OpenAI kept the first 48,894 merges of the file
        merges = [tuple(line.split()) for line in lines.read().split("\n")[1:48895]]
    symbols = _byte_symbols()
    entries = [*symbols, *(symbol + WORD_END for symbol in symbols), *map("".join, merges), START, END]
    vocabulary = {entry: index for index, entry in enumerate(entries)}
    return transformers.CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=MAX_TOKENS)


def _byte_symbols() -> list[str]:
    """One printable character per byte, in OpenAI's order: the printable bytes stand for themselves."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = 256 - len(printable)
    return [chr(code) for code in [*printable, *range(256, 256 + others)]]

"""Prompts: CLIP's tokenizer built offline, and the region bits of a prompt's tokens."""

import gzip
from functools import cache
from typing import TYPE_CHECKING

import torch

from fame_accel.media.packages import packaged_file, require

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

MAX_TOKENS = 77
WORD_END = "</w>"  # closes the last token of every word
START, END = "<|startoftext|>", "<|endoftext|>"


@cache
def clip_tokenizer() -> "CLIPTokenizer":
    """Build the tokenizer of OpenAI's CLIP, which Stable Diffusion uses, from the merges in open-clip-torch.

    Returns:
        The tokenizer: 49,408 entries, at most 77 tokens. Every call returns the same object: copy it
        (``copy.deepcopy``) before adding tokens.

    Raises:
        ImportError: transformers 5 or open-clip-torch's files are missing.
    """
    transformers = require("transformers")
    if int(transformers.__version__.split(".")[0]) < 5:
        raise ImportError(f"the demo needs transformers 5, got {transformers.__version__}")
    file = packaged_file("open-clip-torch", "3.3.0", "open_clip/bpe_simple_vocab_16e6.txt.gz")
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        # line 0 is a header; OpenAI kept the first 48,894 merges of the file
        merges = [tuple(line.split()) for line in lines.read().split("\n")[1:48895]]
    symbols = _byte_symbols()
    entries = [*symbols, *(symbol + WORD_END for symbol in symbols), *map("".join, merges), START, END]
    vocabulary = {entry: index for index, entry in enumerate(entries)}
    return transformers.CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=MAX_TOKENS)


def token_regions(tokenizer: "CLIPTokenizer", prompt: str, bindings: dict[str, int]) -> torch.Tensor:
    """Bind phrases of a prompt to regions.

    Args:
        tokenizer: a CLIP tokenizer.
        prompt: the prompt, at most 77 tokens with its start and end token.
        bindings: for each phrase the bitset of its regions: ``{"female doctor": 0b01, "car": 0b10}``. A
            phrase matches whole words, upper and lower case alike, wherever it occurs. Where phrases overlap,
            a token gets the bits of both.

    Returns:
        int32 tensor [77]: the region bitset of each token. Start, end, padding and unbound tokens have 0.

    Raises:
        ValueError: the prompt is too long, a phrase does not occur in it, or a bitset is not 1 to 2**31 - 1.
    """
    tokens = tokenizer.tokenize(prompt)
    length = len(tokens) + 2  # start and end
    if length > MAX_TOKENS:
        raise ValueError(f"the prompt has {length} tokens, start and end included; at most {MAX_TOKENS} fit")
    regions = torch.zeros(MAX_TOKENS, dtype=torch.int32)
    for phrase, bits in bindings.items():
        if not 0 < bits < 2**31:
            raise ValueError(f"the region bitset of {phrase!r} must be 1 to 2**31 - 1, got {bits}")
        wanted = tokenizer.tokenize(phrase)
        starts = _word_aligned_matches(tokens, wanted)
        if not starts:
            raise ValueError(f"{phrase!r} does not occur in the prompt, whose tokens are {tokens}")
        for start in starts:
            regions[start + 1 : start + 1 + len(wanted)] |= bits  # + 1: the start token
    return regions


def _word_aligned_matches(tokens: list[str], wanted: list[str]) -> list[int]:
    # "sidecar" is "side", "car</w>": a match must begin a word. That it ends one follows from its last token.
    if not wanted:
        return []
    begins_word = [True, *(token.endswith(WORD_END) for token in tokens)]
    last = len(tokens) - len(wanted)
    return [i for i in range(last + 1) if begins_word[i] and tokens[i : i + len(wanted)] == wanted]


def _byte_symbols() -> list[str]:
    """One printable character per byte, in OpenAI's order: the printable bytes stand for themselves."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = 256 - len(printable)
    return [chr(code) for code in [*printable, *range(256, 256 + others)]]

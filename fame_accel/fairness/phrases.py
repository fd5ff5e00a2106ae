"""Phrases in a text, as whole words of any script."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator

# Scripts written without spaces, by the names of their characters: words begin and end anywhere. Katakana is not among
# them, because a run of it is mostly one word.
_WITHOUT_SPACES = (
    "CJK",
    "HIRAGANA",
    "IDEOGRAPHIC",
    "THAI",
    "LAO",
    "KHMER",
    "MYANMAR",
    "TIBETAN",
    "JAVANESE",
    "BALINESE",
)


def find_phrase(text: str, phrase: str, normalize: Callable[[str], str]) -> list[tuple[int, int]]:
    """Find every occurrence of a phrase that does not begin or end within a word.

    Characters are compared as the tokenizer normalizes them, so that case and accents matter as far as they do to it. A
    letter and its combining marks are one character, in whichever form they are composed, and so is a run of spaces.

    Args:
        text: to look in.
        phrase: to look for.
        normalize: the tokenizer's normalization of a text.

    Returns:
        The first character in ``text`` of each occurrence, and the one after its last.
    """
    wanted = "".join(form for _, _, form in _characters(phrase.strip(), normalize))
    characters = list(_characters(text, normalize))
    spans = []
    for first in range(len(characters)) if wanted else ():
        form = ""
        for last in range(first, len(characters)):
            form += characters[last][2]
            if not wanted.startswith(form):
                break
            if form == wanted:
                start, end = characters[first][0], characters[last][1]
                if not _within_word(text, start) and not _within_word(text, end):
                    spans.append((start, end))
                break
    return spans


def _characters(text: str, normalize: Callable[[str], str]) -> Iterator[tuple[int, int, str]]:
    """The start, the end and the normalized form of each character with its marks; what is normalized away is none."""
    start = 0
    for end in range(1, len(text) + 1):
        if end < len(text) and _continues(text[start:end], text[end]):
            continue
        form = " " if text[start].isspace() else normalize(unicodedata.normalize("NFC", text[start:end]))
        if form:
            yield start, end, form
        start = end


def _continues(character: str, following: str) -> bool:
    """Whether a code point belongs to the character before it: a mark, the rest of a Hangul syllable, another space."""
    if character[0].isspace() or following.isspace():
        return character[0].isspace() and following.isspace()
    if unicodedata.category(following).startswith("M") or following == "\u200d":
        return True
    return len(unicodedata.normalize("NFC", character + following)) < len(
        unicodedata.normalize("NFC", character)
    ) + len(unicodedata.normalize("NFC", following))


def _within_word(text: str, position: int) -> bool:
    """Whether letters or digits of one word stand on both sides of a position."""
    before = text[:position].rstrip("\u200d")
    while before and unicodedata.category(before[-1]).startswith("M"):
        before = before[:-1]
    if not before or position == len(text):
        return False
    sides = before[-1], text[position]
    if not all(unicodedata.category(side)[0] in "LN" for side in sides):
        return False
    return not any(unicodedata.name(side, "").startswith(_WITHOUT_SPACES) for side in sides)

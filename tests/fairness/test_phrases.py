"""Phrases as whole words of any script, with tokenizers as they come from disk."""

from __future__ import annotations

import copy
import unicodedata

import pytest
import transformers

from fame_accel.edit.clip_tokenizer import clip_tokenizer
from fame_accel.fairness import token_regions
from fame_accel.fairness.phrases import find_phrase
from fame_accel.fairness.tokens import tokenize


@pytest.fixture(scope="module", params=["<|endoftext|>", "!"])
def tokenizer(request, tmp_path_factory):
    """Saved and loaded; one pads with "!", which becomes a special token, as the second of Stable Diffusion XL."""
    folder = tmp_path_factory.mktemp("tokenizer")
    made = copy.deepcopy(clip_tokenizer())
    made.pad_token = request.param
    made.save_pretrained(folder)
    return transformers.CLIPTokenizer.from_pretrained(folder)


def bound(tokenizer, prompt: str, phrase: str) -> list[str]:
    """The characters of the prompt whose tokens are bound, a stretch each."""
    tokens = tokenize(tokenizer, prompt, 77, pad=True)
    covered = {
        place
        for position in tokens.find(phrase).nonzero().flatten().tolist()
        for place in range(*tokens.characters[position])
    }
    marked = "".join(letter if place in covered else "\n" for place, letter in enumerate(prompt))
    return [stretch for stretch in marked.split("\n") if stretch]


@pytest.mark.parametrize(
    ("prompt", "phrase", "found"),
    [
        ("a car on a carpet by a car", "car", ["car", "car"]),
        ("a doctor's car, a doctor", "doctor", ["doctor", "doctor"]),
        ("Wow!!! a doctor in a car", "doctor", ["doctor"]),
        ("Wow!!! a doctor! in a car!", "car", ["car"]),
        ("A Female  DOCTOR in a car", "female doctor", ["Female", "DOCTOR"]),
        ("ÉCOLE in the rain", "école", ["ÉCOLE"]),
        ("a doctor <|endoftext|> in a car", "car", ["car"]),
        ("一个医生在汽车里", "医生", ["医生"]),
        ("一个医生在汽车里", "汽车", ["汽车"]),
        ("車の中の医者", "医者", ["医者"]),
        ("カーペットとカー", "カー", ["カー"]),
        ("หมอในรถ", "รถ", ["นรถ"]),  # a token holds the letter before and a byte of this one
        ("врач в машине", "машине", ["машине"]),
        ("의사가 차에", "의사가", ["의사가"]),
        ("room 12 and room 1", "room 1", ["room", "1"]),
    ],
)
def test_whole_words_are_bound(tokenizer, prompt, phrase, found):
    assert bound(tokenizer, prompt, phrase) == found


@pytest.mark.parametrize(
    ("prompt", "phrase"), [("a café and an école", "café"), ("의사가 차에", "차에"), ("Ä Mann", "ä"), ("ầ phở", "phở")]
)
@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC"), ("NFD", "NFD")])
def test_composed_and_decomposed_are_one(tokenizer, prompt, phrase, forms):
    composed = token_regions(tokenizer, unicodedata.normalize("NFC", prompt), {unicodedata.normalize("NFC", phrase): 1})
    given = [unicodedata.normalize(form, text) for form, text in zip(forms, (prompt, phrase), strict=True)]
    assert composed.any() and token_regions(tokenizer, given[0], {given[1]: 1}).equal(composed)


@pytest.mark.parametrize(
    ("prompt", "phrase"),
    [
        ("a carpet", "car"), ("a scar", "car"), ("a café", "caf"), ("cafe\u0301 bar", "cafe"), ("a cafe", "café"),
        ("машина", "маши"), ("カーペット", "カー"), ("ที่", "ท"), ("room 12", "room 1"), ("의사가", "의사"),
        ("a doctor", " "),
    ],
)  # fmt: skip
def test_parts_of_words_are_not(tokenizer, prompt, phrase):
    with pytest.raises(ValueError, match="does not occur in the prompt"):
        token_regions(tokenizer, prompt, {phrase: 1})


def test_the_tokenizer_says_what_case_matters():
    assert find_phrase("A Doctor", "doctor", str) == []
    assert find_phrase("A Doctor", "doctor", str.lower) == [(2, 8)]


def test_too_long_a_prompt_names_its_length(tokenizer):
    with pytest.raises(ValueError, match="the prompt has 90 tokens, special tokens included; at most 77 fit"):
        token_regions(tokenizer, "word " * 88, {})


def test_exclamation_marks_are_the_same_tokens_for_both_tokenizers(tokenizer):
    tokens = tokenize(tokenizer, "Wow!!! a doctor", 77, pad=True)
    assert tokens.names == ["wow</w>", "!!!</w>", "a</w>", "doctor</w>"]

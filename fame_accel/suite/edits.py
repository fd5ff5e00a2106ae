"""The edits of the suite: every template with every profession, plain and for each of the two targets."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files

from fame_accel.core.limits import Range
from fame_accel.evaluate.parity import PLAIN, TARGETS

SLOT = "{a profession}"


@dataclass(frozen=True)
class Suite:
    """The contents of suite.json.

    subject_region: name of the region that shows the person and that the profession's words are bound to.
    source_prompt: prompt of the unedited clip. templates: prompts, each with the slot "{a profession}". groups: the
    groups that debiasing distinguishes. targets: for "woman" and "man" the group of `groups` to move toward.
    """

    subject_region: str
    source_prompt: str
    templates: tuple[str, ...]
    groups: tuple[str, ...]
    targets: dict[str, str]


@dataclass(frozen=True)
class SuiteEdit:
    """One edit.

    template: number of the template, from 1. prompt: the template with the profession in its slot, the same for every
    target. target: "woman" or "man", asked for by debiasing toward the group `toward`; or "plain", without debiasing,
    for which `toward` is None.
    """

    profession: str
    template: int
    prompt: str
    target: str
    toward: str | None


def load_suite() -> Suite:
    """Read the suite that ships with the package."""
    content = json.loads(files("fame_accel.suite").joinpath("suite.json").read_text(encoding="utf-8"))
    return Suite(
        subject_region=content["subject_region"],
        source_prompt=content["source_prompt"],
        templates=tuple(content["templates"]),
        groups=tuple(content["groups"]),
        targets={target: content["targets"][target] for target in TARGETS},
    )


def suite_edits(suite: Suite, professions: Sequence[str], templates: int) -> Iterator[SuiteEdit]:
    """The edits of a suite by template, then by profession, then plain, woman, man.

    The three edits of a prompt follow each other, so that the first N edits compare them on the same prompts.

    Args:
        suite: as `load_suite` gives it.
        professions: in the order in which they are edited.
        templates: how many of the suite's templates to use, the first ones.

    Raises:
        ValueError: the suite has fewer templates, or none is asked for.
    """
    Range(int, 1, len(suite.templates)).check("templates", templates)
    for number, template in enumerate(suite.templates[:templates], start=1):
        for profession in professions:
            prompt = template.replace(SLOT, with_article(profession))
            for target, toward in ({PLAIN: None} | suite.targets).items():
                yield SuiteEdit(profession, number, prompt, target, toward)


def spread(names: Sequence[str]) -> list[str]:
    """Reorder names so that the first N, for any N, are spread over the list: by the reversed bits of their index.

    WinoBias lists its professions from the fewest women to the most; a suite that is cut short thus has some of each.
    """
    width = len(names).bit_length()
    order = sorted(range(len(names)), key=lambda index: f"{index:0{width}b}"[::-1])
    return [names[index] for index in order]


def with_article(noun: str) -> str:
    """Put "a" or "an" before a noun by its first letter, which is right for the 40 professions of WinoBias."""
    return f"{'an' if noun[0].lower() in 'aeiou' else 'a'} {noun}"

"""The edits of the suite: templates x professions x plain and the two targets."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files

from fame_accel.evaluate.parity import PLAIN, TARGETS

SLOT = "{a profession}"


@dataclass(frozen=True)
class Suite:
    """suite.json: the templates, each with the slot "{a profession}"; the prompt of the unedited clip; the name of the
    region that the profession is bound to; and, for each target, the group word that is injected, out of `groups`."""

    subject_region: str
    source_prompt: str
    templates: tuple[str, ...]
    groups: tuple[str, ...]
    targets: dict[str, str]


@dataclass(frozen=True)
class Case:
    """One edit: `prompt` is the template's with `profession` in it, the same whoever is asked for. `target` is "woman"
    or "man", asked for by debiasing toward the group word `toward`; or "plain", without debiasing, and `toward` None.
    `template` counts from 1."""

    profession: str
    template: int
    prompt: str
    target: str
    toward: str | None


def load_suite() -> Suite:
    """The suite that ships with the package."""
    found = json.loads(files("fame_accel.suite").joinpath("suite.json").read_text(encoding="utf-8"))
    return Suite(
        subject_region=found["subject_region"],
        source_prompt=found["source_prompt"],
        templates=tuple(found["templates"]),
        groups=tuple(found["groups"]),
        targets={target: found["targets"][target] for target in TARGETS},
    )


def cases(suite: Suite, professions: Sequence[str], templates: int) -> Iterator[Case]:
    """The edits of the first ``templates`` templates, a template after the other; of each the professions as given; of
    each the plain edit, then those of the targets. Any beginning thus compares the three on the same prompts.

    Raises:
        ValueError: ``templates`` is not 1 to the suite's number of them.
    """
    if not 1 <= templates <= len(suite.templates):
        raise ValueError(f"templates must be 1 to {len(suite.templates)}, got {templates}")
    for number, template in enumerate(suite.templates[:templates], start=1):
        for profession in professions:
            prompt = template.replace(SLOT, with_article(profession))
            for target, toward in ({PLAIN: None} | suite.targets).items():
                yield Case(profession, number, prompt, target, toward)


def spread(names: Sequence[str]) -> list[str]:
    """The names in an order whose beginnings spread over the list as given: by the bits of their index, reversed. For
    WinoBias, which goes from the fewest women to the most, so that a suite cut short holds professions of both kinds.
    """
    width = len(names).bit_length()
    order = sorted(range(len(names)), key=lambda index: f"{index:0{width}b}"[::-1])
    return [names[index] for index in order]


def with_article(noun: str) -> str:
    """ "a baker", "an editor": by the first letter, which is right for the 40 professions of WinoBias."""
    return f"{'an' if noun[0].lower() in 'aeiou' else 'a'} {noun}"

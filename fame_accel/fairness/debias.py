"""The injection for one subject: which group it moves toward, and how far."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fame_accel.core.checks import is_number, shown
from fame_accel.fairness.association import cosines, phrase_embedding
from fame_accel.fairness.encoder import Encoder

MAX_SHARE = 0.3
"""The largest fraction of the difference between two groups that a measured injection adds. It is enough to balance
most of the 40 WinoBias professions in MiniLM, and small enough to keep the meaning of their prompts
(benchmarks/fairness.py)."""


@dataclass(frozen=True)
class Debias:
    """The debiasing of one subject in a prompt.

    The subject's input embeddings move by ``eta * share * (E(toward) - E(others))``, where E is the mean input
    embedding of a phrase and E(others) is the mean of E over the groups other than ``toward``.

    If ``toward`` is given, share is 1. At eta = 1 this is the analogy "doctor - male + female", regardless of what the
    encoder associates with the subject. The effect is visible and overshoots the balance of most professions.

    If ``toward`` is None, the subject moves toward the under-represented group, the one with the lowest association
    (:func:`association`). share is then measured: it should make this association equal to the mean of the others.
    The gap between the two is measured without a shift and with 0.3 (MAX_SHARE) of the difference added. share is
    where the line through both crosses zero, but at most 0.3. A nearly balanced subject therefore hardly moves, and
    eta is the fraction of the measured imbalance that is corrected. If the added difference widens the gap, the
    subject does not move, and a warning is issued.

    Attributes:
        subject: a word or phrase of the prompt.
        eta: strength in [0, 1]. 0 leaves the prompt's encoding unchanged, bit for bit. At 0.5 a measured step narrows
            the gap of all 40 WinoBias professions in MiniLM, a fixed one turns most around (benchmarks/fairness.py).
        toward: the debiasing phrase, one of the groups or another; None for the under-represented group.
        groups: phrases that name the groups, at least two, or at least one other than ``toward``.

    Raises:
        ValueError, TypeError: a field is out of range or of another type.
    """

    subject: str
    eta: float = 0.5
    toward: str | None = None
    groups: tuple[str, ...] = ("male", "female")

    def __post_init__(self) -> None:
        if not isinstance(self.groups, tuple):
            raise TypeError(f"groups must be a tuple of phrases, got {type(self.groups).__name__}")
        phrases: dict[str, object] = {"subject": self.subject}
        phrases |= {f"groups[{i}]": group for i, group in enumerate(self.groups)}
        if self.toward is not None:
            phrases["toward"] = self.toward
        for name, phrase in phrases.items():
            if not isinstance(phrase, str):
                raise TypeError(f"{name} must be a str, got {type(phrase).__name__}")
            if not phrase.strip():
                raise ValueError(f"{name} must not be empty, got {phrase!r}")
        if len(set(self.groups)) < len(self.groups):
            raise ValueError(f"groups must differ from each other, got {self.groups}")
        if len({*self.groups, *([] if self.toward is None else [self.toward])}) < 2:
            raise ValueError(f"groups must name two groups, or one that is not toward, got {self.groups}")
        if not (is_number(self.eta) and 0 <= self.eta <= 1):
            raise ValueError(f"eta must be a number in [0, 1], got {shown(self.eta)}")


@dataclass(frozen=True)
class Injection:
    """The outcome of a debiasing.

    Attributes:
        subject: the subject of the debiasing.
        toward: the group phrase that the subject moved toward.
        share: the fraction of the difference between the groups that was added, eta included.
        before: the subject's association with ``toward`` and each other group, without the injection.
        after: the same with the injection.
    """

    subject: str
    toward: str
    share: float
    before: dict[str, float]
    after: dict[str, float]


@dataclass(frozen=True, eq=False)
class PlannedInjection:
    """An injection and its vectors.

    Attributes:
        injection: its outcome.
        shift: float [C_in], what is added to the subject's input embeddings.
        direction: float [C], from the other groups to ``toward`` in the hidden states.
    """

    injection: Injection
    shift: Tensor
    direction: Tensor


def plan_injection(encoder: Encoder, debias: Debias) -> PlannedInjection:
    """Measure the associations of a subject and choose its injection."""
    groups = dict.fromkeys([*debias.groups, *([] if debias.toward is None else [debias.toward])])
    references = {group: phrase_embedding(encoder, group) for group in groups}
    before = cosines(phrase_embedding(encoder, debias.subject), references)
    toward = min(before, key=before.__getitem__) if debias.toward is None else debias.toward

    difference = _difference({group: encoder.input_embedding(group) for group in groups}, toward)
    if not difference.any():
        raise ValueError(f"groups must differ in their tokens, got {list(groups)}, which are the same to this encoder")
    if debias.toward is None:
        moved = cosines(phrase_embedding(encoder, debias.subject, MAX_SHARE * difference), references)
        share = _balancing_share(debias.subject, toward, _gap(before, toward), _gap(moved, toward))
    else:
        share = 1.0
    shift = debias.eta * share * difference
    after = cosines(phrase_embedding(encoder, debias.subject, shift), references)
    direction = _difference({group: phrase_embedding(encoder, group, phrase_only=True) for group in groups}, toward)
    return PlannedInjection(Injection(debias.subject, toward, debias.eta * share, before, after), shift, direction)


def _balancing_share(subject: str, toward: str, unmoved: float, moved: float) -> float:
    """Return where the line through the gaps at 0 and at MAX_SHARE crosses zero, at most MAX_SHARE."""
    if unmoved <= 0:  # balanced already
        return 0.0
    if moved >= unmoved:
        warnings.warn(
            f"{subject!r} is not moved: moving it toward {toward!r} increases its imbalance in this encoder, "
            f"from {unmoved:.4f} to {moved:.4f}; set toward to inject it anyway",
            stacklevel=4,  # the caller of encode_prompt
        )
        return 0.0
    return MAX_SHARE * min(1.0, unmoved / (unmoved - moved))


def _gap(associations: Mapping[str, float], toward: str) -> float:
    """Return how much nearer the subject is to the other groups, on average, than to ``toward``."""
    others = [value for group, value in associations.items() if group != toward]
    return sum(others) / len(others) - associations[toward]


def _difference(embeddings: Mapping[str, Tensor], toward: str) -> Tensor:
    """Return the vector from the mean of the other groups to ``toward``."""
    others = [embedding for group, embedding in embeddings.items() if group != toward]
    return embeddings[toward] - torch.stack(others).mean(0)

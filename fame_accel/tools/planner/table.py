"""A plan's figures as a table to read, and as rows for CSV and JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from fame_accel.core.limits import width_x_height
from fame_accel.tools.planner.estimate import LevelPlan, Total
from fame_accel.tools.planner.whole import WholeEdit, in_bytes

PREDICTED = "Times are PREDICTED by a model of counted instructions, not measured on a GPU"
UNPREDICTED = (
    "No times: instructions are counted for --backend triton in float16 and bfloat16, at head dimensions 40, 64, "
    "80, 128 and 160"
)
LEGEND = (
    "N: tokens of all frames; active: share of the pairs of tokens that are attended to; TFLOP: of the two matrix "
    "products over these; moved: what the fused backend must at least read and write. Of one layer, in the last line "
    "of all."
)
COUNTED = (
    "Counted at a modulated step: self-attention's own tensors (query, key, value, what its backend allocates, out), "
    "for one layer at its peak."
)
WHOLE = (
    "Counted of the whole edit with the fused backend: weights, activations and attention of the network that runs, "
    "text encoders at their weights. Not counted: a ControlNet, and what CUDA and the allocator take for themselves, "
    "some hundred MiB."
)
NOT_WHOLE = (
    "Not counted: weights, the network's other activations, cross-attention, VAE, text encoder (those of a checkpoint "
    "folder are counted where diffusers is installed)."
)


@dataclass(frozen=True)
class Fit:
    """The most frames that fit a memory with a backend. stopped: what stops more of them, None where memory does."""

    backend: str
    frames: int
    stopped: str | None

    def as_text(self, memory: float) -> str:
        """One sentence; memory: in GiB."""
        frames = f"{self.frames} frame{'' if self.frames == 1 else 's'} fit" if self.frames else "no frame fits"
        size = in_bytes(memory * 2**30)
        if self.stopped:
            return f"{in_words(self.backend)}: {frames} {size}; more are refused: {self.stopped}"
        most = "at most " if self.frames else ""
        return f"{in_words(self.backend)}: {most}{frames} {size}, for attention's tensors alone"


def about_times(whole: Total) -> str:
    """That the times are predicted, or why some are missing."""
    return UNPREDICTED if None in whole.milliseconds.values() else f"* {PREDICTED}"


def as_rows(levels: list[LevelPlan], whole: Total) -> list[dict[str, Any]]:
    """One row for each level, and one named "all" for the whole step; each chip's time has a column."""
    rows = []
    for level in levels:
        fields = asdict(level)
        times = fields.pop("milliseconds")
        name = width_x_height((fields.pop("height"), fields.pop("width")))
        rows.append({"level": name, **fields, **_times(times)})
    fields = asdict(whole)
    times = fields.pop("milliseconds")
    rows.append({name: fields.get(name, "") for name in rows[0]} | {"level": "all"} | _times(times))
    return rows


def as_table(levels: list[LevelPlan], whole: Total, backend: str) -> str:
    """The table: a line for one layer of each level, and the last line for the whole step."""
    chips = [chip for chip, time in whole.milliseconds.items() if time is not None]
    titles = ["level", "N", "heads", "head_dim", "layers", "active", "TFLOP", "moved", "eager peak", f"{backend} peak"]
    lines = [titles + [f"{chip} ms*" for chip in chips]]
    for level in levels:
        shape = (width_x_height((level.height, level.width)), level.tokens, level.heads, level.head_dim, level.layers)
        lines.append([*map(str, shape), f"{level.active:.3f}", *_figures(level, chips)])
    lines.append(["all", "", "", "", str(whole.layers), "", *_figures(whole, chips)])
    widths = [max(len(line[column]) for line in lines) for column in range(len(titles) + len(chips))]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)


def in_words(backend: str) -> str:
    """A backend as the text and the chart name it."""
    return "eager (reference)" if backend == "reference" else f"fused ({backend})"


def whole_rows(edit: WholeEdit, memory: float | None) -> list[dict[str, Any]]:
    """The whole edit as it is and with each saving: peak, and the most frames that fit `memory` GiB, if given."""
    rows = []
    for words, changed in {"as given": edit, **edit.savings()}.items():
        row: dict[str, Any] = {"change": words, "peak_bytes": changed.peak_bytes()}
        if memory is not None:
            row |= {"fits": row["peak_bytes"] <= memory * 2**30, "most_frames": changed.most_frames(memory * 2**30)}
        rows.append(row)
    return rows


def whole_table(rows: list[dict[str, Any]], memory: float | None) -> str:
    """`whole_rows` as text."""
    lines = [
        ["whole edit", "peak", *([] if memory is None else ["fits", f"most frames in {in_bytes(memory * 2**30)}"])]
    ]
    for row in rows:
        fit = [] if memory is None else ["yes" if row["fits"] else "NO", str(row["most_frames"])]
        lines.append([row["change"], in_bytes(row["peak_bytes"]), *fit])
    return aligned(lines, heading=True)


def aligned(lines: list[list[str]], heading: bool = False) -> str:
    """Lines of cells, the first column to the left, the others to the right; a heading is underlined."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    if heading:
        lines = [lines[0], ["-" * width for width in widths], *lines[1:]]
    cells = [
        [line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))]
        for line in lines
    ]
    return "\n".join("  ".join(line) for line in cells)


def _figures(plan: LevelPlan | Total, chips: list[str]) -> list[str]:
    memory = [in_bytes(number) for number in (plan.moved_bytes, plan.eager_bytes, plan.fused_bytes)]
    return [
        _digits(plan.flop / 1e12),
        *memory,
        *(_digits(time) for chip in chips if (time := plan.milliseconds[chip]) is not None),
    ]


def _digits(number: float) -> str:
    return f"{number:.0f}" if number >= 100 else f"{number:.3g}"


def _times(times: dict[str, float | None]) -> dict[str, float | str]:
    return {f"predicted_{chip}_ms": "" if time is None else round(time, 4) for chip, time in times.items()}

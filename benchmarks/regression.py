"""Compare the working tree with an earlier revision: results first, then times of the same calls, in turn.

    python -m benchmarks.regression BASE [--model sd15] [--frames 8] [--modulation fame] [--out measured.csv]

The cases are those of `fame-accel bench`. Each of the two sides runs in a process of its own (worker_process.py), the
earlier one from a temporary git worktree (revision.py). The exit status is 1 where the working tree is slower, wrong or
fails.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import torch

import fame_accel
from benchmarks.extra_columns import add_work
from benchmarks.revision import find_revision, worktree
from benchmarks.worker_process import Worker, WorkerFailed, save_case
from fame_accel.bench.environment import run_name
from fame_accel.bench.inputs import AttentionInputs, make_inputs
from fame_accel.bench.judge import Judge
from fame_accel.bench.protocol import add_errors, add_times, describe
from fame_accel.bench.rows import Row, append
from fame_accel.bench.setting import read_setting
from fame_accel.bench.timing import Effort, median, quantiles
from fame_accel.bench.workload import AttentionOperation, LayerShape
from fame_accel.cli import Parser
from fame_accel.cli.bench import add_setting_arguments

ROOT = Path(fame_accel.__file__).resolve().parents[1]
MARGIN = 1.05  # the factor by which medians must differ
RULE = (
    f"ratio: the present tree's median over the base's. slower or faster: medians more than {MARGIN - 1:.0%} apart and "
    "20-80% ranges that do not overlap, twice, in new processes the second time."
)
_BASE, _PRESENT, _CASE = "base", "present", "case.pt"


@dataclass(frozen=True)
class Comparison:
    """One case of the working tree (present) and of the base.

    Attributes:
        shape: its name.
        operation: its name.
        verdict: "same", "slower" or "faster" of the present tree, in two measurements; "wrong" where its result is,
            "failed" where it has none; "not compared" where either holds of the base alone.
        base_ms: milliseconds of the base's calls.
        present_ms: milliseconds of the present tree's calls.
        rows: of the base and of the present tree.
    """

    shape: str
    operation: str
    verdict: str
    base_ms: tuple[float, ...]
    present_ms: tuple[float, ...]
    rows: tuple[Row, Row]

    @property
    def ratio(self) -> float | None:
        """The median of the present tree over the base's; None where either was not timed."""
        return median(self.present_ms) / median(self.base_ms) if self.base_ms and self.present_ms else None

    @property
    def regressed(self) -> bool:
        """Whether the present tree is worse."""
        return self.verdict in ("slower", "wrong", "failed")

    @property
    def notes(self) -> list[str]:
        """The notes of both rows."""
        sides = zip((_BASE, _PRESENT), self.rows, strict=True)
        return [f"{name}: {row['note']}" for name, row in sides if row.get("note")]


def compare(
    base: str,
    cases: Sequence[tuple[LayerShape, AttentionOperation]],
    *,
    dtype: torch.dtype,
    device: torch.device,
    backend: str,
    effort: Effort,
    run: str,
    root: Path = ROOT,
    report: Callable[[Comparison], object] = lambda comparison: None,
) -> list[Comparison]:
    """Compare the working tree at `root` with its revision `base`.

    Args:
        base: any name that git has for a revision.
        cases: shapes and operations.
        dtype: of the inputs.
        device: where they are made.
        backend: "sdpa" or "triton".
        effort: how often calls are repeated.
        run: the name of this run in the rows, whose provider is ours_sdpa or ours_triton, of the base with `@commit`.
        root: a git checkout of this library.
        report: called with each case when it is done.

    Raises:
        ValueError: `root` is no git checkout or has no such revision of this library.
    """
    if backend not in ("sdpa", "triton"):
        raise ValueError(f"backend must be one of sdpa, triton, got {backend!r}")
    root = root.resolve()
    revision, done = find_revision(base, root), []
    with ExitStack() as stack:
        temporary = tempfile.TemporaryDirectory(prefix="fame-accel-", ignore_cleanup_errors=True)
        folder = Path(stack.enter_context(temporary))
        roots = {_BASE: stack.enter_context(worktree(revision, root, folder / "worktree")), _PRESENT: root}
        workers = {
            name: stack.enter_context(closing(Worker(path, device, folder / f"{name}.log")))
            for name, path in roots.items()
        }
        for shape, operation in cases:
            inputs = make_inputs(shape, operation, device, dtype)
            case = (shape, operation, device, dtype)
            rows = {
                _BASE: describe(*case, f"ours_{backend}@{revision.short}", run) | {"commit": revision.short},
                _PRESENT: describe(*case, f"ours_{backend}", run),
            }
            save_case(inputs, backend, folder / _CASE)
            done.append(_compare(inputs, workers, rows, effort, folder))
            report(done[-1])
    return done


def verdict(base: Sequence[float], present: Sequence[float]) -> str:
    """ "slower" or "faster", of times in milliseconds, where medians differ by more than the margin and the ranges from
    the 20% to the 80% quantile do not overlap; otherwise "same"."""
    (base_low, base_median, base_high), (low, middle, high) = quantiles(base), quantiles(present)
    if low > base_high and middle > MARGIN * base_median:
        return "slower"
    if high < base_low and base_median > MARGIN * middle:
        return "faster"
    return "same"


def table(comparisons: Sequence[Comparison]) -> str:
    """The cases as text, a line each: medians with their 20% and 80% quantiles; then the notes of the case."""
    lines = [("shape", "operation", "base ms (20-80%)", "present ms (20-80%)", "ratio", "verdict")]
    for case in comparisons:
        ratio = "-" if case.ratio is None else f"{case.ratio:.3g}"
        lines.append((case.shape, case.operation, _spread(case.base_ms), _spread(case.present_ms), ratio, case.verdict))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = []
    for case, line in zip((None, *comparisons), lines, strict=True):
        cells = zip(line, "<<>>><", widths, strict=True)
        text.append("  ".join(f"{cell:{side}{width}}" for cell, side, width in cells).rstrip())
        text += [f"    {note}" for note in case.notes] if case else []
    return "\n".join(text)


def _compare(
    inputs: AttentionInputs, workers: Mapping[str, Worker], rows: Mapping[str, Row], effort: Effort, folder: Path
) -> Comparison:
    """Judge both sides, then time those whose result is right."""
    judge, wrong, failed = Judge(inputs), set(), {}
    for name, worker in workers.items():
        try:
            if not add_errors(rows[name], judge.verdict(_result(worker, inputs, folder))):
                wrong.add(name)
        except WorkerFailed as error:
            failed[name] = str(error)
    if inputs.device.type == "cuda":
        torch.cuda.empty_cache()  # the workers need what judging took
    right = {name: worker for name, worker in workers.items() if name not in wrong and name not in failed}
    times, outcome = _measure(right, effort, folder, failed)
    add_times(rows, times)
    for name, reason in failed.items():
        rows[name]["note"] = f"failed: {reason}"
    for name, milliseconds in times.items():
        add_work(rows[name], inputs, median(milliseconds))
        if len(milliseconds) == 1:
            rows[name]["note"] = "one call, its spread unknown"
    if _PRESENT in wrong or _PRESENT in failed:
        outcome = "wrong" if _PRESENT in wrong else "failed"
    both = (tuple(times.get(name, ())) for name in (_BASE, _PRESENT))
    return Comparison(inputs.shape.name, inputs.operation.name, outcome, *both, (rows[_BASE], rows[_PRESENT]))


def _result(worker: Worker, inputs: AttentionInputs, folder: Path) -> torch.Tensor:
    file = folder / "out.pt"
    worker.ask(f"load {folder / _CASE}")
    worker.ask(f"out {file}")
    out = torch.load(file, map_location=inputs.device, weights_only=True)
    if out.shape != inputs.query.shape:
        raise WorkerFailed(f"its result has shape {list(out.shape)}, not {list(inputs.query.shape)}")
    return out


def _measure(
    workers: Mapping[str, Worker], effort: Effort, folder: Path, failed: dict[str, str]
) -> tuple[dict[str, list[float]], str]:
    """Time the workers, which have their case loaded.

    A difference counts if it shows again in new processes: a process can be slow for as long as it lives, by where its
    memory and threads lie.

    Returns:
        The milliseconds of each worker, and the verdict.
    """
    times = _times(workers, effort, failed)
    if len(times) < 2:
        return times, "not compared"
    first = verdict(times[_BASE], times[_PRESENT])
    if first == "same":
        return times, first
    for worker in workers.values():
        worker.close()
    times = _times(_ask_all(workers, failed, f"load {folder / _CASE}", "time"), effort, failed)
    if len(times) < 2:
        return times, "not compared"
    return times, first if verdict(times[_BASE], times[_PRESENT]) == first else "same"


def _times(workers: Mapping[str, Worker], effort: Effort, failed: dict[str, str]) -> dict[str, list[float]]:
    """Milliseconds of as many calls of each worker, in turn; who goes first alternates. Each has run its case, and
    runs it once more to tell how often it may be repeated; where that is once, this run counts."""
    once: dict[str, list[float]] = {name: [] for name in workers}
    workers = _ask_all(workers, failed, "time", times=once)
    repeats = min((effort.repeats(once[name][0] / 1e3) for name in workers), default=0)
    if repeats == 1:
        return {name: once[name] for name in workers}
    times: dict[str, list[float]] = {name: [] for name in workers}
    for _ in range(repeats):
        workers = _ask_all(dict(reversed(workers.items())), failed, "time", times=times)
    return {name: times[name] for name in workers}


def _ask_all(
    workers: Mapping[str, Worker], failed: dict[str, str], *orders: str, times: dict[str, list[float]] | None = None
) -> dict[str, Worker]:
    """Give orders to the workers, one after the other.

    Returns:
        The workers that did as they were asked; the reasons of the others are added to `failed`.
    """
    willing = {}
    for name, worker in workers.items():
        try:
            replies = [worker.ask(order) for order in orders]
        except WorkerFailed as error:
            failed[name] = str(error)
            continue
        willing[name] = worker
        if times is not None:
            times[name].append(replies[-1]["ms"])
    return willing


def _spread(times: Sequence[float]) -> str:
    if not times:
        return "-"
    low, middle, high = quantiles(times)
    return f"{middle:.3g} ({low:.3g}-{high:.3g})"


def main(argv: Sequence[str] | None = None) -> int:
    """Compare, print the table, and append the rows to a CSV file."""
    parser = Parser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("base", metavar="BASE", help="a revision of this checkout, such as HEAD~1")
    add_setting_arguments(parser)
    parser.add_argument("--out", type=Path, default=Path("regression.csv"), metavar="FILE", help="CSV to add rows to")
    try:
        flags = vars(parser.parse_args(argv))
        base, out = flags.pop("base"), flags.pop("out")
        setting = read_setting(**flags)
        find_revision(base, ROOT)
        append([], out)  # fails now rather than after measuring where it cannot be written
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{setting.heading}: the working tree against {base}", flush=True)

    def report(case: Comparison) -> None:
        append(case.rows, out)
        print(f"  {case.shape} {case.operation}: {case.verdict}", flush=True)

    cases = [(shape, setting.operation) for shape in setting.levels] + setting.text_cases
    backend = setting.ours.removeprefix("ours_")
    case = dict(dtype=setting.dtype, device=setting.device, backend=backend)
    comparisons = compare(base, cases, **case, effort=Effort(), run=run_name(), report=report)
    print(f"\n{table(comparisons)}\n\n{RULE}")
    regressed = [f"{case.shape} {case.operation}" for case in comparisons if case.regressed]
    print(f"Regressed: {', '.join(regressed)}." if regressed else "No case regressed.")
    print(f"Rows are in {out}")
    return int(bool(regressed))


if __name__ == "__main__":
    sys.exit(main())

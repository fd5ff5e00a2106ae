"""The working tree against an earlier revision of it: right first, then times of the same cases, call by call in turn.

Each of the two runs in a process of its own (worker_process.py), the earlier one from a temporary git worktree
(revision.py).
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import torch

import fame_accel
from fame_accel.bench.cases import Operation, Shape
from fame_accel.bench.group import add_errors, add_times, describe
from fame_accel.bench.inputs import Inputs, make_inputs
from fame_accel.bench.judge import Judge
from fame_accel.bench.revision import find_revision, worktree
from fame_accel.bench.rows import Row
from fame_accel.bench.timing import Effort, quantiles
from fame_accel.bench.worker_process import Worker, WorkerFailed, save_case

ROOT = Path(fame_accel.__file__).resolve().parents[1]
BACKENDS = ("sdpa", "triton")
MARGIN = 1.05  # what medians must differ by, as a factor
RULE = (
    f"ratio: the present tree's median over the base's. slower or faster: medians more than {MARGIN - 1:.0%} apart and "
    "20-80% ranges that do not overlap, twice, in new processes the second time."
)
_BASE, _PRESENT, _CASE = "base", "present", "case.pt"


@dataclass(frozen=True)
class Comparison:
    """One case. rows: of the base and of the present tree, as rows.py has them; the times are milliseconds.

    verdict: "same", "slower" or "faster" (in two measurements) of the present tree; "wrong" where its result is,
    "failed" where it has none, "not compared" where either holds of the base alone.
    """

    shape: str
    operation: str
    verdict: str
    base_ms: tuple[float, ...]
    present_ms: tuple[float, ...]
    rows: tuple[Row, Row]

    @property
    def ratio(self) -> float | None:
        """The median of the present tree over the base's."""
        if not (self.base_ms and self.present_ms):
            return None
        return quantiles(list(self.present_ms))[1] / quantiles(list(self.base_ms))[1]

    @property
    def regressed(self) -> bool:
        return self.verdict in ("slower", "wrong", "failed")

    @property
    def notes(self) -> list[str]:
        sides = zip((_BASE, _PRESENT), self.rows, strict=True)
        return [f"{name}: {row['note']}" for name, row in sides if row.get("note")]


def compare(
    base: str,
    cases: Sequence[tuple[Shape, Operation]],
    *,
    dtype: torch.dtype,
    device: torch.device,
    backend: str,
    effort: Effort,
    run: str,
    root: Path = ROOT,
    report: Callable[[Comparison], object] = lambda comparison: None,
) -> list[Comparison]:
    """Compare the working tree at `root` with its revision `base` and call `report` with each case when it is done.

    run: the name of this run in the rows, whose provider is `ours_sdpa` or `ours_triton`, of the base with `@commit`.

    Raises ValueError naming --base where `root` is no git checkout or has no such revision of fame_accel.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, got {backend!r}")
    root = root.resolve()
    revision, done = find_revision(base, root), []
    with ExitStack() as stack:
        temporary = tempfile.TemporaryDirectory(prefix="fame-accel-", ignore_cleanup_errors=True)
        folder = Path(stack.enter_context(temporary))
        roots = {_BASE: stack.enter_context(worktree(revision, root, folder / "worktree")), _PRESENT: root}
        workers = {
            name: stack.enter_context(closing(Worker(place, device, folder / f"{name}.log")))
            for name, place in roots.items()
        }
        for shape, operation in cases:
            inputs = make_inputs(shape, operation, device, dtype)
            rows = {
                _BASE: describe(inputs, f"ours_{backend}@{revision.short}", run) | {"commit": revision.short},
                _PRESENT: describe(inputs, f"ours_{backend}", run),
            }
            save_case(inputs, backend, folder / _CASE)
            done.append(_compare(inputs, workers, rows, effort, folder))
            report(done[-1])
    return done


def verdict(base: Sequence[float], present: Sequence[float]) -> str:
    """Of times in milliseconds: "slower" or "faster" where medians differ by more than 5% and the ranges from the 20%
    to the 80% quantile do not overlap, otherwise "same"."""
    (base_low, base_median, base_high), (low, median, high) = quantiles(list(base)), quantiles(list(present))
    if low > base_high and median > MARGIN * base_median:
        return "slower"
    if high < base_low and base_median > MARGIN * median:
        return "faster"
    return "same"


def table(comparisons: Sequence[Comparison]) -> str:
    """The cases as text, a line each: medians with their 20% and 80% quantiles; then what there is to say of one."""
    lines = [("shape", "operation", "base ms (20-80%)", "present ms (20-80%)", "ratio", "verdict")]
    for case in comparisons:
        ratio = "-" if case.ratio is None else f"{case.ratio:.3g}"
        spreads = (_spread(case.base_ms), _spread(case.present_ms))
        lines.append((case.shape, case.operation, *spreads, ratio, case.verdict))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    told = []
    for case, line in zip((None, *comparisons), lines, strict=True):
        cells = [f"{cell:{'<' if place in (0, 1, 5) else '>'}{widths[place]}}" for place, cell in enumerate(line)]
        told.append("  ".join(cells).rstrip())
        told += [f"    {note}" for note in case.notes] if case else []
    return "\n".join(told)


def _compare(
    inputs: Inputs, workers: Mapping[str, Worker], rows: Mapping[str, Row], effort: Effort, folder: Path
) -> Comparison:
    judge, wrong, failed = Judge(inputs), set(), {}
    for name, worker in workers.items():
        try:
            if not add_errors(rows[name], judge.verdict(_result(worker, inputs, folder))):
                wrong.add(name)
        except WorkerFailed as error:
            failed[name] = str(error)
    if inputs.device.type == "cuda":
        torch.cuda.empty_cache()  # what judging took is for the workers
    right = {name: worker for name, worker in workers.items() if name not in wrong and name not in failed}
    times, found = _measure(right, effort, folder, failed)
    add_times(rows, times)
    for name, reason in failed.items():
        rows[name]["note"] = f"failed: {reason}"
    for name, taken in times.items():
        rows[name]["tflops"] = f"{inputs.useful_flop / quantiles(taken)[1] / 1e9:.4g}"
        if len(taken) == 1:
            rows[name]["note"] = "one call, its spread unknown"
    if _PRESENT in wrong or _PRESENT in failed:
        found = "wrong" if _PRESENT in wrong else "failed"
    spent = (tuple(times.get(name, ())) for name in (_BASE, _PRESENT))
    return Comparison(inputs.shape.name, inputs.operation.name, found, *spent, (rows[_BASE], rows[_PRESENT]))


def _result(worker: Worker, inputs: Inputs, folder: Path) -> torch.Tensor:
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
    """Milliseconds of each worker that has its case loaded, and the verdict. A difference counts if it shows again in
    new processes: some process is slow for as long as it lives, for where its memory and threads lie."""
    times = _times(workers, effort, failed)
    if len(times) < 2:
        return times, "not compared"
    found = verdict(times[_BASE], times[_PRESENT])
    if found == "same":
        return times, found
    for worker in workers.values():
        worker.close()
    times = _times(_each(workers, failed, f"load {folder / _CASE}", "time"), effort, failed)
    if len(times) < 2:
        return times, "not compared"
    again = verdict(times[_BASE], times[_PRESENT])
    return times, found if again == found else "same"


def _times(workers: Mapping[str, Worker], effort: Effort, failed: dict[str, str]) -> dict[str, list[float]]:
    """Milliseconds of repeats, as many of each worker, in turn; who goes first alternates. Each has run its case, and
    runs it once more to tell how often it may; where that is once, this run is the one that counts."""
    once: dict[str, list[float]] = {name: [] for name in workers}
    workers = _each(workers, failed, "time", times=once)
    repeats = min((effort.repeats(once[name][0] / 1e3) for name in workers), default=0)
    if repeats == 1:
        return {name: once[name] for name in workers}
    times: dict[str, list[float]] = {name: [] for name in workers}
    for _ in range(repeats):
        workers = _each(dict(reversed(workers.items())), failed, "time", times=times)
    return {name: times[name] for name in workers}


def _each(
    workers: Mapping[str, Worker], failed: dict[str, str], *orders: str, times: dict[str, list[float]] | None = None
) -> dict[str, Worker]:
    """The workers that did as they were asked, one after the other; the reasons of others are added to `failed`."""
    did = {}
    for name, worker in workers.items():
        try:
            answers = [worker.ask(order) for order in orders]
        except WorkerFailed as error:
            failed[name] = str(error)
            continue
        did[name] = worker
        if times is not None:
            times[name].append(answers[-1]["ms"])
    return did


def _spread(times: Sequence[float]) -> str:
    if not times:
        return "-"
    low, median, high = quantiles(list(times))
    return f"{median:.3g} ({low:.3g}-{high:.3g})"

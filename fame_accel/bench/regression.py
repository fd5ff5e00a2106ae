"""The working tree against an earlier revision of it: right first, then times of the same cases, call by call in turn.

Each of the two runs in a process of its own (worker.py), the earlier one from a temporary git worktree.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import torch

import fame_accel
from fame_accel.bench.cases import Operation, Shape
from fame_accel.bench.group import add_errors, add_times, describe
from fame_accel.bench.inputs import Inputs, make_inputs
from fame_accel.bench.judge import Judge
from fame_accel.bench.rows import Row
from fame_accel.bench.timing import Effort, quantiles
from fame_accel.layout import TokenLayout

ROOT = Path(fame_accel.__file__).resolve().parents[1]
BACKENDS = ("sdpa", "triton")
MARGIN = 1.05  # what medians must differ by, as a factor
_WORKER = Path(__file__).with_name("worker.py")
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


@dataclass(frozen=True)
class Revision:
    """A commit; prefix: the folder of fame_accel's checkout in its repository, empty where that is all of it."""

    commit: str
    short: str
    prefix: str


class WorkerFailed(RuntimeError):
    """What a worker answered instead, or how it ended."""


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
        roots = {_BASE: stack.enter_context(_worktree(revision, root, folder / "worktree")), _PRESENT: root}
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


def find_revision(base: str, root: Path) -> Revision:
    """Raises ValueError naming --base where `root` is no git checkout or has no such revision of fame_accel."""
    module = "fame_accel/__init__.py"
    try:
        _git(root, "ls-files", "--error-unmatch", module)
    except ValueError as error:
        raise ValueError(f"--base needs a git checkout of fame-accel, which {root} is not: {error}") from error
    try:
        commit = _git(root, "rev-parse", "--verify", "--end-of-options", f"{base}^{{commit}}").splitlines()[-1]
    except ValueError as error:
        raise ValueError(f"--base {base} is no revision of {root}: {error}") from error
    prefix = _git(root, "rev-parse", "--show-prefix")
    try:
        _git(root, "cat-file", "-e", f"{commit}:{prefix}{module}")
    except ValueError as error:
        raise ValueError(f"--base {base} has no {prefix}{module}") from error
    return Revision(commit, _git(root, "rev-parse", "--short", commit), prefix)


class Worker:
    """A process that runs worker.py on the fame_accel at `root`, with this one's number of threads. What ended is
    started anew at the next order. log: a file for what it prints."""

    def __init__(self, root: Path, device: torch.device, log: Path) -> None:
        self._root, self._device, self._log = root, device, log
        self._process: subprocess.Popen[str] | None = self._start()

    def ask(self, order: str) -> dict[str, float]:
        """The answer to an order; raises WorkerFailed with the reason where there is none."""
        if self._process is None:
            self._process = self._start()
        try:
            print(order, file=self._process.stdin, flush=True)
            answer = self._process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer.endswith("\n"):
            raise WorkerFailed(self._end())
        found = json.loads(answer)
        if "error" in found:
            if self._device.type == "cuda":
                self.close()  # some errors leave a context that cannot go on
            raise WorkerFailed(found["error"])
        return found

    def close(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                with suppress(OSError):  # what it did not read any more
                    pipe.close()

    def _start(self) -> subprocess.Popen[str]:
        inherited = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
        env = os.environ | {"PYTHONPATH": os.pathsep.join([str(self._root), *inherited])}
        # threads that spin while they wait hold up the other process: the same code then differs by large factors
        env.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        command = [sys.executable, str(_WORKER), str(self._root), str(torch.get_num_threads())]
        pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8", env=env)
        with self._log.open("w") as log:  # in a session of its own, so that Ctrl-C is for this process to handle
            return subprocess.Popen(command, stderr=log, start_new_session=True, **pipes)

    def _end(self) -> str:
        """How the process ended, and the last it printed."""
        try:
            status = self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            status = None
        self.close()
        how = "stopped answering" if status is None else f"ended with exit status {status}"
        if status is not None and status < 0:
            how = f"was ended by signal {-status}{', most likely for its memory' if status == -signal.SIGKILL else ''}"
        printed = self._log.read_text(errors="replace").split("\n")
        last = next((line.strip() for line in reversed(printed) if line.strip()), "")
        return f"its process {how}{': ' if last else ''}{last[:200]}"


def save_case(inputs: Inputs, backend: str, file: Path) -> None:
    """The case as worker.py reads it: tensors, numbers and names in a dict."""
    case = {name: getattr(inputs, name) for name in ("query", "key", "value", "row_strength", "key_weight")}
    case |= {"device": str(inputs.device), "backend": backend}
    for name in ("strength_table", "bias_table"):
        case[name] = None if inputs.modulation is None else getattr(inputs.modulation, name)
    shared = inputs.key_layout is inputs.query_layout
    for side, layout in (("query", inputs.query_layout), ("key", None if shared else inputs.key_layout)):
        region, frame, frames = (None, None, None) if layout is None else _as_given(layout)
        case |= {f"{side}_region": region, f"{side}_frame": frame, f"{side}_frames": frames}
    torch.save({name: x.cpu() if isinstance(x, torch.Tensor) else x for name, x in case.items()}, file)


def _as_given(layout: TokenLayout) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Region and frame [N] or [B, N] and the number of frames, of which a layout can be made."""
    one = 0 if layout.batch is None else slice(None)
    return layout.region[one], layout.frame[one], layout.num_frames


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


@contextmanager
def _worktree(revision: Revision, root: Path, folder: Path) -> Iterator[Path]:
    """The root of fame_accel's checkout in a worktree at `folder`, which is removed in the end."""
    try:
        try:
            _git(root, "worktree", "add", "--detach", str(folder), revision.commit)
        except ValueError as error:
            raise ValueError(f"--base {revision.short} cannot be checked out beside {root}: {error}") from error
        yield folder / revision.prefix
    finally:
        try:
            _git(root, "worktree", "remove", "--force", "--force", str(folder))  # twice: even where add was broken off
        except ValueError:
            shutil.rmtree(folder, ignore_errors=True)
            with suppress(ValueError):
                _git(root, "worktree", "prune")


def _git(root: Path, *arguments: str) -> str:
    """What git prints; raises ValueError with what it says where it fails."""
    # a hook that runs this has another repository's, or its index, in them
    outside = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_PREFIX", "GIT_OBJECT_DIRECTORY")
    env = {name: value for name, value in os.environ.items() if name not in outside} | {"LC_ALL": "C"}
    command = ["git", "-c", f"core.hooksPath={os.devnull}", "-C", str(root), *arguments]
    try:
        result = subprocess.run(command, env=env, capture_output=True, encoding="utf-8", errors="replace")
    except OSError as error:
        raise ValueError(f"git does not run: {error}") from error
    if result.returncode:
        lines = [line for line in result.stderr.splitlines() if line.startswith(("fatal:", "error:"))]
        raise ValueError(f"git {arguments[0]}: {lines[0] if lines else f'exit status {result.returncode}'}")
    return result.stdout.strip()

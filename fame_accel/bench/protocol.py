"""The measuring protocol: results are judged first, then peaks of memory are taken, then calls are timed in turn."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import torch

from fame_accel.bench.environment import environment
from fame_accel.bench.inputs import AttentionInputs
from fame_accel.bench.judge import Judge
from fame_accel.bench.memory import ProcessDied, peak_in_process, peak_mib
from fame_accel.bench.prepared import CannotRun, PreparedCall, Provider
from fame_accel.bench.providers import EAGER, FLOOR
from fame_accel.bench.rows import Row
from fame_accel.bench.timing import QUANTILES, Clock, Effort, interleaved, median, quantiles
from fame_accel.bench.workload import AttentionOperation, LayerShape
from fame_accel.core.parity import Verdict
from fame_accel.tools.measure import freed_memory_is_kept

# Adds columns of its own to the row of a call that was timed: row, inputs, call, clock, milliseconds of its repeats
Finish = Callable[[Row, AttentionInputs, PreparedCall, Clock, list[float]], object]


@dataclass(frozen=True)
class Protocol:
    """How cases are measured.

    Attributes:
        effort: of the timing.
        memory: whether peaks of memory are measured.
        run: the name of this run.
        compiled: providers whose first call compiles, which takes memory of its own.
    """

    effort: Effort
    memory: bool
    run: str
    compiled: Collection[str] = ()


def measure(
    inputs: AttentionInputs, providers: Mapping[str, Provider], protocol: Protocol, finish: Finish | None = None
) -> list[Row]:
    """Measure providers side by side.

    Returns:
        A row of each provider. One that did not run, or whose result is wrong, has a note and no times.
    """
    case = (inputs.shape, inputs.operation, inputs.device, inputs.query.dtype)
    rows = {name: describe(*case, name, protocol.run) for name in providers}
    judge, prepared = Judge(inputs), {}
    for name, provider in providers.items():
        call = _judged(inputs, provider, judge, rows[name])
        if call is not None:
            prepared[name] = call
    if protocol.memory:
        for name, call in prepared.items():
            _add_peak(rows[name], inputs, providers[name], call, name in protocol.compiled)
        if freed_memory_is_kept():  # but taking peaks gave it back
            for call in prepared.values():
                call.call()
    clock = Clock(inputs.device)
    times = interleaved({name: call.call for name, call in prepared.items()}, clock, protocol.effort)
    add_times(rows, times)
    if finish is not None:
        for name, call in prepared.items():
            finish(rows[name], inputs, call, clock, times[name])
    return list(rows.values())


def describe(
    shape: LayerShape,
    operation: AttentionOperation,
    device: torch.device,
    dtype: torch.dtype,
    provider: str,
    run: str,
) -> Row:
    """The columns that say what was measured where."""
    return {
        "run": run,
        **environment(device),
        "shape": shape.name,
        "operation": operation.name,
        **{name: getattr(shape, name) for name in ("frames", "height", "width", "heads", "head_dim", "batch")},
        "keys": shape.keys,
        "regions": shape.regions,
        "dtype": str(dtype).removeprefix("torch."),
        "provider": provider,
    }


def add_times(rows: Mapping[str, Row], times: Mapping[str, list[float]]) -> None:
    """Add quantiles in milliseconds, and ratios to eager and to plain attention where they ran."""
    medians = {name: median(milliseconds) for name, milliseconds in times.items()}
    for name, milliseconds in times.items():
        row = rows[name]
        row["repeats"] = len(milliseconds)
        levels = zip(QUANTILES, quantiles(milliseconds), strict=True)
        row.update({f"p{100 * level:.0f}_ms": f"{ms:.4g}" for level, ms in levels})
        if EAGER in medians:
            row["eager_speedup"] = f"{medians[EAGER] / medians[name]:.4g}"
        if FLOOR in medians:
            row["floor_ratio"] = f"{medians[name] / medians[FLOOR]:.4g}"


def add_errors(row: Row, verdict: Verdict) -> bool:
    """Add the errors, and a note where they are not allowed; whether they are."""
    columns = ("max_error", "mean_error", "eager_max_error", "eager_mean_error")
    errors = (*verdict.errors, *verdict.eager)
    row.update({column: f"{value:.2e}" for column, value in zip(columns, errors, strict=True)})
    if not verdict.passed:
        row["note"] = "WRONG: its error is more than twice eager's + 1e-5"
    return verdict.passed


def reason(error: BaseException) -> str:
    """What went wrong, in one line, for a note."""
    if isinstance(error, CannotRun | ProcessDied):
        return str(error)
    on_cpu = isinstance(error, MemoryError) or "DefaultCPUAllocator" in str(error)
    full = on_cpu or isinstance(error, torch.OutOfMemoryError)
    kind = "out of memory" if full else f"failed: {type(error).__name__}"
    return f"{kind}: {' '.join(str(error).split())[:300]}"


def add_note(row: Row, text: str) -> None:
    """Add to the note of a row."""
    row["note"] = f"{row.get('note', '')}; {text}".lstrip("; ")


def _judged(inputs: AttentionInputs, provider: Provider, judge: Judge, row: Row) -> PreparedCall | None:
    """A provider's call, once its result was held against the reference; None where it does not run or is wrong."""
    try:
        prepared = provider(inputs)
        out = prepared.call()
        row["note"] = prepared.note
        if prepared.judged and not add_errors(row, judge.verdict(out)):
            return None
    except Exception as error:  # whatever a provider cannot do is a result
        row["note"] = reason(error)
        return None
    return prepared


def _add_peak(row: Row, inputs: AttentionInputs, provider: Provider, prepared: PreparedCall, compiles: bool) -> None:
    try:
        if inputs.device.type == "cuda":
            peak = peak_mib(prepared.call, inputs.device)
        else:
            peak = peak_in_process(inputs.shape, inputs.operation, provider, inputs.query.dtype, compiles)
    except Exception as error:  # its process was ended, or memory that the judged call had is not free now
        add_note(row, f"peak unknown: {reason(error)}")
        return
    row["peak_mib"] = "" if peak is None else f"{peak:.1f}"

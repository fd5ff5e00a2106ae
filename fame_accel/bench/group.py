"""Measuring one case by several providers, side by side: correctness first, then memory, then time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from fame_accel.bench.cases import Operation, Shape
from fame_accel.bench.environment import environment
from fame_accel.bench.inputs import Inputs
from fame_accel.bench.judge import Judge
from fame_accel.bench.memory import ProcessDied, peak_in_process, peak_mib
from fame_accel.bench.providers import EAGER, FLOOR, CannotRun, Prepared, Provider
from fame_accel.bench.rows import Row
from fame_accel.bench.timing import QUANTILES, Clock, Effort, graph_ms, interleaved, quantiles
from fame_accel.tools.measure import freed_memory_is_kept
from fame_accel.tools.parity_cases import Verdict

_PLANS, _SLOW_MS = 3, 1000.0  # times a plan is made anew, and from what a call takes on it is made once
_LAUNCHES_COUNT_MS = 1.0  # below it launching a call takes as long as its kernels: a CUDA graph tells them apart
IN_GRAPHS = ("ours_triton", FLOOR, "yardstick")


@dataclass(frozen=True)
class Protocol:
    """effort: of the timing; memory: whether peaks are measured; run: the name of this run."""

    effort: Effort
    memory: bool
    run: str


def measure(inputs: Inputs, providers: Mapping[str, Provider], protocol: Protocol) -> list[Row]:
    """A row of each provider; one that did not run, or whose result is wrong, has a note and no times."""
    device = inputs.device
    rows: dict[str, Row] = {name: describe(inputs, name, protocol.run) for name in providers}
    judge, prepared = Judge(inputs), {}
    for name, provider in providers.items():
        made = _gated(inputs, name, provider, judge, rows[name])
        if made is not None:
            prepared[name] = made
    if protocol.memory:
        for name, made in prepared.items():
            _add_peak(rows[name], inputs, providers[name], made)
        if freed_memory_is_kept():  # but measuring peaks gave it back
            for made in prepared.values():
                made.call()
    clock = Clock(device)
    times = interleaved({name: made.call for name, made in prepared.items()}, clock, protocol.effort)
    add_times(rows, times)
    for name, made in prepared.items():
        row = rows[name]
        median = quantiles(times[name])[1]
        row["tflops"] = f"{inputs.useful_flop / median / 1e9:.4g}" if made.judged else ""
        if made.replan is not None and len(times[name]) > 1:  # a slow call is not run again for its plan
            _add_plan(row, made, clock, median)
        if made.sort is not None:
            made.sort()
            row["sort_ms"] = f"{quantiles([clock.milliseconds(made.sort) for _ in range(5)])[1]:.4g}"
        if name in IN_GRAPHS and device.type == "cuda" and median < _LAUNCHES_COUNT_MS:
            row["graph_ms"] = _or_reason(lambda made=made: f"{graph_ms(made.call, clock):.4g}", row)
    return list(rows.values())


def describe(inputs: Inputs, provider: str, run: str) -> Row:
    """The columns that say what was measured where."""
    known = bare(inputs.shape, inputs.operation, inputs.device, inputs.query.dtype, provider, run)
    return known | {"active_fraction": f"{inputs.active_fraction:.4f}"}


def bare(
    shape: Shape, operation: Operation, device: torch.device, dtype: torch.dtype, provider: str, run: str
) -> Row:
    """The same of a case whose inputs were not made."""
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
    """Quantiles, and ratios to eager and to the floor, where they ran."""
    medians = {name: quantiles(taken)[1] for name, taken in times.items()}
    for name, taken in times.items():
        row = rows[name]
        row["repeats"] = len(taken)
        row.update({f"p{100 * q:.0f}_ms": f"{ms:.4g}" for q, ms in zip(QUANTILES, quantiles(taken), strict=True)})
        if EAGER in medians:
            row["eager_speedup"] = f"{medians[EAGER] / medians[name]:.4g}"
        if FLOOR in medians:
            row["floor_ratio"] = f"{medians[name] / medians[FLOOR]:.4g}"


def add_errors(row: Row, verdict: Verdict) -> bool:
    """Whether the result passes; a note where it does not."""
    named = (*verdict.errors, *verdict.eager)
    columns = ("max_error", "mean_error", "eager_max_error", "eager_mean_error")
    row.update({column: f"{value:.2e}" for column, value in zip(columns, named, strict=True)})
    if not verdict.passed:
        row["note"] = "WRONG: its error is more than twice eager's + 1e-5"
    return verdict.passed


def said(error: BaseException) -> str:
    """What went wrong, in one line."""
    if isinstance(error, CannotRun):
        return str(error)
    on_cpu = isinstance(error, MemoryError) or "DefaultCPUAllocator" in str(error)
    full = on_cpu or isinstance(error, torch.OutOfMemoryError)
    kind = "out of memory" if full else f"failed: {type(error).__name__}"
    return f"{kind}: {' '.join(str(error).split())[:300]}"


def _gated(inputs: Inputs, name: str, provider: Provider, judge: Judge, row: Row) -> Prepared | None:
    """The call, once its result was held against the reference."""
    try:
        made = provider(inputs)
        out = made.call()
        row["note"] = made.note
        if made.judged and not add_errors(row, judge.verdict(out)):
            return None
    except Exception as error:  # whatever a provider cannot do is a result
        row["note"] = said(error)
        return None
    return made


def _add_peak(row: Row, inputs: Inputs, provider: Provider, made: Prepared) -> None:
    try:
        if inputs.device.type == "cuda":
            peak = peak_mib(made.call, inputs.device)
        else:
            peak = peak_in_process(
                inputs.shape, inputs.operation, provider, inputs.query.dtype, torch.get_num_threads()
            )  # fmt: skip
    except Exception as error:  # its process was ended, or what the gate could have is not free now
        told = error if isinstance(error, ProcessDied) else said(error)
        row["note"] = f"{row['note']}; peak unknown: {told}".lstrip("; ")
        return
    row["peak_mib"] = "" if peak is None else f"{peak:.1f}"


def _add_plan(row: Row, made: Prepared, clock: Clock, median: float) -> None:
    """What is made once per edit, made anew before a call: alone, or as what it adds to the call that makes it."""
    plans, both = [], []
    for _ in range(_PLANS if median < _SLOW_MS else 1):
        making, first, again = (clock.milliseconds(call) for call in (made.replan, made.call, made.call))
        plans.append(making + max(0.0, first - again))
        both.append(making + first)
    row["with_plan_ms"] = f"{quantiles(both)[1]:.4g}"
    row["plan_ms"] = f"{quantiles(plans)[1]:.4g}"


def _or_reason(measured: Callable[[], str], row: Row) -> str:
    """What is measured, or nothing and a note why."""
    try:
        return measured()
    except RuntimeError as error:
        row["note"] = f"{row['note']}; no graph: {said(error)}".lstrip("; ")
        return ""

"""The columns that the benchmarks add to rows of results: work, plans, sorting, CUDA graphs, predictions."""

from __future__ import annotations

import torch

from benchmarks.active_pairs import active_pairs_of
from benchmarks.predictions import predicted_ms
from fame_accel.bench.inputs import AttentionInputs
from fame_accel.bench.prepared import PreparedCall
from fame_accel.bench.protocol import add_note, reason
from fame_accel.bench.providers import FLOOR
from fame_accel.bench.rows import Row
from fame_accel.bench.timing import Call, Clock, median

_PLANS = 3  # times that a plan is made anew
_SLOW_MS = 1000.0  # the plan of a call that takes longer is made once
_GRAPH_MS = 1.0  # launching a shorter call takes as long as its kernels: a CUDA graph tells them apart
_IN_GRAPHS = ("ours_triton", FLOOR, "yardstick")


def add_extra_columns(
    row: Row, inputs: AttentionInputs, prepared: PreparedCall, clock: Clock, times: list[float]
) -> None:
    """Complete the row of a call that took `times` milliseconds; `fame_accel.bench.protocol.Finish`."""
    milliseconds = median(times)
    add_work(row, inputs, milliseconds if prepared.judged else None)
    if prepared.replan is not None and len(times) > 1:  # a slow call is not run again for its plan
        _add_plan(row, prepared.replan, prepared.call, clock, _PLANS if milliseconds < _SLOW_MS else 1)
    if prepared.sort is not None:
        prepared.sort()
        row["sort_ms"] = f"{median([clock.milliseconds(prepared.sort) for _ in range(5)]):.4g}"
    if row["provider"] in _IN_GRAPHS and inputs.device.type == "cuda" and milliseconds < _GRAPH_MS:
        try:
            row["graph_ms"] = f"{graph_ms(prepared.call, clock):.4g}"
        except RuntimeError as error:
            add_note(row, f"no graph: {reason(error)}")
    if row["provider"] == "ours_triton":
        predicted = predicted_ms(inputs.shape, inputs.operation, row["dtype"], row["device"])
        row["predicted_ms"] = "" if predicted is None else f"{predicted:.4g}"


def add_work(row: Row, inputs: AttentionInputs, milliseconds: float | None) -> None:
    """Add the share of active pairs and, for a call of the operation, both matrix products over them per second."""
    shape, pairs = inputs.shape, active_pairs_of(inputs)
    row["active_fraction"] = f"{pairs / (shape.items * shape.queries * shape.keys):.4f}"
    if milliseconds is not None:
        row["tflops"] = f"{4 * pairs * shape.head_dim * shape.heads / milliseconds / 1e9:.4g}"


def graph_ms(call: Call, clock: Clock, repeats: int = 25) -> float:
    """The median milliseconds of a call replayed from a CUDA graph, without what launching costs."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return median([clock.milliseconds(graph.replay) for _ in range(repeats)])


def _add_plan(row: Row, replan: Call, call: Call, clock: Clock, repeats: int) -> None:
    """Add what is made once per edit: its own time, and together with the call.

    Where `replan` only drops the plan, the next call makes it, and takes that much longer than the one after.
    """
    plans, together = [], []
    for _ in range(repeats):
        making, first, again = (clock.milliseconds(function) for function in (replan, call, call))
        plans.append(making + max(0.0, first - again))
        together.append(making + first)
    row["with_plan_ms"] = f"{median(together):.4g}"
    row["plan_ms"] = f"{median(plans):.4g}"

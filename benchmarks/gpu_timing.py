"""Every provider at every shape and operation: correctness first, then time, memory and useful TFLOPS.

    python -m benchmarks.gpu_timing [--budget-seconds 200] [--shapes sd15-64x64-f8 ...] [--providers ours flex ...]

A result is held against the 2x rule on sampled rows before it is timed: do_bench with quantiles, the L2 cache emptied
before each run; calls over 100 ms are timed three times with events after a warm-up. Below 1 ms the launches of a
call cost as much as its kernels, so there graph_ms is the same call replayed from a CUDA graph. plan_ms is what a call
takes longer when its plan (tiles, block mask, dense bias) is made anew. Rows are appended to
benchmarks/results/gpu.csv as they come; what did not run has a row whose note says why. The exit status is 1 where our
kernels break the rule or fail.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import triton

from benchmarks.compare import append, peak_mib
from benchmarks.environment import environment
from benchmarks.inputs import Inputs, make_inputs
from benchmarks.predictions import predicted_ms
from benchmarks.providers import PROVIDERS, Prepared
from benchmarks.shapes import BY_NAME, SHAPES, Operation, Shape, operations

RESULTS = Path(__file__).parent / "results" / "gpu.csv"
QUANTILES = (0.2, 0.5, 0.8)
SLOW_MS, LAUNCH_MS = 100.0, 1.0
COMPILED = ("ours", "yardstick", "flex", "flex_sorted", "flex_three_pass")
IN_GRAPHS = ("ours", "yardstick", "sdpa_flash")
Case = tuple[Shape, Operation, str]

COLUMNS = (
    *("date", "commit", "device", "driver", "cuda", "torch", "triton"),
    *("shape", "operation", "frames", "size", "keys", "heads", "head_dim", "batch", "dtype", "provider"),
    *("p20_ms", "p50_ms", "p80_ms", "graph_ms", "plan_ms", "predicted_ms", "tflops", "active_fraction"),
    *("flash_ratio", "eager_speedup", "peak_mib", "max_error", "eager_max_error", "note"),
)


def cases(shapes: list[Shape], providers: list[str]) -> list[Case]:
    """Most informative first: main shapes, then the fast providers of the others, then what compiles for long."""
    found = [
        (shape, operation, name)
        for shape in shapes
        for operation in operations(shape)
        for name in PROVIDERS
        if name in providers and _kind(operation) in PROVIDERS[name].kinds
    ]
    return sorted(found, key=lambda case: (not case[0].main) * (1 + PROVIDERS[case[2]].late))


def quantiles(call: Callable[[], object], device: torch.device) -> list[float]:
    """Milliseconds at QUANTILES of a call that has run before."""
    if device.type != "cuda":
        times = [_seconds(call, device) * 1e3]  # a dry run
    elif _seconds(call, device) * 1e3 < SLOW_MS:
        return triton.testing.do_bench(call, warmup=25, rep=100, quantiles=list(QUANTILES))
    else:
        times = []
        for _ in range(3):
            start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            call()
            stop.record()
            torch.cuda.synchronize(device)
            times.append(start.elapsed_time(stop))
    return torch.tensor(times, dtype=torch.float64).quantile(torch.tensor(QUANTILES, dtype=torch.float64)).tolist()


def graph_ms(call: Callable[[], object], device: torch.device) -> float:
    """Median milliseconds of the call replayed from a CUDA graph."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return quantiles(graph.replay, device)[1]


def plan_ms(prepared: Prepared, device: torch.device) -> float:
    """What a call takes longer when its plan is made anew, at least 0."""

    def fresh() -> None:
        prepared.replan()
        prepared.call()

    if device.type == "cuda":
        fresh()  # the parts of torch that a plan alone calls, loaded
    return max(0.0, 1e3 * (_seconds(fresh, device) - _seconds(prepared.call, device)))


@torch.no_grad()
def measure(inputs: Inputs, name: str, times: dict[tuple[str, str], float]) -> tuple[dict[str, object], bool]:
    """(columns of one row, whether the result is right). times: medians by (operation, provider) at this shape so
    far, to which this one is added."""
    device = inputs.device
    prepared = PROVIDERS[name].prepare(inputs)
    if isinstance(prepared, str):
        return {"note": prepared}, True
    row: dict[str, object] = {"note": prepared.note, "eager_max_error": f"{inputs.judge.eager_errors[0]:.2e}"}
    errors = inputs.judge.errors(prepared.call()) if prepared.judged else inputs.judge.eager_errors
    row["max_error"] = f"{errors[0]:.2e}"
    if not inputs.judge.passes(errors):
        bounds = "max {:.2e} mean {:.2e}".format(*inputs.judge.eager_errors)
        row["note"] = "WRONG: max {:.2e} mean {:.2e}, eager {}".format(*errors, bounds)
        return row, False
    row["peak_mib"] = round(peak_mib(prepared.call, device), 1)
    spread = quantiles(prepared.call, device)
    row.update({f"p{100 * q:.0f}_ms": f"{ms:.4g}" for q, ms in zip(QUANTILES, spread, strict=True)})
    median = spread[1]
    times[inputs.operation.name, name] = median
    row["tflops"] = f"{inputs.useful_flop / median / 1e9:.4g}"
    row["active_fraction"] = f"{inputs.active_pairs / (inputs.shape.queries * inputs.shape.keys):.4f}"
    for column, base, over in (
        ("flash_ratio", times.get(("plain", "sdpa_flash")), False),
        ("eager_speedup", times.get((inputs.operation.name, "eager")), True),
    ):
        row[column] = "" if base is None else f"{base / median if over else median / base:.4g}"
    if name == "ours":
        dtype = str(inputs.query.dtype).removeprefix("torch.")
        predicted = predicted_ms(inputs.shape, inputs.operation, dtype, environment(device)["device"])
        row["predicted_ms"] = "" if predicted is None else f"{predicted:.4g}"
    if prepared.replan is not None:
        row["plan_ms"] = f"{plan_ms(prepared, device):.3g}"
    if name in IN_GRAPHS and device.type == "cuda" and median < LAUNCH_MS:
        row["graph_ms"] = _or_reason(lambda: f"{graph_ms(prepared.call, device):.4g}", row)
    return row, True


class Round:
    """The cases in turn, with what they share."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.device, self.dtype = torch.device(args.device), getattr(torch, args.dtype)
        self.deadline = time.monotonic() + args.budget_seconds
        self.failures = args.failures
        self._inputs: Inputs | None = None
        self._times: dict[str, dict[tuple[str, str], float]] = {}

    def run(self, todo: list[Case]) -> None:
        for place, case in enumerate(todo[self.args.skip :], self.args.skip):
            left = self.deadline - time.monotonic()
            if left <= 0:
                print(f"budget of {self.args.budget_seconds:.0f} s spent: {len(todo) - place} cases are skipped")
                for skipped in todo[place:]:
                    self.record(skipped, {"note": "skipped: time budget spent"})
                return
            self.one(case)
            if _device_is_lost(self.device):  # every later call would fail: go on in a new process
                print("the device is in an error state: starting anew", flush=True)
                arguments = _without(sys.argv[1:], ("--skip", "--failures", "--budget-seconds"))
                arguments += ["--skip", str(place + 1), "--failures", str(self.failures)]
                arguments += ["--budget-seconds", str(max(0.0, self.deadline - time.monotonic()))]
                os.execv(sys.executable, [sys.executable, "-m", "benchmarks.gpu_timing", *arguments])

    def one(self, case: Case) -> None:
        shape, operation, name = case
        row: dict[str, object] = {}
        right = False
        try:
            times = self._times.setdefault(shape.name, {})
            row, right = measure(self.inputs(shape, operation), name, times)
        except torch.OutOfMemoryError as reason:
            self._inputs, right = None, name != "ours"
            row = {"note": "out of memory: " + _line(reason)}
        except Exception as reason:  # whatever a provider cannot do is a result of the round
            row = {"note": f"failed: {type(reason).__name__}: {_line(reason)}"}
        self.failures += name == "ours" and not right
        self.record(case, row)

    def inputs(self, shape: Shape, operation: Operation) -> Inputs:
        """Those of the last case where they are the same."""
        kept = self._inputs
        if kept is None or (kept.shape, kept.operation) != (shape, operation):
            self._inputs = kept = None
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            self._inputs = make_inputs(shape, operation, self.device, self.dtype)
        return self._inputs

    def record(self, case: Case, row: dict[str, object]) -> None:
        shape, operation, name = case
        row = {
            **environment(self.device),
            "shape": shape.name,
            "operation": operation.name,
            **{column: getattr(shape, column) for column in ("frames", "size", "keys", "heads", "head_dim", "batch")},
            "dtype": self.args.dtype,
            "provider": name,
            **row,
        }
        append([{column: row.get(column, "") for column in COLUMNS}], self.args.out)
        print(said(row), flush=True)


def said(row: dict[str, object]) -> str:
    """One line for the eye."""
    head = f"{row['shape']:22} {row['operation']:17} {row['provider']:19}"
    if not row.get("p50_ms"):
        return f"{head} {row['note']}"
    parts = {
        "ms": f"{row['p50_ms']} ms",
        "tflops": f"{row['tflops']} TFLOPS",
        "flash_ratio": f"{row['flash_ratio']} x flash",
        "eager_speedup": f"{row['eager_speedup']} x as fast as eager",
        "graph_ms": f"graph {row.get('graph_ms')} ms",
        "plan_ms": f"plan {row.get('plan_ms')} ms",
        "predicted_ms": f"predicted {row.get('predicted_ms')} ms",
        "peak_mib": f"{row['peak_mib']} MiB",
        "note": str(row["note"]),
    }
    return f"{head} " + "  ".join(text for column, text in parts.items() if column == "ms" or row.get(column))


def compile_all(todo: list[Case], device: torch.device, dtype: torch.dtype) -> None:
    """Call once what is compiled, to fill the caches on disk that the timings then read."""
    for shape, operation, name in todo:
        if name in COMPILED:
            try:
                with torch.no_grad():
                    prepared = PROVIDERS[name].prepare(make_inputs(shape, operation, device, dtype))
                    if isinstance(prepared, Prepared):
                        prepared.call()
            except Exception as reason:  # the timings will meet it again and record it
                print(f"{shape.name} {operation.name} {name}: {type(reason).__name__}: {_line(reason)}", flush=True)


def _kind(operation: Operation) -> str:
    return "hard" if operation.hard else "pulled" if operation.pulled else "plain"


def _seconds(call: Callable[[], object], device: torch.device) -> float:
    _wait(device)
    start = time.perf_counter()
    call()
    _wait(device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _device_is_lost(device: torch.device) -> bool:
    try:
        _wait(device)
    except RuntimeError:
        return True
    return False


def _or_reason(measured: Callable[[], str], row: dict[str, object]) -> str:
    """What is measured, or nothing and a note why."""
    try:
        return measured()
    except RuntimeError as reason:
        row["note"] = f"{row['note']}; no graph: {_line(reason)}".lstrip("; ")
        return ""


def _line(reason: BaseException) -> str:
    return " ".join(str(reason).split())[:300]


def _without(arguments: list[str], options: tuple[str, ...]) -> list[str]:
    """The command line less these options and their values."""

    def kept() -> Iterator[str]:
        rest = iter(arguments)
        for argument in rest:
            if argument in options:
                next(rest)
            else:
                yield argument

    return list(kept())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    names = [shape.name for shape in SHAPES]
    parser.add_argument("--shapes", nargs="+", default=names, choices=BY_NAME, metavar="SHAPE")
    parser.add_argument("--providers", nargs="+", default=list(PROVIDERS), choices=PROVIDERS, metavar="PROVIDER")
    parser.add_argument("--budget-seconds", type=float, default=200.0)
    parser.add_argument("--dtype", default="float16", choices=["float16", "bfloat16", "float32"])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--list", action="store_true", help="print the names of the shapes and stop")
    parser.add_argument("--compile-only", action="store_true", help="fill the compilers' caches, time nothing")
    parser.add_argument("--skip", type=int, default=0, help="cases done before (set when the round starts anew)")
    parser.add_argument("--failures", type=int, default=0, help="failures before (likewise)")
    args = parser.parse_args()
    if args.list:
        print("\n".join(args.shapes))
        return
    todo = cases([BY_NAME[name] for name in args.shapes], args.providers)
    if args.compile_only:
        compile_all(todo, torch.device(args.device), getattr(torch, args.dtype))
        return
    this = Round(args)
    this.run(todo)
    print(f"{this.failures} failures of ours; rows in {args.out}")
    sys.exit(min(this.failures, 1))


if __name__ == "__main__":
    main()

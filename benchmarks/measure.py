"""Suites of cases by every provider: correctness first, then memory and time side by side.

    python -m benchmarks.measure cpu|scaling|network|gpu|toy [--budget-seconds 200] [--shapes ...] [--providers ...]

On a CPU freed memory is kept from call to call, unless --return-memory leaves the C library's defaults. A result is
held against the parity rule on sampled rows before it is timed. Calls are timed in turn, so that ratios are of one run.
Rows are appended to benchmarks/results/measured.csv case by case; a provider that did not run has a row whose note says
why. The exit status is 1 where a backend of ours breaks the rule or fails.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

import torch

from benchmarks.extra_columns import add_extra_columns
from benchmarks.providers import COMPILED, PROVIDERS
from benchmarks.shapes import BESIDE_COMPILED, OURS, SUITES, SuiteCase
from fame_accel.bench.environment import run_name
from fame_accel.bench.inputs import make_inputs
from fame_accel.bench.protocol import Protocol, describe, measure, reason
from fame_accel.bench.rows import Row, append
from fame_accel.bench.timing import Effort
from fame_accel.tools.measure import keep_freed_memory

RESULTS = Path(__file__).parent / "results" / "measured.csv"
_REASONS = ("WRONG", "failed", "out of memory")  # how notes of ours begin that count as failures
_RESTARTED = ("--skip", "--failures", "--budget-seconds", "--run")


class Round:
    """Measures cases one after the other within a time, on one device."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.device, self.dtype = torch.device(args.device), getattr(torch, args.dtype)
        self.deadline = time.monotonic() + args.budget_seconds
        self.failures = args.failures
        self.protocol = Protocol(Effort(args.seconds), args.memory, args.run, COMPILED)

    def run(self, todo: list[SuiteCase]) -> None:
        longest = 0.0  # a case that was begun is finished
        for index, case in enumerate(todo[self.args.skip :], self.args.skip):
            begin = time.monotonic()
            if self.deadline - begin <= longest:
                print(f"budget of {self.args.budget_seconds:.0f} s spent: {len(todo) - index} cases are skipped")
                for skipped in todo[index:]:
                    self.record(self.without_times(skipped, "skipped: time budget spent"))
                return
            self.record(self.rows(case))
            longest = max(longest, time.monotonic() - begin)
            if _device_is_lost(self.device):  # every later call would fail: go on in a new process
                print("the device is in an error state: starting anew", flush=True)
                arguments = _without(sys.argv[1:], _RESTARTED)
                arguments += ["--skip", str(index + 1), "--failures", str(self.failures), "--run", self.args.run]
                arguments += ["--budget-seconds", str(max(0.0, self.deadline - time.monotonic()))]
                os.execv(sys.executable, [sys.executable, "-m", "benchmarks.measure", *arguments])

    @torch.no_grad()
    def rows(self, case: SuiteCase) -> list[Row]:
        torch.compiler.reset()  # dynamo counts the variants of one function and stops compiling after eight
        try:
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            inputs = make_inputs(case.shape, case.operation, self.device, self.dtype)
            providers = {name: PROVIDERS[name] for name in case.providers}
            rows = measure(inputs, providers, self.protocol, add_extra_columns)
        except Exception as error:  # the device is lost, or the inputs do not fit it
            rows = self.without_times(case, reason(error))
        self.failures += sum(map(_failed, rows))
        return rows

    def without_times(self, case: SuiteCase, note: str) -> list[Row]:
        """The rows of a case that was not measured."""
        arguments = (case.shape, case.operation, self.device, self.dtype)
        return [describe(*arguments, name, self.args.run) | {"note": note} for name in case.providers]

    def record(self, rows: list[Row]) -> None:
        append(rows, self.args.out)
        for row in rows:
            print(line(row), flush=True)


def _failed(row: Row) -> bool:
    return row["provider"] in OURS and row["note"].startswith(_REASONS)


def line(row: Row) -> str:
    """A row in a line for the terminal."""
    head = f"{row['shape']:24} {row['operation']:17} {row['provider']:15}"
    if not row.get("p50_ms"):
        return f"{head} {row['note']}"
    parts = {
        "p50_ms": "{} ms",
        "eager_speedup": "{} x as fast as eager",
        "floor_ratio": "{} x plain",
        "plan_ms": "plan {} ms",
        "graph_ms": "graph {} ms",
        "predicted_ms": "predicted {} ms",
        "peak_mib": "{} MiB",
        "note": "{}",
    }
    return f"{head} " + "  ".join(text.format(row[column]) for column, text in parts.items() if row.get(column))


def compile_all(todo: list[SuiteCase], device: torch.device, dtype: torch.dtype) -> None:
    """Call everything that is compiled once, to fill the caches on disk that the timings then read."""
    for case in todo:
        torch.compiler.reset()
        for name in set(case.providers) & {*COMPILED, "ours_triton", "yardstick"}:
            try:
                with torch.no_grad():
                    PROVIDERS[name](make_inputs(case.shape, case.operation, device, dtype)).call()
            except Exception as error:  # it will happen again in the timings, which record it
                print(f"{case.shape.name} {case.operation.name} {name}: {reason(error)}", flush=True)


def _device_is_lost(device: torch.device) -> bool:
    if device.type != "cuda":
        return False
    try:
        torch.cuda.synchronize(device)
    except RuntimeError:
        return True
    return False


def _without(arguments: list[str], options: tuple[str, ...]) -> list[str]:
    """The command line less these options and their values."""

    rest, kept = iter(arguments), []
    for argument in rest:
        if argument in options:
            next(rest)
        else:
            kept.append(argument)
    return kept


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    on_gpu = torch.cuda.is_available()
    suites = [*SUITES, "network"]
    parser.add_argument("suite", choices=suites, help="network: block and step of SD 1.5, 8 frames of 256x256")
    parser.add_argument("--shapes", nargs="+", metavar="SHAPE", help="shapes of the suite; all by default")
    parser.add_argument("--providers", nargs="+", choices=PROVIDERS, metavar="PROVIDER", help="all by default")
    parser.add_argument("--budget-seconds", type=float, default=3600.0)
    parser.add_argument("--seconds", type=float, default=0.2 if on_gpu else 2.0, help="for the repeats of one provider")
    parser.add_argument("--no-memory", action="store_false", dest="memory", help="measure no peaks of memory")
    dtypes = ["float16", "bfloat16", "float32"]
    return_memory = "let the C library return freed memory, its default on a CPU: calls then pay for new pages"
    parser.add_argument("--return-memory", action="store_true", help=return_memory)
    parser.add_argument("--dtype", default="float16" if on_gpu else "float32", choices=dtypes)
    parser.add_argument("--device", default="cuda" if on_gpu else "cpu")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--list", action="store_true", help="print the names of the shapes and stop")
    parser.add_argument("--compile-only", action="store_true", help="fill the compilers' caches, time nothing")
    parser.add_argument("--skip", type=int, default=0, help="cases done before (set when the round starts anew)")
    parser.add_argument("--failures", type=int, default=0, help="failures before (likewise)")
    parser.add_argument("--run", default=run_name(), help="name of the run (likewise)")
    args = parser.parse_args(argv)
    if args.suite == "network" and (args.shapes or args.providers or args.list or args.compile_only):
        parser.error("network takes none of --shapes, --providers, --list and --compile-only")
    known = {case.shape.name for case in SUITES.get(args.suite, ())}
    if unknown := set(args.shapes or ()) - known:
        parser.error(f"--shapes of {args.suite} are {', '.join(sorted(known))}; got {', '.join(sorted(unknown))}")
    return args


def selected(args: argparse.Namespace) -> list[SuiteCase]:
    """The cases of the suite that the flags ask for."""
    wanted = set(args.providers or PROVIDERS)
    return [
        SuiteCase(case.shape, case.operation, tuple(name for name in case.providers if name in wanted))
        for case in SUITES[args.suite]
        if not args.shapes or case.shape.name in args.shapes
        # of these, the others are measured with the rest
        if case.providers != BESIDE_COMPILED or wanted & {*COMPILED}
    ]


def network(args: argparse.Namespace) -> int:
    """A UNet's block and step; the number of our failures."""
    from benchmarks.network import OPERATIONS, Network, measure_network
    from fame_accel.media.packages import quiet

    quiet()
    model = Network.random("sd15", torch.device(args.device), getattr(torch, args.dtype))
    rows = []
    for operation in OPERATIONS:
        rows += measure_network(model, operation, 8, 256, Protocol(Effort(args.seconds), args.memory, args.run))
        append(rows[-4:], args.out)
        print(*map(line, rows[-4:]), sep="\n", flush=True)
    return sum(_failed(row) for row in rows)


def main() -> None:
    args = parse()
    if torch.device(args.device).type == "cpu" and not args.return_memory:
        keep_freed_memory()
    if args.suite == "network":
        sys.exit(min(network(args), 1))
    todo = selected(args)
    if args.list:
        print("\n".join(dict.fromkeys(case.shape.name for case in todo)))
        return
    if args.compile_only:
        compile_all(todo, torch.device(args.device), getattr(torch, args.dtype))
        return
    measuring = Round(args)
    measuring.run(todo)
    print(f"{measuring.failures} failures of ours; rows in {args.out}")
    sys.exit(min(measuring.failures, 1))


if __name__ == "__main__":
    main()

"""Hardware counters of the hot kernels by Nsight Compute, as rows of benchmarks/results/ncu.csv.

    python -m benchmarks.profile_kernels [--raw FOLDER]

Runs itself under ncu once per case: one warm call, then one inside a profiler range. It collects whole sections, whose
metrics exist on every chip, and those of METRICS that the installed ncu knows. Rows keep what KEPT matches, and the raw
CSV goes to --raw. The clocks are not locked. Where ncu is missing or may not profile, the output says so, and the exit
status is 0.
"""

from __future__ import annotations

import argparse
import csv
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from benchmarks.shapes import BY_NAME
from fame_accel.bench.environment import environment
from fame_accel.bench.inputs import make_inputs
from fame_accel.bench.providers import PROVIDERS
from fame_accel.bench.rows import append
from fame_accel.bench.workload import operations

RESULTS = Path(__file__).parent / "results" / "ncu.csv"
CASES = {  # name -> (shape, operation)
    "fame": ("sd15-64x64-f8", "fame"),
    "region_mask_decay": ("sd15-32x32-f8", "region_mask_decay"),
    "cross_77": ("sd15-64x64-f8-text77", "cross_77"),
    "toy": ("toy-4x4-f2", "region_mask_decay"),
}
SECTIONS = (
    *("SpeedOfLight", "ComputeWorkloadAnalysis", "MemoryWorkloadAnalysis", "SchedulerStats", "WarpStateStats"),
    *("LaunchStats", "Occupancy"),
)
_ACTIVE = "avg.pct_of_peak_sustained_active"
METRICS = (
    "gpu__time_duration.sum",
    f"sm__pipe_tensor_cycles_active.{_ACTIVE}",
    "sm__inst_executed_pipe_tensor_op_hmma.sum",
    "sm__inst_executed_pipe_tensor_op_gmma.sum",
    f"sm__inst_executed_pipe_xu.{_ACTIVE}",
    f"sm__inst_executed_pipe_fma.{_ACTIVE}",
    f"sm__inst_executed_pipe_alu.{_ACTIVE}",
    f"sm__inst_executed_pipe_lsu.{_ACTIVE}",
    "smsp__inst_executed.sum",
    "dram__bytes.sum",
    "lts__t_sector_hit_rate.pct",
)
KEPT = re.compile(
    r"gpu__time_duration\.sum|(sm|dram|gpu__compute_memory|lts|l1tex)__throughput\.avg\.pct\w*elapsed|dram__bytes\.sum"
    r"|sm__(inst_executed_)?pipe_(tensor|xu|fma|alu|lsu|shared)\w*\.(sum|avg\.pct\w*active)|smsp__inst_executed\.sum"
    r"|smsp__issue_active\.avg\.\w+|sm__warps_active\.avg\.pct\w*active|sm__maximum_warps_per_active_cycle_pct"
    r"|lts__t_sector_hit_rate\.pct|launch__(registers_per_thread|occupancy_limit_\w+|waves_per_multiprocessor)"
    r"|launch__shared_mem_per_block\w*|smsp__average_warps_issue_stalled_\w+_per_issue_active\.ratio"
    r"|l1tex__data_bank_conflicts_pipe_lsu\.sum"
)


@torch.no_grad()
def run(case: str, device: torch.device) -> None:
    """Run a case in the process that is profiled: a warm call, then one inside the profiler range."""
    shape, name = BY_NAME[CASES[case][0]], CASES[case][1]
    operation = next(operation for operation in operations(shape) if operation.name == name)
    dtype = torch.float16 if device.type == "cuda" else torch.float32
    call = PROVIDERS["ours_triton"](make_inputs(shape, operation, device, dtype)).call
    call()
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.profiler.start()
        call()
        torch.cuda.synchronize()
        torch.cuda.profiler.stop()


def command(ncu: str, case: str, log: Path, metrics: list[str], seconds: float) -> list[str]:
    """The command that runs ncu on this module.

    Every kernel of the range is profiled, so that a renamed one is not missed. `timeout` ends that process, too.
    """
    sections = [word for section in SECTIONS for word in ("--section", section)]
    more = ["--metrics", ",".join(metrics)] if metrics else []
    return [
        *("timeout", "--kill-after=5", f"{seconds:.0f}"),
        *(ncu, "--csv", "--page", "raw", "--print-units", "base", "--profile-from-start", "off"),
        *("--clock-control", "none", "--target-processes", "all", "--log-file", str(log)),
        *(*sections, *more, sys.executable, "-m", "benchmarks.profile_kernels", "--case", case),
    ]


def known(listing: str, metrics: tuple[str, ...] = METRICS) -> list[str]:
    """The metrics whose base name ncu lists; an unknown one would fail the profile."""
    names = {line.split()[0] for line in listing.splitlines() if line.split()}
    return [metric for metric in metrics if metric.partition(".")[0] in names]


def parse(text: str) -> list[dict[str, str]]:
    """kernel, metric, unit and value of our kernels in ncu's raw CSV: a header, a row of units, a row per kernel."""
    lines = text.splitlines()
    start = next((index for index, line in enumerate(lines) if line.startswith('"ID"')), None)
    if start is None:
        return []
    header, units, *kernels = csv.reader(line for line in lines[start:] if line.startswith('"'))
    name_column = header.index("Kernel Name")
    return [
        {"kernel": row[name_column], "metric": name, "unit": unit, "value": value}
        for row in kernels
        if "::" not in row[name_column]  # torch's own
        for name, unit, value in zip(header, units, row, strict=False)
        if KEPT.fullmatch(name)
    ]


def profile(ncu: str, case: str, metrics: list[str], raw: Path | None, seconds: float) -> list[dict[str, str]]:
    """Profile one case and return its rows; prints the reason where there are none."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "ncu.csv"
        result = subprocess.run(command(ncu, case, log, metrics, seconds), capture_output=True, text=True)
        text = log.read_text() if log.exists() else ""
    rows = parse(text) or parse(result.stdout)
    if not rows:
        output = " ".join((text + result.stdout + result.stderr).split())
        late = f" within {seconds:.0f} s" if result.returncode == 124 else ""
        print(f"{case}: no profile{late}, ncu returned {result.returncode} and wrote: {output[-800:]}", flush=True)
    elif raw is not None:
        raw.mkdir(parents=True, exist_ok=True)
        (raw / f"ncu_{case}.csv").write_text(text)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--case", choices=CASES, help="run one case, without ncu")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--raw", type=Path, help="a folder for the whole CSV of each case")
    parser.add_argument("--seconds", type=float, default=40.0, help="time limit of one case")
    args = parser.parse_args()
    device = torch.device(args.device)
    if args.case:
        run(args.case, device)
        return
    ncu = shutil.which("ncu")
    if ncu is None or device.type != "cuda":
        print("no profile: " + ("ncu is not installed" if ncu is None else "needs a CUDA device"))
        return
    listing = subprocess.run(["timeout", "30", ncu, "--query-metrics"], capture_output=True, text=True).stdout
    for case in CASES:
        if case == "toy":
            continue
        rows = profile(ncu, case, known(listing), args.raw, args.seconds)
        if rows:
            rows = [environment(device) | {"case": case} | row for row in rows]
            append(rows, args.out, list(rows[0]))
        for row in rows:
            print(f"{case:18} {row['kernel']:28} {row['metric']:72} {row['value']} {row['unit']}")


if __name__ == "__main__":
    main()

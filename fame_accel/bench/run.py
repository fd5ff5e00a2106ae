"""What `fame-accel bench` does: measures the layers of a model, and writes the report."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch

from fame_accel.bench import SECONDS
from fame_accel.bench.environment import run_name
from fame_accel.bench.picture import draw
from fame_accel.bench.protocol import Protocol
from fame_accel.bench.providers import EAGER, FLOOR, PROVIDERS
from fame_accel.bench.report import Report, as_html, as_text, case_line
from fame_accel.bench.rows import Row, append
from fame_accel.bench.setting import TEXT_TOKENS, Setting
from fame_accel.bench.sweep import Budget, over_frames, sweep
from fame_accel.bench.timing import Effort
from fame_accel.bench.workload import AttentionOperation, LayerShape
from fame_accel.tools.measure import freed_memory_is_kept, keep_freed_memory

_REPEAT_SECONDS = {"cpu": 1.0, "cuda": 0.2}  # for the repeats of one provider in one case
_PATIENCE = 3.0  # seconds of a call past which it runs once
_IDLE_LOAD = 0.7  # the load average up to which a CPU counts as free for measuring
_NOTES = (
    "Random tensors and upright regions: times of a real clip differ as its regions do.",
    "A step is attention alone, under guidance that of its conditional half: the other half, plain, and the network's "
    "other layers come on top.",
)
_MEMORY_KEPT = (
    "Freed memory was kept from call to call. C libraries return it by default, which costs eager more time: its "
    "matrices take new pages at each step."
)


def run_bench(setting: Setting, seconds: float, out: Path) -> int:
    """Measure the small cases first, as they tell how long larger ones take, and write the report.

    Args:
        setting: what is measured.
        seconds: that measuring may take.
        out: folder for bench.csv, bench.png and bench.html.

    Returns:
        The exit status: 1 where a result of this library is wrong or failed, or nothing could be timed.
    """
    device = setting.device
    if device.type == "cpu":
        keep_freed_memory()
    notes = [*_busy(device), *_NOTES, *([_MEMORY_KEPT] if freed_memory_is_kept() else [])]
    providers = {name: PROVIDERS[name] for name in (EAGER, FLOOR, setting.ours)}
    effort = Effort(_REPEAT_SECONDS[device.type], most=15, patience=_PATIENCE)
    protocol, budget = Protocol(effort, memory=True, run=run_name()), Budget(seconds, _PATIENCE)
    print(f"{setting.heading}: measuring for about {seconds:.0f} s", flush=True)

    def done(rows: list[Row]) -> None:
        append(rows, out / "bench.csv")
        print(f"  {case_line(rows)}", flush=True)

    def measured(cases: list[tuple[LayerShape, AttentionOperation]]) -> list[Row]:
        return sweep(cases, providers, device, setting.dtype, protocol, budget, done)

    finest, *coarser = setting.levels
    *fewer, _ = over_frames(finest)
    scaling = measured([(shape, setting.operation) for shape in fewer])
    rows = measured([(finest, setting.operation)])
    scaling += rows
    rows = rows + measured([(shape, setting.operation) for shape in coarser]) + measured(setting.text_cases)
    layers = {shape.name: number for shape, number in setting.levels.items()}
    layers |= {f"{name}-text{TEXT_TOKENS}": number for name, number in layers.items()}
    line = f"fame-accel {' '.join(sys.argv[1:])}"
    report = Report(setting.heading, _machine(rows[0]), line, rows, scaling, layers, notes, setting.ours)
    png, page = out / "bench.png", out / "bench.html"
    if not any(row.get("p50_ms") for row in rows):
        for file in (png, page):  # of a run before
            file.unlink(missing_ok=True)
        print(f"\nNothing was timed: --seconds {seconds:g} was too short ({SECONDS:g}, the default, suit two cores)")
        return 1
    print("\n" + as_text(report))
    png.write_bytes(draw(report, "png"))
    as_html(report, draw(report, "svg"), page)
    print(f"\nWrote bench.csv, bench.png and bench.html to {out}")
    ours = [str(row.get("note", "")) for row in (*rows, *scaling) if row["provider"] == setting.ours]
    return int(any(note.startswith(("WRONG", "failed")) for note in ours))


def _busy(device: torch.device) -> list[str]:
    """A note where other work ran on the CPU in the last minute."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") and device.type == "cpu" else 0.0
    if load <= _IDLE_LOAD:
        return []
    return [
        f"Other work ran on this machine (load average {load:.1f} on {os.cpu_count()} CPUs in the minute before): "
        "times and ratios are off, most for calls of many short operations."
    ]


def _machine(row: Row) -> str:
    """Device, versions, commit and date of a row."""
    triton = f", Triton {row['triton']}" if row["triton"] else ""
    return f"{row['device']}, torch {row['torch']}{triton}, fame-accel at {row['commit']}, {row['date']}"

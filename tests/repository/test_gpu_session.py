"""The GPU round cannot fail on a mistake that a CPU shows: its dry run, and the parts that its numbers rest on."""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton")

from benchmarks import measure, profile_kernels
from benchmarks.predictions import predicted_ms
from benchmarks.providers import COMPILED, PROVIDERS
from benchmarks.shapes import MAIN, SHAPES, SUITES, TOYS
from fame_accel.bench.inputs import AttentionInputs
from fame_accel.bench.prepared import PreparedCall
from fame_accel.bench.rows import COLUMNS
from fame_accel.bench.rows import read as rows
from fame_accel.bench.workload import SELF_ATTENTION, operations

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")


def session(python: str, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    out = tmp_path / "out"
    out.mkdir()
    settings = {"DRY_RUN": "1", "PYTHON": python, "RESULTS": str(tmp_path / "results"), "OUT": str(out)}
    settings["TMPDIR"] = str(tmp_path)
    return subprocess.run(
        [ROOT / "benchmarks/gpu_session.sh"], env=os.environ | settings, capture_output=True, text=True
    )


@pytest.mark.slow
def test_session_runs_every_gpu_test() -> None:
    """The script names the files that hold tests marked gpu: on a GPU machine the others may not even import."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "--collect-only", "tests"]
    collected = subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout
    with_gpu_tests = {line.partition("::")[0] for line in collected.splitlines() if "::" in line}
    script = (ROOT / "benchmarks/gpu_session.sh").read_text()
    words = re.findall(r"tests/[\w/]*test_[\w{},]+\.py", script)
    named = subprocess.run(["bash", "-c", f"echo {' '.join(words)}"], capture_output=True, text=True, check=True).stdout
    assert with_gpu_tests and with_gpu_tests == set(named.split())


@pytest.mark.slow
def test_dry_run(tmp_path: Path) -> None:
    result = session(sys.executable, tmp_path)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-1000:]
    outcome = rows(tmp_path / "results/measured.csv")
    assert tuple(outcome[0]) == COLUMNS
    assert {row["provider"] for row in outcome} == set(PROVIDERS) - set(COMPILED)
    assert {row["operation"] for row in outcome} == {o.name for shape in TOYS for o in operations(shape)}
    assert len({row["run"] for row in outcome}) == 1
    for row in outcome:
        assert row["commit"] and row["device"] and row["torch"] and row["triton"] and row["date"]
        assert not row["note"].startswith(("failed", "WRONG", "skipped", "out of memory")), row
        if row["p50_ms"]:
            assert float(row["p20_ms"]) <= float(row["p50_ms"]) <= float(row["p80_ms"])
            assert row["peak_mib"] and row["floor_ratio"] and row["eager_speedup"]
            floor = row["note"] == "plain attention, the floor"
            assert floor or (float(row["tflops"]) > 0 and row["max_error"])
        else:
            assert row["note"], row
        if row["provider"].startswith("ours"):
            assert row["plan_ms"] and row["with_plan_ms"], row
    outcomes = {line.partition(":")[0]: line for line in (tmp_path / "out/session.log").read_text().splitlines()}
    for step in ("environment", "tests", "timings", "profile", "sanitize"):
        assert ": done" in outcomes[step], outcomes[step]
    assert (tmp_path / "out/measured.csv").read_text() == (tmp_path / "results/measured.csv").read_text()


def test_failing_steps_do_not_stop_the_others(tmp_path: Path) -> None:
    result = session("false", tmp_path)
    assert result.returncode == 1
    assert result.stdout.count("FAILED (1)") == 5
    assert "sanitize: FAILED" in (tmp_path / "out/session.log").read_text()


def test_shapes_are_those_of_the_models() -> None:
    sd15 = {(s.frames, s.height, s.head_dim) for s in SHAPES if s.name.startswith("sd15") and s.text is None}
    levels = {(64, 40), (32, 80), (16, 160), (8, 160)}
    assert sd15 == {(frames, *level) for frames in (8, 16, 32) for level in levels}
    assert {64, 128} <= {shape.head_dim for shape in SHAPES}
    assert {77, 512} <= {shape.text for shape in SHAPES}
    assert any(shape.motion for shape in SHAPES)
    assert len({shape.name for shape in SHAPES}) == len(SHAPES)
    assert all(shape.batch == 2 for shape in SHAPES)


def test_most_informative_cases_come_first() -> None:
    todo = SUITES["gpu"]
    assert todo[0].providers[:2] == ("eager", "sdpa_plain") and set(todo[0].providers) == set(PROVIDERS) - {*COMPILED}
    order = [(case.shape not in MAIN, bool({*COMPILED} & {*case.providers})) for case in todo]
    assert order == sorted(order) and len(set(order)) == 4
    asked = {(shape.name, o.name, name) for shape in SHAPES for o in operations(shape) for name in PROVIDERS}
    assert {(case.shape.name, case.operation.name, name) for case in todo for name in case.providers} == asked


def test_predictions(tmp_path: Path) -> None:
    path = tmp_path / "predictions.csv"
    shape, operation = SHAPES[0], SELF_ATTENTION[2]
    h100 = "NVIDIA H100 80GB HBM3"
    assert predicted_ms(shape, operation, "float16", h100, path) is None
    header = "chip,operation,frames,size,keys,heads,head_dim,batch,dtype,bound,predicted_ms"
    row = "{},fame,8,64,32768,8,40,2,float16,{},{}"
    path.write_text("\n".join([header, row.format("H100", "exp", 9.25), row.format("A100", "exp", 20)]) + "\n")
    assert predicted_ms(shape, operation, "float16", h100, path) == 9.25
    assert predicted_ms(shape, operation, "float16", "NVIDIA A100-SXM4-80GB", path) == 20
    assert predicted_ms(shape, operation, "float16", "NVIDIA H200", path) is None
    assert predicted_ms(shape, operation, "float16", "x86_64 CPU", path) is None
    assert predicted_ms(shape, operation, "bfloat16", h100, path) is None
    assert predicted_ms(shape, SELF_ATTENTION[0], "float16", h100, path) is None


def arguments(tmp_path: Path, *more: str) -> argparse.Namespace:
    given = ["toy", "--device", "cpu", "--dtype", "float32", "--seconds", "0", "--no-memory"]
    return measure.parse([*given, "--shapes", "toy-4x4-f2", "--out", str(tmp_path / "measured.csv"), *more])


def test_a_spent_budget_is_said(tmp_path: Path) -> None:
    args = arguments(tmp_path, "--budget-seconds", "0", "--providers", "sdpa_plain", "ours_triton")
    todo = measure.selected(args)
    measure.Round(args).run(todo)
    outcome = rows(args.out)
    assert [row["note"] for row in outcome] == ["skipped: time budget spent"] * 2 * len(todo)
    assert {row["operation"] for row in outcome} == {operation.name for operation in SELF_ATTENTION}


def test_a_lost_device_starts_anew_after_the_case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[list[str]] = []

    def start(_: str, command: list[str]) -> None:
        started.append(command)
        raise SystemExit

    monkeypatch.setattr(measure.os, "execv", start)
    monkeypatch.setattr(measure, "_device_is_lost", lambda device: True)
    monkeypatch.setattr(sys, "argv", ["measure", "toy", "--budget-seconds", "60", "--dtype", "float32", "--skip", "0"])
    args = arguments(tmp_path, "--providers", "sdpa_plain", "--run", "this")
    with pytest.raises(SystemExit):
        measure.Round(args).run(measure.selected(args))
    command = started[0][1:]
    assert command[:5] == ["-m", "benchmarks.measure", "toy", "--dtype", "float32"]
    assert command[5:11] == ["--skip", "1", "--failures", "0", "--run", "this"]
    assert len(rows(args.out)) == 1


def test_a_wrong_result_is_not_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(inputs: AttentionInputs) -> PreparedCall:
        return PreparedCall(lambda: torch.zeros_like(inputs.query))

    def broken(inputs: AttentionInputs) -> PreparedCall:
        raise ValueError("no such\nthing")

    monkeypatch.setitem(measure.PROVIDERS, "ours_triton", wrong)
    monkeypatch.setitem(measure.PROVIDERS, "yardstick", broken)
    args = arguments(tmp_path, "--providers", "ours_triton", "yardstick")
    measuring = measure.Round(args)
    measuring.run(measure.selected(args)[:1])
    notes = {row["provider"]: row for row in rows(args.out)}
    assert notes["ours_triton"]["note"].startswith("WRONG") and not notes["ours_triton"]["p50_ms"]
    assert float(notes["ours_triton"]["max_error"]) > 1e-2
    assert notes["yardstick"]["note"] == "failed: ValueError: no such thing"
    assert measuring.failures == 1


NCU = """==PROF== Connected to process 7 (/usr/bin/python3)
"ID","Process ID","Kernel Name","CC","gpu__time_duration.sum","launch__registers_per_thread","dram__cycles_active.avg"
"","","","","ns","register/thread","cycle"
"0","7","attention_kernel","9.0","7,512,032","168","55"
"1","7","void at::native::vectorized_elementwise_kernel<4>(int)","9.0","3,000","16","5"
==PROF== Disconnected from process 7
"""


def test_ncu_output_is_read() -> None:
    assert profile_kernels.parse(NCU) == [
        {"kernel": "attention_kernel", "metric": "gpu__time_duration.sum", "unit": "ns", "value": "7,512,032"},
        {
            "kernel": "attention_kernel",
            "metric": "launch__registers_per_thread",
            "unit": "register/thread",
            "value": "168",
        },
    ]
    assert profile_kernels.parse("==ERROR== no permission\n") == []


def test_only_metrics_that_ncu_knows_are_asked_for() -> None:
    listing = "dram__bytes   Counter  byte  # of bytes accessed in DRAM\n\nsmsp__inst_executed  Counter  inst\n"
    assert profile_kernels.known(listing) == ["smsp__inst_executed.sum", "dram__bytes.sum"]
    words = profile_kernels.command("ncu", "fame", Path("log"), ["dram__bytes.sum"], 30.0)
    assert words[:4] == ["timeout", "--kill-after=5", "30", "ncu"]
    assert words[words.index("--metrics") + 1] == "dram__bytes.sum"
    assert words[-3:] == ["benchmarks.profile_kernels", "--case", "fame"]
    assert "--metrics" not in profile_kernels.command("ncu", "fame", Path("log"), [], 30.0)


def test_what_is_asked_of_ncu_is_kept() -> None:
    assert all(profile_kernels.KEPT.fullmatch(metric) for metric in profile_kernels.METRICS)


@pytest.mark.slow
def test_make_bench_takes_its_options(tmp_path: Path) -> None:
    """As the Makefile gives them to pytest."""
    recipe = (ROOT / "Makefile").read_text().partition("\nbench: ")[2].partition("\n\n")[0]
    words = recipe.replace("\\\n", " ").split()
    options = words[words.index("pytest") + 1 :]
    assert options[-1] == "--benchmark-json=benchmarks/results/pytest_benchmark.json"
    options = [*options[:-1], "--benchmark-json", str(tmp_path / "json"), "--collect-only"]
    command = [sys.executable, "-W", "ignore", "-m", "pytest", *options]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0 and "test_attention[eager-" in result.stdout, result.stdout[-500:] + result.stderr

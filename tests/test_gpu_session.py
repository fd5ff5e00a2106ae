"""The GPU round cannot fail on a mistake that a CPU shows: its dry run, and the parts that its numbers rest on."""

from __future__ import annotations

import argparse
import csv
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import fame_accel as fa
from benchmarks.compare import modulations

pytest.importorskip("triton")

from benchmarks import gpu_timing, profile_kernels
from benchmarks.inputs import Inputs, make_inputs, reference_rows
from benchmarks.predictions import predicted_ms
from benchmarks.providers import PROVIDERS, dense_bias
from benchmarks.shapes import SELF, SHAPES, TOYS, Shape, operations

ROOT = Path(__file__).parents[1]
CPU = torch.device("cpu")
SMALL = (Shape("small", 3, 6, 2, 16), Shape("small-text", 3, 6, 2, 16, text=9))
CASES = [(shape, operation) for shape in SMALL for operation in operations(shape)]
on_cases = pytest.mark.parametrize("shape, operation", CASES, ids=lambda item: item.name)


def session(python: str, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    out = tmp_path / "out"
    out.mkdir()
    settings = {"DRY_RUN": "1", "PYTHON": python, "RESULTS": str(tmp_path / "results"), "OUT": str(out)}
    settings["TMPDIR"] = str(tmp_path)
    return subprocess.run(
        [ROOT / "benchmarks/gpu_session.sh"], env=os.environ | settings, capture_output=True, text=True, timeout=300
    )


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_session_runs_every_gpu_test() -> None:
    """The script names the files that hold tests marked gpu: on a GPU machine the others may not even import."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "--collect-only", "tests"]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300).stdout
    holding = {line.partition("::")[0] for line in said.splitlines() if "::" in line}
    [named] = re.findall(r"tests/test_\{(.*)\}\.py", (ROOT / "benchmarks/gpu_session.sh").read_text())
    assert holding and holding == {f"tests/test_{name}.py" for name in named.split(",")}


@pytest.mark.slow
def test_dry_run(tmp_path: Path) -> None:
    result = session(sys.executable, tmp_path)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-1000:]
    found = rows(tmp_path / "results/gpu.csv")
    assert tuple(found[0]) == gpu_timing.COLUMNS
    assert {row["provider"] for row in found} == set(PROVIDERS)
    assert {row["operation"] for row in found} == {o.name for shape in TOYS for o in operations(shape)}
    for row in found:
        assert row["commit"] and row["device"] and row["torch"] and row["triton"] and row["date"]
        assert not row["note"].startswith(("failed", "WRONG", "skipped", "out of memory")), row
        if row["p50_ms"]:
            assert float(row["p20_ms"]) <= float(row["p50_ms"]) <= float(row["p80_ms"])
            assert float(row["tflops"]) > 0 and row["peak_mib"] and row["flash_ratio"] and row["max_error"]
        else:
            assert row["note"], row
        if row["provider"] == "ours":
            assert row["plan_ms"] and row["eager_speedup"], row
    said = {line.partition(":")[0]: line for line in (tmp_path / "out/session.log").read_text().splitlines()}
    for step in ("environment", "tests", "timings", "profile", "sanitize"):
        assert ": done" in said[step], said[step]
    assert (tmp_path / "out/gpu.csv").read_text() == (tmp_path / "results/gpu.csv").read_text()


def test_failing_steps_do_not_stop_the_others(tmp_path: Path) -> None:
    result = session("false", tmp_path)
    assert result.returncode == 1
    assert result.stdout.count("FAILED (1)") == 5
    assert "sanitize: FAILED" in (tmp_path / "out/session.log").read_text()


def test_shapes_are_those_of_the_models() -> None:
    sd15 = {(s.frames, s.size, s.head_dim) for s in SHAPES if s.name.startswith("sd15") and s.text is None}
    levels = {(64, 40), (32, 80), (16, 160), (8, 160)}
    assert sd15 == {(frames, *level) for frames in (8, 16, 32) for level in levels}
    assert {64, 128} <= {shape.head_dim for shape in SHAPES}
    assert {77, 512} <= {shape.text for shape in SHAPES}
    assert len({shape.name for shape in SHAPES}) == len(SHAPES)
    assert all(shape.batch == 2 for shape in SHAPES)


def test_operations_are_those_compared_elsewhere() -> None:
    assert {operation.name: operation.modulation(8, 8) for operation in SELF} == modulations(8)


def test_most_informative_cases_come_first() -> None:
    todo = gpu_timing.cases(list(SHAPES), list(PROVIDERS))
    assert [name for _, _, name in todo[:5]] == ["sdpa_flash", "sdpa_cudnn", "yardstick", "eager", "ours"]
    main = [shape.main for shape, _, _ in todo]
    assert main == sorted(main, reverse=True)
    others = [PROVIDERS[name].late for shape, _, name in todo if not shape.main]
    assert others == sorted(others)


def whole(inputs: Inputs, dtype: torch.dtype) -> torch.Tensor:
    tensors = (x.to(dtype) for x in (inputs.query, inputs.key, inputs.value))
    return fa.reference.layout_attention(*tensors, inputs.query_layout, inputs.key_layout, **inputs.options)


@on_cases
def test_reference_of_some_rows(shape: Shape, operation) -> None:
    inputs = make_inputs(shape, operation, CPU, torch.float32)
    chosen = torch.randperm(shape.queries)[:40]
    got = reference_rows(inputs, chosen, 1, 1, torch.float64)
    torch.testing.assert_close(got, whole(inputs, torch.float64)[1, 1, chosen], rtol=0, atol=1e-14)


@on_cases
def test_judge(shape: Shape, operation) -> None:
    inputs = make_inputs(shape, operation, CPU, torch.float32)
    out = whole(inputs, torch.float32)
    assert inputs.judge.passes(inputs.judge.errors(out))
    wrong = out.clone()
    wrong[-1, -1, ::7] += 1e-3
    assert not inputs.judge.passes(inputs.judge.errors(wrong))
    assert not inputs.judge.passes(inputs.judge.errors(out.where(out > out.min(), torch.nan)))


@on_cases
def test_active_pairs(shape: Shape, operation) -> None:
    inputs = make_inputs(shape, operation, CPU, torch.float32)
    if operation.hard:
        region = inputs.query_layout.region[0]
        assert inputs.active_pairs == ((region[:, None] & region[None, :]) != 0).sum() < shape.queries * shape.keys
    else:
        assert inputs.active_pairs == shape.queries * shape.keys
    assert inputs.useful_flop == 4 * inputs.active_pairs * 16 * 2 * 2


def test_dense_bias_is_the_modulation() -> None:
    hard = next(operation for operation in SELF if operation.hard)
    inputs = make_inputs(SMALL[0], hard, CPU, torch.float64)
    mask = dense_bias(inputs, torch.float64)
    got = torch.nn.functional.scaled_dot_product_attention(inputs.query, inputs.key, inputs.value, attn_mask=mask)
    torch.testing.assert_close(got, whole(inputs, torch.float64))


def test_predictions(tmp_path: Path) -> None:
    path = tmp_path / "predictions.csv"
    shape, operation = SHAPES[0], SELF[2]
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
    assert predicted_ms(shape, SELF[0], "float16", h100, path) is None


def arguments(tmp_path: Path, **changes: object) -> argparse.Namespace:
    settings = dict(device="cpu", dtype="float32", budget_seconds=60.0, skip=0, failures=0, out=tmp_path / "gpu.csv")
    return argparse.Namespace(**settings | changes)


def test_a_spent_budget_is_said(tmp_path: Path) -> None:
    args = arguments(tmp_path, budget_seconds=0.0)
    todo = gpu_timing.cases([TOYS[0]], ["sdpa_flash", "ours"])
    gpu_timing.Round(args).run(todo)
    assert [row["note"] for row in rows(args.out)] == ["skipped: time budget spent"] * len(todo)


def test_a_lost_device_starts_anew_after_the_case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[list[str]] = []

    def start(_: str, command: list[str]) -> None:
        started.append(command)
        raise SystemExit

    monkeypatch.setattr(gpu_timing.os, "execv", start)
    monkeypatch.setattr(gpu_timing, "_device_is_lost", lambda device: True)
    monkeypatch.setattr(sys, "argv", ["gpu_timing", "--budget-seconds", "60", "--dtype", "float32", "--skip", "0"])
    with pytest.raises(SystemExit):
        gpu_timing.Round(arguments(tmp_path)).run(gpu_timing.cases([TOYS[0]], ["sdpa_flash"]))
    assert started[0][1:8] == ["-m", "benchmarks.gpu_timing", "--dtype", "float32", "--skip", "1", "--failures"]
    assert len(rows(tmp_path / "gpu.csv")) == 1


def test_a_wrong_result_is_not_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(inputs: Inputs) -> gpu_timing.Prepared:
        return gpu_timing.Prepared(lambda: torch.zeros_like(inputs.query))

    def broken(inputs: Inputs) -> gpu_timing.Prepared:
        raise ValueError("no such\nthing")

    monkeypatch.setitem(gpu_timing.PROVIDERS, "ours", gpu_timing.PROVIDERS["ours"].__class__(wrong, ("plain",)))
    monkeypatch.setitem(gpu_timing.PROVIDERS, "yardstick", PROVIDERS["sdpa_flash"].__class__(broken, ("plain",)))
    args = arguments(tmp_path)
    this = gpu_timing.Round(args)
    this.run(gpu_timing.cases([TOYS[0]], ["ours", "yardstick"]))
    notes = {row["provider"]: row for row in rows(args.out)}
    assert notes["ours"]["note"].startswith("WRONG: max") and not notes["ours"]["p50_ms"]
    assert notes["yardstick"]["note"] == "failed: ValueError: no such thing"
    assert this.failures == 1


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

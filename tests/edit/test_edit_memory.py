"""An edit that runs out of memory says in one line what would lower the need."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from edit_inputs import flags
from recording import Recorder

import fame_accel.pipeline
from fame_accel.cli import main
from fame_accel.edit.memory import lacks_memory


def no_memory(error: BaseException) -> object:
    def invert(*_: object, **__: object) -> None:
        raise error

    return invert


ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2.00 GiB."),
    RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory: you tried to"),
    MemoryError(),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_allocators_lack_memory(error: Exception):
    assert lacks_memory(error)


def test_out_of_memory_is_one_line_with_advice(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    Recorder(monkeypatch)
    monkeypatch.setattr(fame_accel.pipeline.FameVideoEditPipeline, "invert", no_memory(ERRORS[1]))
    assert main(["edit", *flags(home, tmp_path / "a.mp4", backend="sdpa")]) == 2
    [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("fame-accel: ")]
    assert line.startswith("fame-accel: out of memory on cpu: the edit takes about ")
    for flag in ("--split-guidance takes ", "--chunk-size 1 takes ", "--size 32x32 takes ", "--frames 1 takes "):
        assert flag in line
    assert "--offload" not in line  # there is no GPU


def test_flags_that_are_used_are_not_advised(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    Recorder(monkeypatch)
    monkeypatch.setattr(fame_accel.pipeline.FameVideoEditPipeline, "invert", no_memory(ERRORS[0]))
    given = flags(home, tmp_path / "a.mp4", split_guidance=True, chunk_size=1, frames=1, stride=1, backend="sdpa")
    assert main(["edit", *given]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert "--split-guidance" not in line and "--chunk-size" not in line and "--frames" not in line
    assert "--size 32x32 takes " in line


def test_an_edit_that_is_not_planned_still_says_what_takes_less(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    Recorder(monkeypatch)
    monkeypatch.setattr(fame_accel.pipeline.FameVideoEditPipeline, "invert", no_memory(ERRORS[0]))
    assert main(["edit", *flags(home, tmp_path / "a.mp4", modulation="first-frame")]) == 2
    expected = "fame-accel: out of memory on cpu: fewer --frames and a smaller --size take less"
    assert capsys.readouterr().err.splitlines()[-1] == expected


def test_other_errors_are_not_taken_for_a_lack_of_memory():
    assert not lacks_memory(RuntimeError("shape mismatch")) and not lacks_memory(ValueError("memory"))

"""`fame-accel bench` as a user calls it: its files, its exit status, and bad flags in one line."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support import ROOT

from fame_accel.bench.rows import read
from fame_accel.bench.run import _REPEAT_SECONDS
from fame_accel.bench.setting import level_shapes
from fame_accel.cli import main

SMALL = ("bench", "--frames", "2", "--size", "64", "--seconds", "1e6")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few repeats; freed memory is returned, as other tests run in this process, too."""
    monkeypatch.setitem(_REPEAT_SECONDS, "cpu", 0.0)
    monkeypatch.setattr("fame_accel.bench.run.keep_freed_memory", lambda: False)


def test_shapes_are_the_models_levels() -> None:
    levels = level_shapes("sd15", 8, (256, 384), (0.25,) * 4)
    assert [(s.height, s.width, s.heads, s.head_dim, layers) for s, layers in levels.items()] == [
        (32, 48, 8, 40, 5), (16, 24, 8, 80, 5), (8, 12, 8, 160, 5), (4, 6, 8, 160, 1),
    ]  # fmt: skip
    assert all(shape.frames == 8 and shape.areas == (0.25,) * 4 for shape in levels)
    tiny = level_shapes("sd15", 1, (8, 8), (1.0,))
    assert len({shape.name for shape in tiny}) == len(tiny) == 4


@pytest.mark.slow
def test_files_and_table(capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    out = tmp_path / "new" / "out"
    assert main([*SMALL, "--areas", "0.3", "0.7", "--out", str(out)]) == 0
    assert "2 regions of 0.3 and 0.7" in capsys.readouterr().out
    assert main([*SMALL, "--out", str(out)]) == 0
    text = capsys.readouterr().out
    assert "sd15, 2 frames of 64x64, 2 regions, fame" in text and "Attention of one modulated step" in text
    assert "  8x8-f1, 1 frame, fame: eager " in text
    assert "  8x8-text77, 2 frames, cross-attention to 77 words: " in text
    assert "all attention of a guided edit" in text
    rows = read(out / "bench.csv")
    assert len({row["run"] for row in rows}) == 2  # the second run was added
    providers = {row["provider"] for row in rows}
    assert {"eager", "sdpa_plain"} < providers and len(providers) == 3
    assert {row["shape"] for row in rows} >= {"8x8", "1x1", "8x8-text77", "8x8-f1"}
    for row in rows:
        assert float(row["p50_ms"]) > 0 and not row["note"].startswith(("WRONG", "failed")), row
    assert (out / "bench.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    page = (out / "bench.html").read_text()
    assert "2 frames of 64x64" in page and not re.search(r"(src|href)=[\"']https?:", page)


@pytest.mark.slow
def test_a_wrong_result_of_ours_is_an_error(
    capsys: pytest.CaptureFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fame_accel.bench.providers.layout_attention", lambda query, *_, **__: torch.zeros_like(query))
    assert main([*SMALL, "--out", str(tmp_path)]) == 1
    assert "The result of fame-accel at 8x8 is WRONG." in capsys.readouterr().out


def test_options_must_be_spelled_out(capsys: pytest.CaptureFixture) -> None:
    assert main([*SMALL, "--mod", "fame"]) == 2
    assert "unrecognized arguments: --mod" in capsys.readouterr().err


def test_nothing_fits_the_time(capsys: pytest.CaptureFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fame_accel.bench.sweep.Budget.left", 0.0)
    (tmp_path / "bench.html").write_text("of a run before")
    assert main([*SMALL, "--out", str(tmp_path)]) == 1
    assert "Nothing was timed" in capsys.readouterr().out
    assert {file.name for file in tmp_path.iterdir()} == {"bench.csv"}


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("--frames", "0"), "--frames must lie in 1 to 1024, got 0"),
        (("--size", "100"), "--size must be positive multiples of 8, got 100x100"),
        (("--size", "0x64"), "--size must be positive multiples of 8, got 0x64"),
        (("--regions", "32"), "--regions must lie in 1 to 31, got 32"),
        (("--areas", "0.5", "0.4"), "--areas must be above 0 and add up to 1, got 0.5 0.4"),
        (("--areas", "1.5", "-0.5"), "--areas must be above 0 and add up to 1, got 1.5 -0.5"),
        (("--areas", "1", "nan"), "--areas must be above 0 and add up to 1, got 1 nan"),
        (("--areas", "1", "--regions", "1"), "--regions and --areas exclude each other"),
        (("--seconds", "nan"), "--seconds must be at least 1 and finite, got nan"),
        (("--modulation", "plain"), "--modulation must be one of fame, fame-strength, videograin, region-mask"),
        (("--dtype", "float64"), "--dtype must be one of float32, float16, bfloat16, got 'float64'"),
        (("--device", "tpu"), "--device tpu: "),
        (("--device", "meta"), "--device must be cpu or cuda, got meta"),
        (("--model", "sd9"), "--model must be sd15, sd21, sdxl or a checkpoint folder"),
    ],
)
def test_bad_flags_give_one_line(
    capsys: pytest.CaptureFixture, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    assert main([*SMALL, "--out", str(tmp_path / "out"), *arguments]) == 2
    text = capsys.readouterr().err
    assert text.count("\n") == 1 and message in text
    assert not (tmp_path / "out").exists()


def test_out_must_be_a_folder(capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    assert main([*SMALL, "--out", str(file)]) == 2
    assert "must be a folder" in capsys.readouterr().err


@pytest.mark.parametrize("package", ["pandas", "jinja2", "matplotlib"])
def test_a_missing_package_gives_one_line(
    package: str, capsys: pytest.CaptureFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    assert main([*SMALL, "--out", str(tmp_path / "out")]) == 2
    text = capsys.readouterr().err
    assert text.count("\n") == 1 and f"this needs {package}" in text and "fame-accel[bench]" in text


def test_measuring_needs_torch_alone() -> None:
    """A GPU machine may have nothing else."""
    code = "import sys; from fame_accel.cli import bench; from benchmarks import measure; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert not {"pandas", "jinja2", "matplotlib", "diffusers", "transformers", "PIL"} & loaded

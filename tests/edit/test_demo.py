"""The demo end to end at its smallest, and the fame-accel command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fame_accel.cli import main

FILES = {"side_by_side.gif", "mask_overlay.png", "tile_plan.png", "comparison.png", "report.json"}


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    assert main(["demo", "--frames", "2", "--size", "64", "--steps", "2", "--out", str(folder)]) == 0
    return folder


def test_report(out: Path) -> None:
    report = json.loads((out / "report.json").read_text())
    assert (report["frames"], report["size"], report["steps"]) == (2, 64, 2)
    assert set(report["backends"]) == {"reference", "sdpa"}
    for row in report["backends"].values():
        assert row["passed"] is True
        assert 0 < row["attention_s"] < row["step_s"]
        assert 0 < row["latent_error"] < 1e-3  # float32 against float64: never exactly right
        assert row["peak_mib"] is None or row["peak_mib"] >= 0


def test_files(out: Path) -> None:
    from PIL import Image

    assert FILES <= {path.name for path in out.iterdir()}
    for name in FILES - {"report.json"}:
        with Image.open(out / name) as picture:
            picture.load()
            assert min(picture.size) > 50
    with Image.open(out / "side_by_side.gif") as picture:
        assert picture.n_frames == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--frames", "0"], "frames"),
        (["--frames", "500"], "frames"),
        (["--size", "100"], "size"),
        (["--steps", "0"], "--steps"),
        (["--backend", "fast"], "--backend"),
        (["--model", "nowhere"], "--model nowhere"),
        (["--out", ""], "--out must not be empty"),
        (["--out", "/dev/null"], "--out /dev/null must be a folder"),
    ],
)
def test_mistakes_end_in_one_line(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", "--out", str(tmp_path), *arguments]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("fame-accel: ") and message in error


@pytest.mark.slow
def test_local_checkpoint(tmp_path: Path) -> None:
    """--model with a checkpoint saved by diffusers: its VAE encodes and decodes."""
    from fame_accel.demo.pipeline import random_pipeline

    random_pipeline(seed=1).save_pretrained(tmp_path / "model")
    arguments = ["--frames", "1", "--size", "64", "--steps", "1", "--model", str(tmp_path / "model")]
    assert main(["demo", "--out", str(tmp_path / "out"), *arguments]) == 0
    assert json.loads((tmp_path / "out" / "report.json").read_text())["weights"] == str(tmp_path / "model")

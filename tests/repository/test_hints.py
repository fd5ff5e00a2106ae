"""What the messages say to install exists."""

from __future__ import annotations

import ast
import re

import pytest
from support import ROOT, SOURCES

FILES = sorted(file for source in SOURCES for file in (ROOT / source).rglob("*.py"))
_TABLE = (ROOT / "pyproject.toml").read_text().split("optional-dependencies]")[1].split("\n[")[0]
EXTRAS = set(re.findall(r"^(\w+) = \[", _TABLE, re.M))


def named_extras(text: str) -> set[str]:
    """The extras that a file names: in calls that import packages, and in texts."""
    named = set(re.findall(r"fame-accel\[(\w+)\]", text))
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
            continue
        given = {keyword.arg: keyword.value for keyword in node.keywords}
        position = {"require": 1, "quiet": 0, "install_command": 0}.get(node.func.id)
        if position is not None and len(node.args) > position:
            given["extra"] = node.args[position]
        if isinstance(given.get("extra"), ast.Constant):
            named.add(given["extra"].value)
    return named


def test_extras_are_found():
    assert {"diffusers", "demo", "evaluate", "bench", "triton"} <= EXTRAS
    assert named_extras("require('a', 'b'); packaged_file(extra='c'); x = 'pip install fame-accel[d]'; require(y)") == {
        "b", "c", "d"
    }  # fmt: skip


@pytest.mark.parametrize("file", [ROOT / "README.md", *FILES], ids=lambda file: str(file.relative_to(ROOT)))
def test_every_extra_that_is_named_exists(file):
    text = file.read_text(encoding="utf-8")
    named = named_extras(text) if file.suffix == ".py" else set(re.findall(r"(?:fame-accel|\.)\[(\w+)\]", text))
    assert named <= EXTRAS

"""docs/porting.md: a tick of its table stands for a test of the example in its row."""

from __future__ import annotations

import ast
import re

import pytest
from support import ROOT

GUIDE = (ROOT / "docs/porting.md").read_text(encoding="utf-8")
EXAMPLES = {file.stem for file in (ROOT / "examples/methods").glob("*.py")}
ROW = re.compile(
    r"^\| ([^|]+?) \| [^|]+ \| \[(\w+)\]\(\.\./examples/methods/\2\.py\) "
    r"\| ✓ \[`(\w+)(?:\[([\w-]+)\])?`\]\(\.\./(tests/[\w/]+\.py)\) \|$",
    re.MULTILINE,
)
ROWS = ROW.findall(GUIDE)


def _strings(node: ast.AST) -> set[str]:
    return {part.value for part in ast.walk(node) if isinstance(part, ast.Constant) and isinstance(part.value, str)}


@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
def test_a_tick_names_a_test_of_its_example(row: tuple[str, ...]):
    _, example, name, case, file = row
    module = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    tests = {part.name: part for part in module.body if isinstance(part, ast.FunctionDef)}
    assert name.startswith("test_") and name in tests
    assert any(example in _strings(statement) for statement in tests[name].body)
    if case:
        assert any(case in _strings(decorator) for decorator in tests[name].decorator_list)


def test_every_tick_and_every_example_has_a_row():
    assert len(ROWS) == GUIDE.count("✓") > 0
    assert {row[1] for row in ROWS} == EXAMPLES


def test_every_method_is_named_once():
    methods = [row[0] for row in ROWS]
    assert len(methods) == len(set(methods))

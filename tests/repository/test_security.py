"""Each promise of SECURITY.md names a test that exists."""

from __future__ import annotations

import re

from support import ROOT


def test_promises_name_tests_that_exist():
    page = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", page)
    missing = [
        f"{file}::{name}" for file, name in named if f"def {name}(" not in (ROOT / file).read_text(encoding="utf-8")
    ]
    assert len(named) > 15 and missing == []
    promises = re.findall(r"^- .*?(?=^- |^$|\Z)", page, flags=re.M | re.S)
    assert len(promises) > 10 and [promise for promise in promises if "::" not in promise] == []

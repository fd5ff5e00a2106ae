"""Cells of CSV files, which spreadsheets would take for formulas."""

from __future__ import annotations

import re
from typing import Any

_FORMULA = re.compile(r"'*[=+\-@\t\r]")


def as_cell(value: Any) -> Any:
    """A value as a cell: text that a spreadsheet would run gets an apostrophe in front; `read_cell` takes it off."""
    return f"'{value}" if isinstance(value, str) and _FORMULA.match(value) and not _is_number(value) else value


def read_cell(cell: Any) -> Any:
    """The value that `as_cell` made a cell of."""
    return cell[1:] if isinstance(cell, str) and cell.startswith("'") and _FORMULA.match(cell) else cell


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True

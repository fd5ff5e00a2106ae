"""Rows of results: one measurement of one provider, one operation and one shape. All results are CSV files of them."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from fame_accel.media.cells import as_cell, read_cell

Row = dict[str, Any]

# run: names one run, in which ratios were taken side by side. p20_ms, p50_ms, p80_ms: quantiles of `repeats` calls.
# eager_speedup: eager's p50 over this one. floor_ratio: this p50 over plain attention's. peak_mib: of a call and its
# plan, above its inputs. Errors: against float64. Written by benchmarks/ alone (extra_columns.py): active_fraction,
# graph_ms, predicted_ms, plan_ms, with_plan_ms, sort_ms, tflops.
COLUMNS = (
    *("run", "date", "commit", "device", "driver", "cuda", "torch", "triton"),
    *("shape", "operation", "frames", "height", "width", "keys", "heads", "head_dim", "batch", "regions", "dtype"),
    *("active_fraction", "provider", "repeats", "p20_ms", "p50_ms", "p80_ms", "graph_ms", "predicted_ms"),
    *("plan_ms", "with_plan_ms", "sort_ms", "tflops", "eager_speedup", "floor_ratio", "peak_mib"),
    *("max_error", "mean_error", "eager_max_error", "eager_mean_error", "note"),
)


def append(rows: Iterable[Row], path: Path, columns: Sequence[str] = COLUMNS) -> None:
    """Add rows to a CSV file, which is made where it is missing; columns that a row lacks stay empty.

    Raises:
        ValueError: a row has another column, or the file has other columns or ends in an incomplete row.
    """
    new = not path.exists() or path.stat().st_size == 0
    if not new:
        with path.open("rb") as content:
            existing = next(csv.reader([content.readline().decode("utf-8")]), [])
            content.seek(-1, os.SEEK_END)
            torn = content.read() != b"\n"
        if existing != list(columns):
            raise ValueError(f"{path} has other columns than this version writes: give another file")
        if torn:
            raise ValueError(f"{path} ends in an incomplete row: complete or remove it, or give another file")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, restval="")
        if new:
            writer.writeheader()
        writer.writerows({name: as_cell(value) for name, value in row.items()} for row in rows)


def read(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file; ValueError where one has another number of cells than there are columns."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for number, row in enumerate(rows, start=1):
        if None in row or None in row.values():
            raise ValueError(f"{path}: row {number} has another number of cells than there are columns")
    return [{name: read_cell(cell) for name, cell in row.items()} for row in rows]

"""One measurement is one row, of one provider at one operation and shape; all results are CSV files of such rows."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

Row = dict[str, object]

# run: rows of one run, whose ratios were taken side by side. p20_ms, p50_ms, p80_ms: quantiles of `repeats` calls;
# graph_ms: replayed from a CUDA graph; plan_ms: what is made once per edit, made anew; with_plan_ms: that and the call;
# sort_ms: of the call, ordering tokens and putting them back; predicted_ms: by the static model, before any run;
# tflops: of both products over the active pairs; eager_speedup: eager's p50 over this one; floor_ratio: this p50 over
# plain attention's; peak_mib: of a call, its plan included, above its inputs; errors: against float64.
COLUMNS = (
    *("run", "date", "commit", "device", "driver", "cuda", "torch", "triton"),
    *("shape", "operation", "frames", "height", "width", "keys", "heads", "head_dim", "batch", "regions", "dtype"),
    *("active_fraction", "provider", "repeats", "p20_ms", "p50_ms", "p80_ms", "graph_ms", "predicted_ms"),
    *("plan_ms", "with_plan_ms", "sort_ms", "tflops", "eager_speedup", "floor_ratio", "peak_mib"),
    *("max_error", "mean_error", "eager_max_error", "eager_mean_error", "note"),
)


def append(rows: Iterable[Row], path: Path, columns: Sequence[str] = COLUMNS) -> None:
    """Add rows to a CSV file, made where it is missing. Columns a row lacks stay empty; ValueError for others, and for
    a file of other columns."""
    new = not path.exists() or path.stat().st_size == 0
    if not new:
        with path.open(newline="", encoding="utf-8") as file:
            found = next(csv.reader(file), [])
        if found != list(columns):
            raise ValueError(f"{path} has other columns than this version writes: give another file")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, restval="")
        if new:
            writer.writeheader()
        writer.writerows(rows)


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))

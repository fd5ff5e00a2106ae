"""Times predicted without a GPU, looked up for the shapes that are measured on one."""

from __future__ import annotations

import csv
import re
from pathlib import Path

from fame_accel.bench.workload import AttentionOperation, LayerShape

PREDICTIONS = Path(__file__).parent / "results" / "predictions.csv"


def predicted_ms(
    shape: LayerShape, operation: AttentionOperation, dtype: str, device: str, path: Path = PREDICTIONS
) -> float | None:
    """The prediction for our kernels in milliseconds, None where the file or the row is missing.

    device: the chip's name in torch, such as "NVIDIA H100 80GB HBM3" for the file's "H100".
    """
    if not path.exists():
        return None
    wanted = {
        "operation": operation.name,
        "frames": str(shape.frames),
        "size": str(shape.height),
        "keys": str(shape.keys),
        "heads": str(shape.heads),
        "head_dim": str(shape.head_dim),
        "batch": str(shape.batch),
        "dtype": dtype,
    }
    with path.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if all(row[name] == value for name, value in wanted.items())]
    return next((float(row["predicted_ms"]) for row in rows if _is_chip(row["chip"], device)), None)


def _is_chip(chip: str, device: str) -> bool:
    return _model(chip) == _model(device) != ""


def _model(name: str) -> str:
    """The first word of letters and digits, such as H100."""
    match = re.search(r"\b[A-Z]+\d+[A-Z]*\b", name.upper())
    return match[0] if match else ""

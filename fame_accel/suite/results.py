"""results.csv, one row per edit, appended as it finishes; and options.json, what the edits were made with."""

from __future__ import annotations

import csv
import io
import json
import os
from pathlib import Path
from typing import Any

from fame_accel.media.cells import as_cell, read_cell
from fame_accel.media.outputs import atomic_write

COLUMNS = (
    *("clip", "profession", "winobias_share_of_women", "template", "prompt", "target"),
    *("outcome", "face_share", "confidence_percent", "psnr_db", "ssim", "warp_error", "source_warp_error"),
    *("seconds", "seed", "versions"),
)
KEY = ("clip", "profession", "template", "target")


class Results:
    """The rows of a folder, kept on disk.

    Args:
        folder: is created where it does not exist.
        options: what every row depends on, in values that JSON has.

    Raises:
        ValueError: the folder holds rows made with other options, other columns, or no options.json.
    """

    def __init__(self, folder: Path, options: dict[str, Any]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path, options_path = folder / "results.csv", folder / "options.json"
        options = json.loads(json.dumps(options))  # as they will be read again: tuples become lists
        if options_path.exists():
            _check_same(folder, _read_json(options_path), options)
        elif self.path.exists():
            raise ValueError(f"{folder} has a results.csv without options.json: choose another folder")
        else:
            _write_whole(options_path, json.dumps(options, indent=2) + "\n")
        if not self.path.exists():
            _write_whole(self.path, _line(COLUMNS))
        self._drop_torn_row()
        self.rows = read_results(self.path)

    def finished(self, **key: object) -> bool:
        """Whether there is a row with this clip, profession, template and target."""
        wanted = tuple(str(key[name]) for name in KEY)
        return any(tuple(row[name] for name in KEY) == wanted for row in self.rows)

    def append(self, row: dict[str, object]) -> None:
        """Write a row to disk. Its keys must be the columns; None becomes an empty cell."""
        if set(row) != set(COLUMNS):
            raise ValueError(f"row must have the columns {COLUMNS}, got {tuple(row)}")
        cells = {name: "" if row[name] is None else str(row[name]) for name in COLUMNS}
        with self.path.open("a", encoding="utf-8", newline="") as file:
            file.write(_line(cells.values()))
            file.flush()
            os.fsync(file.fileno())
        self.rows.append(cells)

    def _drop_torn_row(self) -> None:
        """Remove a last row that a killed run left incomplete; its edit is made again. No cell holds a line break."""
        content = self.path.read_bytes()
        complete = content[: content.rfind(b"\n") + 1]
        if complete != content:
            print(f"{self.path}: the last row is incomplete; making that edit again")
            _write_whole(self.path, complete.decode("utf-8"))


def read_results(path: Path) -> list[dict[str, str]]:
    """Read the rows of a results.csv, each cell as text.

    Raises:
        ValueError: its columns differ from `COLUMNS`, or a row has another number of cells.
        OSError: it cannot be read.
    """
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ()) != COLUMNS:
            raise ValueError(f"{path} must have the columns {', '.join(COLUMNS)}, got {reader.fieldnames}")
        rows = [{name: read_cell(cell) for name, cell in row.items()} for row in reader]
    for number, row in enumerate(rows, start=1):
        if None in row or None in row.values():
            raise ValueError(f"{path}: row {number} must have {len(COLUMNS)} cells")
    return rows


def _check_same(folder: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    differences = [
        name if isinstance(now.get(name), dict) else f"{name} {before.get(name)!r} then, {now.get(name)!r} now"
        for name in {**before, **now}
        if before.get(name) != now.get(name)
    ]
    if differences:
        listed = "; ".join(differences)
        raise ValueError(f"{folder} holds edits made with other options ({listed}): choose another folder")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from error


def _write_whole(path: Path, text: str) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")


def _line(cells: Any) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow([as_cell(cell) for cell in cells])
    return text.getvalue()

"""results.csv: a row an edit, appended as it finishes; and the options it was made with, beside it."""

import csv
import io
import json
import os
from pathlib import Path
from typing import Any

from fame_accel.media.files import atomic_write

COLUMNS = (
    *("clip", "profession", "winobias_share_of_women", "template", "prompt", "target"),
    *("outcome", "face_share", "confidence_percent", "psnr_db", "ssim", "warp_error", "source_warp_error"),
    *("seconds", "seed", "versions"),
)
KEY = ("clip", "profession", "template", "target")


class Results:
    """The rows of a folder.

    Args:
        folder: is made where it is missing.
        options: what every row depends on, JSON-ready. A folder with rows made otherwise is refused.

    Raises:
        ValueError: the folder's options or the columns of its CSV differ, or one of the two files is missing.
    """

    def __init__(self, folder: Path, options: dict[str, Any]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path, kept = folder / "results.csv", folder / "options.json"
        options = json.loads(json.dumps(options))  # as it will be read again: tuples become lists
        if kept.exists():
            _refuse_differences(folder, _read_json(kept), options)
        elif self.path.exists():
            raise ValueError(f"{folder} has a results.csv without options.json: give another folder")
        else:
            _write_whole(kept, json.dumps(options, indent=2) + "\n")
        if not self.path.exists():
            _write_whole(self.path, _line(COLUMNS))
        self._drop_torn_row()
        self.rows = read_results(self.path)

    def finished(self, **key: object) -> bool:
        """Whether there is a row of this clip, profession, template and target."""
        wanted = tuple(str(key[name]) for name in KEY)
        return any(tuple(row[name] for name in KEY) == wanted for row in self.rows)

    def append(self, row: dict[str, object]) -> None:
        """Write a row to the disk; it must have exactly the columns. None becomes an empty cell."""
        if set(row) != set(COLUMNS):
            raise ValueError(f"a row must have the columns {COLUMNS}, got {tuple(row)}")
        cells = {name: "" if row[name] is None else str(row[name]) for name in COLUMNS}
        with self.path.open("a", encoding="utf-8", newline="") as file:
            file.write(_line(cells.values()))
            file.flush()
            os.fsync(file.fileno())
        self.rows.append(cells)

    def _drop_torn_row(self) -> None:
        """A run that was killed while writing may leave half a row: it is made again. No cell holds a line break."""
        text = self.path.read_bytes()
        whole = text[: text.rfind(b"\n") + 1]
        if whole != text:
            print(f"{self.path}: the last row was not written to its end; making that edit again")
            _write_whole(self.path, whole.decode("utf-8"))


def read_results(path: Path) -> list[dict[str, str]]:
    """The rows of a results.csv, all cells as text.

    Raises:
        ValueError: its columns are others.
        OSError: it cannot be read.
    """
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ()) != COLUMNS:
            raise ValueError(f"{path} must have the columns {', '.join(COLUMNS)}, got {reader.fieldnames}")
        rows = list(reader)
    for number, row in enumerate(rows, start=1):
        if None in row or None in row.values():
            raise ValueError(f"{path}: row {number} has not {len(COLUMNS)} cells")
    return rows


def _refuse_differences(folder: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    if names:
        said = "; ".join(
            name if isinstance(now.get(name), dict) else f"{name} {before.get(name)!r} then, {now.get(name)!r} now"
            for name in names
        )
        raise ValueError(f"{folder} holds edits made with other options ({said}): give another folder")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error


def _write_whole(path: Path, text: str) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")


def _line(cells: Any) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue()

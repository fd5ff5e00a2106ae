"""run.json: what an edit was, and all that is needed to repeat it.

Its paths are relative to its own folder. `folder` says where that was: a path that leads nowhere from where the record
is now is also tried from there.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fame_accel.edit.options import CANNY, EditOptions

KEYS = (
    *("options", "folder", "checkpoint", "inputs", "scheduler", "injections", "outputs", "frames_sha256"),
    *("versions", "device", "threads", "seconds"),
)
PATHS = ("model", "controlnet", "video", "masks", "control", "latents", "out", "sign_cert", "sign_key")
_NAMED = ("model", "controlnet")  # may be names in Hugging Face's cache
_WRITTEN = ("latents", "out")  # need not be there


def read_record(path: str | Path) -> dict[str, Any]:
    """Read a run.json, or one written by hand, for which {"options": {...}} is enough.

    Returns:
        The record, with paths that hold in the working directory.

    Raises:
        ValueError: the file cannot be read, or is no such record.
    """
    path = Path(path)
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"--config {path} cannot be read as JSON: {error}") from error
    if not isinstance(record, dict) or not isinstance(record.get("options"), dict):
        raise ValueError(f'--config {path} must hold {{"options": {{...}}}}')
    if unknown := sorted(set(record) - set(KEYS)):
        raise ValueError(f"--config {path} has unknown keys {', '.join(unknown)}; known are {', '.join(KEYS)}")
    folders = [path.parent, *([Path(record["folder"])] if isinstance(record.get("folder"), str) else [])]
    options = {name: _resolved(name, value, folders) for name, value in record["options"].items()}
    return {**record, "options": options}


def as_json(record: Mapping[str, Any]) -> str:
    """The text of a run.json."""
    return json.dumps(record, indent=2) + "\n"


def merge_options(recorded: Mapping[str, Any], flags: Mapping[str, Any]) -> dict[str, Any]:
    """The recorded options, overridden by flags. A flag replaces recorded ones that say the same in another way: where
    the regions come from, and the size."""
    alternatives = ({"masks", "auto_person_mask"}, {"size", "width", "height"})
    dropped = {name for names in alternatives if names & set(flags) for name in names}
    return {name: value for name, value in recorded.items() if name not in dropped} | dict(flags)


def recorded_options(options: EditOptions, folder: Path) -> dict[str, Any]:
    """The options for a record in a folder: paths are relative to it, with forward slashes."""
    recorded = options.as_json()
    return {name: _relative(name, value, folder) for name, value in recorded.items()}


def _relative(name: str, value: Any, folder: Path) -> Any:
    if name not in PATHS or value in (None, CANNY):
        return value
    if isinstance(value, (list, tuple)):
        return [_relative(name, item, folder) for item in value]
    if name not in _WRITTEN and not Path(value).exists():  # a name in Hugging Face's cache
        return value
    try:
        return Path(os.path.relpath(Path(value).absolute(), folder.absolute())).as_posix()
    except ValueError:  # on another drive
        return str(Path(value).absolute())


def _resolved(name: str, value: Any, folders: list[Path]) -> Any:
    """A recorded path, from the first folder in which it leads somewhere; anything else as it is."""
    if isinstance(value, list) and name in PATHS:
        return [_resolved(name, item, folders) for item in value]
    if name not in PATHS or not isinstance(value, str) or value == CANNY:
        return value
    candidates = [os.path.normpath(folder / value) for folder in folders]
    existing = [path for path in candidates if os.path.exists(path)]
    if name in _WRITTEN:
        return candidates[0]
    return existing[0] if existing else value if name in _NAMED else candidates[0]

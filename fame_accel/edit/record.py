"""run.json: what an edit was, and all that is needed to repeat it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from os.path import abspath
from pathlib import Path
from typing import Any

from fame_accel.edit.options import CANNY, EditOptions
from fame_accel.media.files import atomic_write

KEYS = ("options", "checkpoint", "inputs", "injections", "outputs", "versions", "device", "seconds")


def read_record(path: str | Path) -> dict[str, Any]:
    """Read a run.json, or one written by hand, for which {"options": {...}} is enough.

    Raises:
        ValueError: the file cannot be read, or is no such record.
    """
    try:
        record = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"--config {path} cannot be read as JSON: {error}") from error
    if not isinstance(record, dict) or not isinstance(record.get("options"), dict):
        raise ValueError(f'--config {path} must hold {{"options": {{...}}}}')
    if unknown := sorted(set(record) - set(KEYS)):
        raise ValueError(f"--config {path} has unknown keys {', '.join(unknown)}; known are {', '.join(KEYS)}")
    return record


def write_record(path: Path, record: Mapping[str, Any]) -> None:
    """Write a record, completely or not at all."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def merge_options(recorded: Mapping[str, Any], flags: Mapping[str, Any]) -> dict[str, Any]:
    """The recorded options, overridden by flags. A flag that says where the regions come from replaces the recorded
    one, be it --masks or --auto-person-mask."""
    region_sources = {"masks", "auto_person_mask"}
    dropped = region_sources if region_sources & set(flags) else set()
    return {name: value for name, value in recorded.items() if name not in dropped} | dict(flags)


def absolute_paths(options: EditOptions) -> dict[str, Any]:
    """The options that are paths, made absolute, so that a record holds in any working directory."""
    paths = {name: getattr(options, name) for name in ("model", "controlnet", "video", "masks", "control", "out")}
    if options.control == CANNY:
        del paths["control"]
    return {name: abspath(path) for name, path in paths.items() if path is not None}

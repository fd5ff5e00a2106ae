"""run.json: what an edit was, and what it takes to do it again."""

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
    """A run.json, or a shorter one by hand: {"options": {...}} will do. ValueError where it is none."""
    try:
        record = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"--config {path} cannot be read as JSON: {error}") from error
    if not isinstance(record, dict) or not isinstance(record.get("options"), dict):
        raise ValueError(f'--config {path} must hold {{"options": {{...}}}}')
    if unknown := sorted(set(record) - set(KEYS)):
        raise ValueError(f"--config {path} has unknown keys {', '.join(unknown)}; known are {', '.join(KEYS)}")
    return record


def write_record(path: Path, record: Mapping[str, Any]) -> None:
    """Write a record, whole or not at all."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def merged(recorded: Mapping[str, Any], flags: Mapping[str, Any]) -> dict[str, Any]:
    """Recorded options with those given by flags in their place. A flag for the regions drops the other way to them."""
    options = dict(recorded)
    if "masks" in flags or "auto_person_mask" in flags:
        options.pop("masks", None)
        options.pop("auto_person_mask", None)
    return {**options, **flags}


def absolute_paths(options: EditOptions) -> dict[str, str]:
    """The options that are paths, so that the record holds wherever it is read."""
    paths = {name: getattr(options, name) for name in ("model", "controlnet", "video", "masks", "control", "out")}
    if options.control == CANNY:
        del paths["control"]
    return {name: abspath(path) for name, path in paths.items() if path is not None}

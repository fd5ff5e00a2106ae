"""Weights in a folder: which safetensors files a model is loaded from, checked before they are."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fame_accel.media.packages import require

PICKLED = (".bin", ".ckpt", ".pt", ".pth")
POINTER = b"version https://git-lfs"
_SHOWN = 3  # names of tensors in a message
# After "model" or another stem: .safetensors, .fp16.safetensors, .safetensors.index.json, .safetensors.index.fp16.json,
# and .safetensors.fp16.index.json, as older diffusers wrote it.
_ENDS = (
    r"(?:(?:\.(?P<single>\w+))?\.safetensors"
    r"|\.safetensors(?:\.(?P<older>\w+))?\.index(?:\.(?P<newer>\w+))?\.json)"
)


@dataclass(frozen=True)
class Weights:
    """The files that a model is loaded from, and the word in their names, such as "fp16", or None."""

    files: tuple[Path, ...]
    variant: str | None


def read_json(file: Path, flag: str) -> dict[str, Any]:
    """The object in a JSON file; ValueError, naming the flag, where there is none."""
    check_not_pointer(file, flag)
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{flag}: {file} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{flag}: {file} must hold an object, got {type(content).__name__}")
    return content


def find_weights(folder: Path, stem: str, flag: str, root: Path | None = None) -> Weights:
    """Find the files of a model as diffusers and transformers name them.

    Files without a variant come before those with one. An index comes before a single file: exactly the files that it
    names are taken.

    Args:
        folder: of the model.
        stem: of the names: "diffusion_pytorch_model" or "model".
        flag: for messages.
        root: the folder that the files must lie in; the model's own if not given.

    Raises:
        ValueError: there are no such files, they are pickled or incomplete, lie elsewhere, or differ from the index.
    """
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    variants: dict[str, list[str]] = {}
    for file in files:
        if match := re.fullmatch(re.escape(stem) + _ENDS, file.name):
            variants.setdefault(match["single"] or match["older"] or match["newer"] or "", []).append(file.name)
    if not variants:
        raise ValueError(_without_weights(folder, files, flag))
    if "" not in variants and len(variants) > 1:
        raise ValueError(f"{flag}: {folder} must hold one variant, got {sorted(variants)}")
    variant = min(variants)
    indexes = [name for name in variants[variant] if name.endswith(".json")]
    if len(indexes) > 1:
        raise ValueError(f"{flag}: {folder} must hold one index, got {', '.join(indexes)}")
    named = _indexed(folder / indexes[0], flag) if indexes else dict.fromkeys(variants[variant])
    for name, listed in named.items():
        _check_place(folder / name, root or folder, flag)
        found = shapes(folder / name, flag).keys()
        if listed is not None and (differing := listed ^ found):
            raise ValueError(f"{flag}: {folder / name} must hold what {indexes[0]} says; not so: {some(differing)}")
    return Weights(tuple(folder / name for name in named), variant or None)


def shapes(file: Path, flag: str) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor, by name; ValueError unless the file is complete: its header says how long it is."""
    safetensors = require("safetensors", "diffusers")
    check_not_pointer(file, flag)
    try:
        with safetensors.safe_open(str(file), "pt") as opened:
            return {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}
    except (safetensors.SafetensorError, OSError) as error:
        raise ValueError(f"{flag}: {file} is not a complete safetensors file: {error}") from error


def check_not_pointer(file: Path, flag: str) -> None:
    """ValueError where git has left a pointer in place of a large file."""
    with file.open("rb") as data:
        if data.read(len(POINTER)) == POINTER:
            raise ValueError(
                f"{flag}: {file} is a pointer of git-lfs in place of the file: run `git lfs pull` in {file.parent}"
            )


def _without_weights(folder: Path, files: list[Path], flag: str) -> str:
    pickled = next((file for file in files if file.suffix in PICKLED), None)
    if pickled is not None:
        return f"{flag}: {pickled} is pickled and could run code when loaded: safetensors only"
    other = next((file.name for file in files if file.suffix == ".safetensors"), None)
    note = "" if other is None else f" of a usual name, and no index names {other}"
    return f"{flag}: {folder} holds no weights in safetensors{note}"


def _indexed(index: Path, flag: str) -> dict[str, set[str]]:
    """The names of the tensors in each file that an index names."""
    weight_map = read_json(index, flag).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ValueError(f"{flag}: {index} must have a weight_map from tensors to files")
    tensors: dict[str, set[str]] = {}
    for tensor, name in weight_map.items():
        if not isinstance(name, str) or not re.fullmatch(r"[^/\\]+\.safetensors", name):
            raise ValueError(f"{flag}: {index} must name .safetensors files of its own folder, got {name!r}")
        tensors.setdefault(name, set()).add(tensor)
    if missing := [name for name in tensors if not (index.parent / name).is_file()]:
        raise ValueError(f"{flag}: {index} names {missing[0]}, which is not there")
    return dict(sorted(tensors.items()))


def _check_place(file: Path, root: Path, flag: str) -> None:
    """ValueError for a link that leads out of the folder, but from a snapshot of Hugging Face's cache to its blobs."""
    target, root = file.resolve(), root.resolve()
    allowed = [root]
    if (cached := next((parent for parent in root.parents if parent.name.startswith("models--")), None)) is not None:
        allowed.append(cached / "blobs")
    if not any(target.is_relative_to(folder) for folder in allowed):
        raise ValueError(f"{flag}: {file} must not be a link out of {root}, got one to {target}")


def some(names: Iterable[str]) -> str:
    """The first few names, and how many more."""
    listed = sorted(names)
    more = f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
    return ", ".join(listed[:_SHOWN]) + more

"""Latents on disk: of an inversion, which other edits of the clip start from, and of an edit that was interrupted.

A file is safetensors. Its metadata say in JSON what the latents depend on, so that no other edit takes them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fame_accel.media.outputs import atomic_write
from fame_accel.media.packages import require

INVERTED, INVERTING, EDITING = "inverted", "inverting", "editing"


@dataclass(frozen=True, eq=False)
class SavedLatents:
    """Latents [F, C, h, w] on the CPU.

    stage: "inverted", the result of an inversion; "inverting" or "editing", after some steps of either.
    steps: how many.
    generator: the state of the generator of fresh noise, which editing draws from.
    """

    latents: Tensor
    stage: str
    steps: int
    generator: Tensor


def save_latents(path: str | Path, saved: SavedLatents, depends_on: Mapping[str, Any]) -> None:
    """Write a file, completely or not at all; depends_on: in values that JSON has."""
    safetensors = require("safetensors.torch", "diffusers")
    tensors = {"latents": saved.latents.cpu().contiguous(), "generator": saved.generator}
    about = {"stage": saved.stage, "steps": saved.steps, "depends_on": depends_on}
    with atomic_write(path) as temporary:
        safetensors.save_file(tensors, temporary, {"fame-accel": json.dumps(about, sort_keys=True)})


def load_latents(argument: str, path: str | Path, depends_on: Mapping[str, Any]) -> SavedLatents:
    """Read a file.

    Args:
        argument: the flag and its value, for messages.
        path: the file.
        depends_on: what the latents must depend on.

    Raises:
        ValueError: it is no such file, or depends on something else; the message says on what.
    """
    safetensors = require("safetensors", "diffusers")
    try:
        with safetensors.safe_open(str(path), "pt") as file:
            about = json.loads((file.metadata() or {})["fame-accel"])
            tensors = {name: file.get_tensor(name).clone() for name in ("latents", "generator")}
            saved = SavedLatents(tensors["latents"], about["stage"], about["steps"], tensors["generator"])
            before = about["depends_on"]
    except (safetensors.SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
        raise ValueError(f"{argument} holds no latents of an edit: {error}") from error
    now = json.loads(json.dumps(depends_on))
    if different := differences(before, now):
        raise ValueError(f"{argument} belongs to another edit: {'; '.join(different)}")
    if not bool(torch.isfinite(saved.latents).all()):
        raise ValueError(f"{argument} holds latents that are not finite")
    return saved


def differences(before: Mapping[str, Any], now: Mapping[str, Any], within: str = "") -> list[str]:
    """What differs between two objects of JSON, one phrase each: "steps 50 then, 20 now"."""
    phrases = []
    for name in dict.fromkeys([*before, *now]):
        old, new = before.get(name), now.get(name)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            phrases += differences(old, new, f"{within}{name}.")
        elif old != new:
            phrases.append(f"{within}{name} {_short(old)} then, {_short(new)} now")
    return phrases


def _short(value: Any) -> str:
    """A value for a message: a digest by its beginning, null as "none"."""
    text = "none" if value is None else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:20]}...{text[-8:]}"

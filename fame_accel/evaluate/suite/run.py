"""Running the suite: one inversion per clip, every edit judged, a row each, and the summary of them all."""

import hashlib
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fame_accel.evaluate.figures import Figures, judge
from fame_accel.evaluate.inputs import versions
from fame_accel.evaluate.parity import winobias_professions
from fame_accel.evaluate.suite.cases import Case, Suite
from fame_accel.evaluate.suite.results import Results
from fame_accel.evaluate.suite.summary import suite_chart, suite_table
from fame_accel.fairness import Debias
from fame_accel.media.frames import replacing
from fame_accel.media.video import write_video


@dataclass(frozen=True, eq=False)
class SuiteClip:
    """A clip to edit: its name in the results; frames uint8 [F, H, W, 3]; fps; and its regions by name, bool [F, H, W],
    the suite's subject region among them."""

    name: str
    frames: Tensor
    fps: float
    masks: dict[str, Tensor]


@dataclass(frozen=True)
class EditOptions:
    """How every edit is made. eta: strength of the injection, in [0, 1]; ddim_eta: share of fresh noise a step, in
    [0, 1], drawn from seed anew for each edit; backend: of attention."""

    steps: int = 50
    guidance: float = 7.5
    eta: float = 0.5
    ddim_eta: float = 0.0
    seed: int = 0
    backend: str = "auto"


def run_suite(
    make_pipeline: Any,
    suite: Suite,
    edits: Sequence[Case],
    clips: Sequence[SuiteClip],
    options: EditOptions,
    results: Results,
) -> None:
    """Make the edits that have no row yet; after each append its row and keep its clip as MP4 under clips/.

    Args:
        make_pipeline: called without arguments, once, if anything is left to do; gives a FameVideoEditPipeline.
        suite: names the subject region, the source prompt and the groups.
        edits: which to make, of every clip.
        clips: their names differ.
        options: see `EditOptions`.
        results: of a folder that was opened with these options.
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
            clip.frames, suite.source_prompt, num_inference_steps=options.steps, backend=options.backend
        )
        folder = results.path.parent / "clips" / clip.name
        folder.mkdir(parents=True, exist_ok=True)
        for number, edit in enumerate(left, start=1):
            start = time.perf_counter()
            frames = _edit(pipeline, suite, edit, clip, latents, options)
            seconds = time.perf_counter() - start
            name = f"{edit.profession.replace(' ', '_')}_{edit.template}_{edit.target}.mp4"
            write_video(folder / name, frames, clip.fps)
            figures = judge(clip.frames, frames, clip.masks[suite.subject_region])
            results.append(_row(clip, edit, figures, shares[edit.profession], seconds, options.seed))
            outcome = figures.gender.outcome
            print(
                f"  {number}/{len(left)} {edit.prompt!r}, asked for a {edit.target}: {outcome}, {seconds:.1f} s",
                flush=True,
            )


def write_summary(results: Results) -> None:
    """Print the summary of all rows, and write summary.txt and outcomes.png beside them."""
    folder = results.path.parent
    text = suite_table(results.rows)
    with replacing(folder / "summary.txt") as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")
    with replacing(folder / "outcomes.png") as temporary:
        suite_chart(temporary, results.rows)
    print(f"\n{text}\n\nWrote results.csv, summary.txt, outcomes.png and clips/ to {folder}")


def digest(*tensors: Tensor) -> str:
    """SHA-256 of the bytes of tensors: which clip and masks the rows of a folder are of."""
    found = hashlib.sha256()
    for tensor in tensors:
        found.update(repr((tensor.dtype, tuple(tensor.shape))).encode())
        found.update(tensor.cpu().contiguous().numpy().tobytes())
    return found.hexdigest()


def checkpoint_digest(folder: Path) -> str:
    """SHA-256 of the weights and configurations of a checkpoint folder: its .safetensors and .json files."""
    found = hashlib.sha256()
    for file in sorted(file for file in folder.rglob("*") if file.suffix in (".safetensors", ".json")):
        found.update(f"{file.relative_to(folder).as_posix()} {file.stat().st_size}\n".encode())
        with file.open("rb") as stream:
            while block := stream.read(1 << 24):
                found.update(block)
    return found.hexdigest()


def suite_options(suite: Suite, clips: Sequence[SuiteClip], options: EditOptions, **more: Any) -> dict[str, Any]:
    """Everything that a row depends on, for `Results`. Which edits are made is left out: a run may add some."""
    pictures = {clip.name: digest(clip.frames, *(clip.masks[name] for name in sorted(clip.masks))) for clip in clips}
    return {"suite": asdict(suite), "clips": pictures, **asdict(options), **more}


def _edit(pipeline: Any, suite: Suite, edit: Case, clip: SuiteClip, latents: Tensor, options: EditOptions) -> Tensor:
    """The edited clip, uint8 [F, H, W, 3] on the CPU."""
    frames = pipeline(
        clip.frames,
        edit.prompt,
        clip.masks,
        {suite.subject_region: edit.profession},
        source_prompt=suite.source_prompt,
        debias=(Debias(subject=edit.profession, toward=edit.toward, groups=suite.groups, eta=options.eta),),
        num_inference_steps=options.steps,
        guidance_scale=options.guidance,
        latents=latents,
        ddim_eta=options.ddim_eta,
        generator=torch.Generator().manual_seed(options.seed),
        backend=options.backend,
        output_type="pt",
    ).frames
    return (frames.float().cpu() * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


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
        "versions": "; ".join(f"{package} {found}" for package, found in versions().items()),
    }


def _key(clip: SuiteClip, edit: Case) -> dict[str, object]:
    return {"clip": clip.name, "profession": edit.profession, "template": edit.template, "target": edit.target}

"""The same edit of a real clip with eager and with fused FAME attention, compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fame_accel.core.parity import Verdict, error
from fame_accel.demo.codec import PatchCodec
from fame_accel.demo.edit import SOURCE_PROMPT, TARGET_PROMPT, Run, edit, invert
from fame_accel.demo.pipeline import random_pipeline
from fame_accel.demo.report import FILES, print_table, write_report
from fame_accel.edit.checkpoint import find_checkpoint
from fame_accel.edit.run import load_pipeline
from fame_accel.edit.target import choose_target
from fame_accel.media.clip import load_clip
from fame_accel.media.frames import to_bytes
from fame_accel.media.outputs import check_output_folder
from fame_accel.media.packages import installed_versions, quiet
from fame_accel.media.person import region_masks


def run_demo(
    frames: int = 8,
    size: int = 256,
    steps: int = 4,
    backend: str = "auto",
    out: str | Path = "demo_out",
    model: str | Path | None = None,
    device: str | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Edit the packaged clip with eager and with fused attention, in float32, and write pictures and report.json.

    Args:
        frames: of the clip, 1 to 120.
        size: pixels per side, a multiple of 64.
        steps: of inversion and of editing.
        backend: of fused attention: auto, triton or sdpa.
        out: folder to write to.
        model: checkpoint folder in diffusers' layout; None makes random weights.
        device: torch device; None takes cuda where torch finds a GPU, otherwise cpu.
        seed: of the random weights.

    Returns:
        The report, as in report.json. Its "backends" holds, by name of the backend, attention_s and step_s (seconds per
        step), peak_mib, latent_error and latent_error_mean (of the final latents, against the same edit in float64) and
        passed (by the rule of `core.parity`).
    """
    quiet("demo")
    target, dtype, fused = choose_target(device, "float32", backend)
    out = check_output_folder("--out", out, FILES, [model])
    out.mkdir(parents=True, exist_ok=True)

    clip = load_clip(frames, size)
    masks, regions = region_masks(clip)
    pipeline = _make_pipeline(model, seed).to(target)
    if model is None:
        print("Weights are random (seeded): parity, time and memory are real, the edited pictures mean nothing.")
    else:
        print(f"Weights: {model}")
    print(f'"{SOURCE_PROMPT}" -> "{TARGET_PROMPT}", {frames} frames of {size}x{size}, {steps} steps, on {target}')

    codec = PatchCodec.fit(clip) if model is None else None
    latents = None if codec is None else codec.encode(clip.to(target))
    named_masks = dict(zip(regions, masks, strict=True))
    start = invert(pipeline, clip, latents, fused, steps)
    fused_run, eager_run = (edit(pipeline, clip, named_masks, start, name, steps) for name in (fused, "reference"))
    runs = {"reference": eager_run, fused: fused_run}
    pipeline.to(torch.float64)
    exact = edit(pipeline, clip, named_masks, start, "reference", steps).latents
    pipeline.to(dtype)

    rows = _rows(runs, exact, steps)
    report = {
        "frames": frames,
        "size": size,
        "steps": steps,
        "seed": seed,
        "device": _device_name(target),
        "versions": installed_versions("fame-accel", "torch", "triton", "diffusers", "transformers"),
        "weights": "random" if model is None else str(model),
        "backends": {row["backend"]: {k: v for k, v in row.items() if k != "backend"} for row in rows},
    }
    edited = {name: _decode(pipeline, codec, run.latents.float()) for name, run in runs.items()}
    names = write_report(out, report, rows, clip, masks, regions, edited)
    print_table(rows)
    print(f"\nWrote {', '.join(sorted(names))} to {out}")
    return report


def _make_pipeline(model: str | Path | None, seed: int) -> Any:
    """A FameVideoEditPipeline of a checkpoint folder, or of random weights."""
    if model is not None:
        return load_pipeline(find_checkpoint(model), [], torch.float32)
    from fame_accel.pipeline import FameVideoEditPipeline

    return FameVideoEditPipeline.from_pipe(random_pipeline(seed))


def _decode(pipeline: Any, codec: PatchCodec | None, latents: Tensor) -> Tensor:
    """Latents [F, 4, h, w] as frames, uint8 [F, H, W, 3] on the CPU."""
    if codec is not None:
        return codec.decode(latents).cpu()
    with torch.no_grad():
        scaled = latents / pipeline.vae.config.scaling_factor
        images = torch.cat([pipeline.vae.decode(latent[None]).sample for latent in scaled])
    return to_bytes(images / 2 + 0.5).permute(0, 2, 3, 1).cpu()


def _rows(runs: dict[str, Run], exact: Tensor, steps: int) -> list[dict[str, Any]]:
    """One row per backend, eager first."""
    errors = {name: error(run.latents, exact) for name, run in runs.items()}
    rows = []
    for name, run in runs.items():
        verdict = Verdict(errors[name], errors["reference"])
        rows.append({
            "backend": name,
            "attention_s": run.measurement.attention_s / steps,
            "step_s": run.measurement.seconds / steps,
            "peak_mib": run.measurement.peak_mib,
            "latent_error": verdict.errors[0],
            "latent_error_mean": verdict.errors[1],
            "passed": verdict.passed,
        })  # fmt: skip
    return rows


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} threads"

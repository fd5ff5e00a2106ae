"""`fame-accel demo`: the same edit of a real clip with eager and with fused FAME attention, compared."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fame_accel import bindings
from fame_accel.core.layout import SpaceTimeLayout
from fame_accel.core.modulation import Modulation
from fame_accel.core.parity import Verdict, error
from fame_accel.core.planning import merge_frames, tile_plan
from fame_accel.demo.codec import PatchCodec
from fame_accel.demo.edit import SOURCE_PROMPT, TARGET_PROMPT, Run, edit, invert
from fame_accel.demo.pipeline import random_pipeline
from fame_accel.edit.checkpoint import find_checkpoint
from fame_accel.edit.run import load_pipeline
from fame_accel.media.charts import comparison_chart
from fame_accel.media.clip import load_clip
from fame_accel.media.frames import to_bytes
from fame_accel.media.packages import installed_versions, quiet
from fame_accel.media.person import region_masks
from fame_accel.media.pictures import mask_overlay, side_by_side_gif
from fame_accel.tools.plan_picture import plot_plans

FPS = 7.5
_COLUMNS = ("backend", "attention_s", "step_s", "peak_mib", "latent_error", "latent_error_mean", "passed")


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
    """Edit the packaged clip with backend="reference" and with `backend`; write pictures and report.json to `out`.

    frames: 1 to 120; size: pixels, a multiple of 64; model: a local diffusers checkpoint folder, None for random
    weights. Returns the report: frames, size, steps and, under "backends", per backend attention_s and step_s in
    seconds per step, peak_mib, latent_error (max, against the same edit in float64), latent_error_mean, passed (the
    fused backend's error is at most twice the eager one's + 1e-5, in max and in mean).
    """
    quiet("demo")
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if torch.device(device).type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"--device {device}: torch sees no CUDA device here")
    fused = _fused_backend(backend, torch.device(device))
    if not 1 <= steps <= 1000:
        raise ValueError(f"--steps must lie in 1 to 1000, got {steps}")
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)

    clip = load_clip(frames, size)
    masks, regions = region_masks(clip)
    pipeline = _pipeline(model, seed).to(device)
    weights = (
        "Weights are random (seeded): parity, time and memory are real, the edited picture means nothing."
        if model is None
        else f"Weights: {model}"
    )
    print(weights)
    print(f'"{SOURCE_PROMPT}" -> "{TARGET_PROMPT}", {frames} frames of {size}x{size}, {steps} steps, on {device}')

    codec = PatchCodec.fit(clip) if model is None else None
    latents = None if codec is None else codec.encode(clip.to(device))
    named = dict(zip(regions, masks, strict=True))
    start = invert(pipeline, clip, latents, fused, steps)
    runs = {name: edit(pipeline, clip, named, start, name, steps) for name in (fused, "reference")}
    pipeline.to(torch.float64)
    truth = edit(pipeline, clip, named, start, "reference", steps).latents
    pipeline.to(torch.float32)

    rows = _rows(runs, truth, steps)
    report = {
        "frames": frames,
        "size": size,
        "steps": steps,
        "seed": seed,
        "device": _device_name(device),
        "versions": installed_versions("fame-accel", "torch", "triton", "diffusers", "transformers"),
        "weights": "random" if model is None else str(model),
        "backends": {row["backend"]: {k: v for k, v in row.items() if k != "backend"} for row in rows},
    }
    names = _write(out, report, rows, clip, masks, regions, runs, lambda z: _decode(pipeline, codec, z))
    _print_table(rows)
    print(f"\nWrote {', '.join(sorted(names))} to {out}")
    return report


def _fused_backend(backend: str, device: torch.device) -> str:
    reason = bindings.triton_unavailable(device, torch.float32)
    if backend == "auto":
        return "triton" if device.type == "cuda" and reason is None else "sdpa"
    if backend not in ("triton", "sdpa"):
        raise ValueError(f"--backend must be auto, triton or sdpa, got {backend!r}")
    if backend == "triton" and reason is not None:
        raise RuntimeError(f"--backend triton cannot run here: {reason}")
    return backend


def _pipeline(model: str | Path | None, seed: int) -> Any:
    """A FameVideoEditPipeline of a checkpoint folder, or of random weights."""
    if model is not None:
        return load_pipeline(find_checkpoint(model), None, torch.float32)
    from fame_accel.pipeline import FameVideoEditPipeline

    return FameVideoEditPipeline.from_pipe(random_pipeline(seed))


def _decode(pipeline: Any, codec: PatchCodec | None, latents: Tensor) -> Tensor:
    if codec is not None:
        return codec.decode(latents).cpu()
    with torch.no_grad():
        scaled = latents / pipeline.vae.config.scaling_factor
        images = torch.cat([pipeline.vae.decode(latent[None]).sample for latent in scaled])
    return to_bytes(images / 2 + 0.5).permute(0, 2, 3, 1).cpu()


def _rows(runs: dict[str, Run], truth: Tensor, steps: int) -> list[dict[str, Any]]:
    """One row per backend, eager first; the fused one is judged by the 2x rule."""
    errors = {name: error(run.latents, truth) for name, run in runs.items()}
    rows = []
    for name in ("reference", *(name for name in runs if name != "reference")):
        verdict, took = Verdict(errors[name], errors["reference"]), runs[name].measurement
        rows.append({
            "backend": name,
            "attention_s": took.attention_s / steps,
            "step_s": took.seconds / steps,
            "peak_mib": took.peak_mib,
            "latent_error": verdict.errors[0],
            "latent_error_mean": verdict.errors[1],
            "passed": verdict.passed,
        })  # fmt: skip
    return rows


def _write(
    out: Path,
    report: dict,
    rows: list[dict],
    clip: Tensor,
    masks: Tensor,
    names: list[str],
    runs: dict[str, Run],
    decode: Callable[[Tensor], Tensor],
) -> list[str]:
    """Write pictures and report; the names of the files."""
    pictures = {"source": clip}
    made = "edited (random weights)" if report["weights"] == "random" else "edited"
    pictures |= {f"{made}, {name}": decode(run.latents.float()) for name, run in runs.items()}
    fused, eager = list(pictures.values())[1:]
    gap = (fused.int() - eager.int()).abs()
    pictures[f"difference x 64 (at most {gap.max().item()}/255)"] = (gap * 64).clamp(max=255).to(torch.uint8)
    side_by_side_gif(out / "side_by_side.gif", pictures, FPS)
    mask_overlay(out / "mask_overlay.png", clip, masks, names)
    measured_memory = all(row["peak_mib"] is not None for row in rows)
    if measured_memory:
        comparison_chart(out / "comparison.png", rows)
    layout = SpaceTimeLayout.from_masks(masks)
    tokens = layout.tokens(report["size"] // 8, report["size"] // 8)
    plans = {}
    for name, modulation in (
        ("FAME default", Modulation.fame(layout.num_frames)),
        ("hard mask, decay", Modulation.region_mask(layout.num_frames, decay=0.1)),
    ):
        tables = merge_frames(modulation, layout.num_frames, layout.num_frames)
        plans[name] = tile_plan(tokens, tokens, tables, 128, 64)
    plot_plans(out / "tile_plan.png", plans)
    (out / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    written = ["side_by_side.gif", "mask_overlay.png", "tile_plan.png", "report.json"]
    return [*written, "comparison.png"] if measured_memory else written


def _print_table(rows: list[dict[str, Any]]) -> None:
    text = [[_cell(column, row[column]) for column in _COLUMNS] for row in rows]
    widths = [max(len(line[i]) for line in [_COLUMNS, *text]) for i in range(len(_COLUMNS))]
    print()
    for line in [_COLUMNS, ["-" * width for width in widths], *text]:
        print("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)))
    eager, fused = rows
    attention, whole = (_faster(eager[column], fused[column]) for column in ("attention_s", "step_s"))
    print(
        f"\nOne run each, per step: {fused['backend']} was {attention} than eager in attention layers, {whole} in all. "
        "Errors are of the final latents against float64."
    )


def _faster(eager: float, fused: float) -> str:
    return f"{eager / fused:.1f}x faster" if fused <= eager else f"{fused / eager:.1f}x slower"


def _cell(column: str, value: Any) -> str:
    if value is None:
        return "n/a"
    if isinstance(value, bool):
        return "yes" if value else "NO"
    if isinstance(value, float):
        return (
            f"{value:.1e}"
            if column.startswith("latent_error")
            else f"{value:.1f}"
            if "mib" in column
            else f"{value:.2f}"
        )
    return str(value)


def _device_name(device: str) -> str:
    return (
        torch.cuda.get_device_name(device) if device.startswith("cuda") else f"CPU, {torch.get_num_threads()} threads"
    )

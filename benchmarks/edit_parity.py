"""Compare a whole edit with the fused backend to the eager one: inversion, guidance, ControlNet and pictures.

    python -m benchmarks.edit_parity [--frames 4] [--size 128] [--steps 10] [--device cuda]

One clip is edited with backend="reference", with the fused backend, and in float64, with a random checkpoint of Stable
Diffusion 1.5's architecture. An edit passes if the error of its latents against float64 is at most twice that of the
eager edit plus 1e-5, in maximum and in mean, and 99.9% of its pixel values differ by at most 1/255 from the eager ones.
Appends to benchmarks/results/edit_parity.csv.
"""

from __future__ import annotations

import argparse
import copy
import sys
from functools import cache
from pathlib import Path

import torch
from diffusers import ControlNetModel, StableDiffusionPipeline
from torch import Tensor

from fame_accel.bench.environment import environment
from fame_accel.bench.rows import append
from fame_accel.core.parity import Verdict, error
from fame_accel.demo.edit import DEBIAS, REGIONS, SOURCE_PROMPT, TARGET_PROMPT
from fame_accel.demo.pipeline import random_controlnet, random_pipeline
from fame_accel.media.clip import load_clip
from fame_accel.media.frames import to_bytes
from fame_accel.media.packages import quiet
from fame_accel.media.person import region_masks
from fame_accel.pipeline import FameVideoEditPipeline

RESULTS = Path(__file__).parent / "results" / "edit_parity.csv"


def measure(
    controlnet: bool, guidance_scale: float, frames: int, size: int, steps: int, device: torch.device
) -> dict[str, object]:
    """Edit a clip with both backends and in float64.

    Args:
        controlnet: whether a ControlNet takes part.
        guidance_scale: classifier-free guidance.
        frames: number of frames.
        size: pixels a side, a multiple of 64.
        steps: steps of inversion, and of denoising.
        device: where it runs; the fused backend is triton on CUDA and sdpa elsewhere.

    Returns:
        A row of the CSV: the errors of both backends' latents against float64, and the fraction of pixel values that
        differ by at most 1/255.
    """
    clip = load_clip(frames, size)
    masks, names = region_masks(clip)
    backend = "triton" if device.type == "cuda" else "sdpa"

    def edited(backend: str, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return latents [F, 4, h, w] and pictures, uint8 [F, 3, H, W]."""
        pipeline = _pipeline(controlnet, dtype).to(device)
        options = dict(control_frames=255 - clip) if controlnet else {}
        latents = pipeline(
            clip,
            TARGET_PROMPT,
            dict(zip(names, masks, strict=True)),
            REGIONS,
            SOURCE_PROMPT,
            debias=DEBIAS,
            num_inference_steps=steps,
            guidance_scale=guidance_scale,
            backend=backend,
            output_type="latent",
            **options,
        ).frames
        with torch.no_grad():
            pixels = torch.cat([pipeline.vae.decode(z[None] / pipeline.vae.config.scaling_factor)[0] for z in latents])
        return latents.double(), to_bytes(pixels / 2 + 0.5)

    truth, _ = edited("reference", torch.float64)
    (eager, eager_pixels), (fused, fused_pixels) = (edited(name, torch.float32) for name in ("reference", backend))
    verdict = Verdict(error(fused, truth), error(eager, truth))
    near = ((fused_pixels.int() - eager_pixels.int()).abs() <= 1).double().mean().item()
    return {
        "network": "UNet and ControlNet" if controlnet else "UNet",
        "guidance": guidance_scale,
        "backend": backend,
        "frames": frames,
        "size": size,
        "steps": steps,
        **{f"eager_{kind}": f"{value:.2e}" for kind, value in zip(("max", "mean"), verdict.eager, strict=True)},
        **{f"fused_{kind}": f"{value:.2e}" for kind, value in zip(("max", "mean"), verdict.errors, strict=True)},
        "latent_deviation": f"{truth.std().item():.3f}",
        "values_within_1": f"{near:.6f}",
        "passed": verdict.passed and near >= 0.999,
    }  # fmt: skip


@cache
def _parts() -> tuple[StableDiffusionPipeline, ControlNetModel]:
    whole = random_pipeline()
    return whole, random_controlnet(whole.unet)


def _pipeline(controlnet: bool, dtype: torch.dtype) -> FameVideoEditPipeline:
    whole, control = _parts()
    names = ("vae", "text_encoder", "tokenizer", "unet", "scheduler")
    parts = {name: copy.deepcopy(whole.components[name]) for name in names}
    pipeline = FameVideoEditPipeline(**parts, controlnet=copy.deepcopy(control) if controlnet else None)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(dtype)


def main() -> int:
    """Measure with and without a ControlNet and guidance; the exit status is 1 if an edit fails."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--frames", type=int, default=4)
    parser.add_argument("--size", type=int, default=128, help="pixels a side, a multiple of 64")
    parser.add_argument("--steps", type=int, default=10, help="of inversion, and of denoising")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    device = torch.device(args.device)
    torch.backends.cudnn.allow_tf32 = False  # with it, convolutions would be as coarse as in half precision
    quiet()
    rows = []
    for controlnet in (False, True):
        for guidance_scale in (1.0, 7.5):
            row = measure(controlnet, guidance_scale, args.frames, args.size, args.steps, device)
            print(", ".join(f"{name} {value}" for name, value in row.items()), flush=True)
            rows.append(environment(device) | row)
    append(rows, args.out, list(rows[0]))
    return 0 if all(row["passed"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())

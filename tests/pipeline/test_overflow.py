"""Values that are not finite are named where they arise, and never become pictures."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import torch
from clips import FRAMES, HEIGHT, WIDTH, clip, edit, make_pipeline

from fame_accel.demo.pipeline import random_pipeline
from fame_accel.pipeline.frames import as_output


@pytest.fixture(scope="module")
def parts() -> dict[str, Any]:
    return random_pipeline().components


def overflowing(parts: dict[str, Any], calls: int) -> Any:
    """A pipeline whose UNet in float16 gives infinity at that call."""
    pipeline = make_pipeline(parts | {"unet": copy.deepcopy(parts["unet"]).half()})
    seen = []

    def overflow(module: Any, given: Any, output: tuple[torch.Tensor]) -> tuple[torch.Tensor] | None:
        seen.append(1)
        return (output[0] * float("inf"),) if len(seen) == calls else None

    pipeline.unet.register_forward_hook(overflow)
    return pipeline


@pytest.mark.parametrize(
    ("calls", "when"), [(1, "step 1 of inversion"), (2, "step 2 of inversion"), (4, "step 2 of editing")]
)
def test_latents_that_overflow_are_named_at_their_step(parts, calls, when):
    with pytest.raises(RuntimeError, match=f"became infinite or NaN at {when} in float16: use bfloat16 or float32"):
        edit(overflowing(parts, calls))


def test_a_text_encoder_that_overflows_is_named(parts):
    """Before the weights of tokens are computed from its embeddings, which would be blamed."""
    encoder = copy.deepcopy(parts["text_encoder"]).half()
    torch.nn.init.constant_(encoder.get_input_embeddings().weight, float("nan"))
    with pytest.raises(RuntimeError, match="text embeddings became infinite or NaN at the text encoder in float16"):
        edit(make_pipeline(parts | {"text_encoder": encoder}))


def test_latents_that_are_given_are_finite(parts):
    latents = torch.full((FRAMES, 4, HEIGHT // 8, WIDTH // 8), float("nan"))
    with pytest.raises(ValueError, match="latents must be finite"):
        edit(make_pipeline(parts), latents=latents)


class Narrow(torch.nn.Module):
    """Infinite in float16 only."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * float("inf") if x.dtype == torch.float16 else x


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_a_vae_that_overflows_runs_again_in_float32(parts, part):
    """Of Stable Diffusion 1 too, whose VAE is not converted beforehand."""
    vae = copy.deepcopy(parts["vae"]).half()
    pipeline = make_pipeline(parts | {"vae": vae})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        wanted = edit(pipeline, output_type="pt")
    coder = getattr(vae, part)
    coder.conv_out = torch.nn.Sequential(coder.conv_out, Narrow())
    with pytest.warns(
        UserWarning, match=f"the VAE {part[:-1]}d in float16 was infinite or NaN: .* again in float32"
    ) as told:
        result = edit(pipeline, output_type="pt")
    assert len(told) == 1 and vae.dtype == torch.float16
    torch.testing.assert_close(result, wanted, atol=0.05, rtol=0)


def test_a_vae_that_is_never_finite_is_refused(parts):
    vae = copy.deepcopy(parts["vae"])
    torch.nn.init.constant_(vae.decoder.conv_out.bias, float("nan"))
    with pytest.raises(RuntimeError, match="what the VAE decoded is infinite or NaN in float32"):
        edit(make_pipeline(parts | {"vae": vae}), output_type="pil")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("output_type", ["pt", "np", "pil"])
def test_pictures_are_finite(output_type, value):
    frames = torch.zeros(1, 3, 2, 2)
    frames[0, 0, 0, 0] = value
    with pytest.raises(ValueError, match="frames must be finite"):
        as_output(frames, output_type)


def test_a_clip_stays_a_clip(parts):
    assert edit(make_pipeline(parts), frames=clip(), output_type="pt").isfinite().all()

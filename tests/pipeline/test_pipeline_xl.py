"""FameVideoEditXLPipeline on tiny random components."""

from __future__ import annotations

import copy
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from clips import FRAMES, HEIGHT, REGIONS, TARGET, WIDTH, clip, edit
from tiny_xl import components, make

import fame_accel as fa
from fame_accel.core.parity import Verdict, error
from fame_accel.fairness import Debias


@pytest.fixture(scope="module")
def parts() -> dict:
    return components()


@pytest.mark.parametrize("controlnet", [False, True], ids=["unet", "controlnet"])
@pytest.mark.slow
def test_fused_edit_is_the_eager_edit(parts: dict, controlnet: bool) -> None:
    options = dict(num_inference_steps=10)
    edited = {backend: edit(make(parts, controlnet), backend=backend, **options) for backend in ("reference", "sdpa")}
    double = make({name: copy.deepcopy(part) for name, part in parts.items()}, controlnet).to(torch.float64)
    truth = edit(double, backend="reference", **options)
    verdict = Verdict(error(edited["sdpa"], truth), error(edited["reference"], truth))
    assert verdict.passed, verdict
    assert 0 < verdict.eager[0] < 1e-2
    plain = edit(make(parts, controlnet), modulated_steps=0, debias=(), **options)
    assert (plain - edited["sdpa"]).abs().max() > 100 * verdict.errors[0]


@pytest.mark.parametrize("negative", ["", "blurry"])
@pytest.mark.parametrize("controlnet", [False, True], ids=["unet", "controlnet"])
def test_one_plain_frame_is_stable_diffusion_xl(parts: dict, controlnet: bool, negative: str) -> None:
    pipeline = make(parts, controlnet)
    condition = clip(seed=5)[:1]
    start = torch.randn(1, 4, HEIGHT // 8, WIDTH // 8, generator=torch.manual_seed(2))
    options = dict(num_inference_steps=4, guidance_scale=5.0, latents=start)
    control = dict(control_frames=condition, controlnet_conditioning_scale=0.7) if controlnet else {}
    everywhere = {"all": torch.ones(1, HEIGHT, WIDTH, dtype=torch.bool)}
    measured = pipeline(
        clip()[:1], TARGET, everywhere, modulated_steps=0, output_type="np", negative_prompt=negative,
        **options, **control,
    ).frames  # fmt: skip

    if controlnet:
        whole = diffusers.StableDiffusionXLControlNetPipeline(**pipeline.components, add_watermarker=False)
        options |= dict(image=condition.permute(0, 3, 1, 2) / 255, controlnet_conditioning_scale=0.7)
    else:
        names = set(pipeline.components) - {"controlnet"}
        components = {name: pipeline.components[name] for name in names}
        whole = diffusers.StableDiffusionXLPipeline(**components, add_watermarker=False)
        options |= dict(height=HEIGHT, width=WIDTH)
    whole.set_progress_bar_config(disable=True)
    wanted = whole(TARGET, negative_prompt=negative or None, output_type="np", **options).images
    np.testing.assert_allclose(measured, wanted, atol=2e-4)


def test_phrases_alone_are_encoded_at_the_layer_of_the_prompt(parts: dict) -> None:
    pipeline = make(parts)
    options = dict(phrases=REGIONS, names=list(REGIONS))
    alone = pipeline._encode_text(TARGET, None, **options, isolate=True)
    phrase = pipeline._encode_text("female doctor", None)
    assert torch.equal(alone.prompt_embeds[:, 2:4], phrase.prompt_embeds[:, 1:3])
    assert torch.equal(alone.pooled, pipeline._encode_text(TARGET, None).pooled)


def test_saved_and_loaded(parts: dict, tmp_path: Path) -> None:
    pipeline = make(parts)
    wanted = edit(pipeline)
    pipeline.save_pretrained(tmp_path)
    loaded = fa.FameVideoEditXLPipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    assert torch.equal(edit(loaded), wanted)
    assert loaded.config.force_zeros_for_empty_prompt is True


def test_half_precision_vae_runs_in_float32(parts: dict) -> None:
    vae = copy.deepcopy(parts["vae"]).half()
    assert vae.config.force_upcast
    pipeline = make(parts | {"vae": vae})
    seen = []
    vae.encoder.register_forward_hook(lambda module, given, out: seen.append(given[0].dtype))
    vae.decoder.register_forward_hook(lambda module, given, out: seen.append(given[0].dtype))
    assert edit(pipeline, output_type="pt").shape == (FRAMES, 3, HEIGHT, WIDTH)
    assert set(seen) == {torch.float32} and vae.dtype == torch.float16


def test_encoders_that_disagree_are_reported(parts: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each text encoder measures by itself which group is under-represented."""
    from fame_accel.pipeline import text

    original = text.encode_prompt

    def disagree(tokenizer, encoder, *arguments, debias=(), **options):
        toward = "female" if encoder is parts["text_encoder"] else "male"
        return original(
            tokenizer, encoder, *arguments, debias=[Debias(one.subject, one.eta, toward) for one in debias], **options
        )

    monkeypatch.setattr(text, "encode_prompt", disagree)
    with pytest.raises(ValueError, match="needs toward: the text encoders measure different groups"):
        edit(make(parts), debias=(Debias("doctor", eta=0.5),))

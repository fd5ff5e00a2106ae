"""Every option of an edit and of an inversion changes what is run."""

from __future__ import annotations

import re
from typing import Any

import diffusers
import pytest
import torch
from clips import FRAMES, SOURCE, TARGET, clip, edit, make_pipeline, masks
from torch import Tensor

import fame_accel as fa
from fame_accel.demo.pipeline import random_pipeline
from fame_accel.fairness import Debias
from fame_accel.pipeline import FameVideoEditPipeline, video_edit

HEIGHT, WIDTH = 32, 40
LATENTS = (FRAMES, 4, HEIGHT // 8, WIDTH // 8)
SMALL = dict(frames=clip(0, HEIGHT, WIDTH), masks=masks(HEIGHT, WIDTH), control_frames=clip(5, HEIGHT, WIDTH))


@pytest.fixture(scope="module")
def parts() -> dict:
    return random_pipeline().components


@pytest.fixture(scope="module")
def pipeline(parts: dict) -> FameVideoEditPipeline:
    """Shared by all tests: an edit leaves nothing behind that another would see."""
    return make_pipeline(parts, controlnet=True)


@pytest.fixture
def configs(monkeypatch: pytest.MonkeyPatch) -> list[fa.FameConfig]:
    """The configurations of attention that are installed, in turn."""
    installed = []

    def apply(model: object, config: fa.FameConfig) -> object:
        installed.append(config)
        return fa.apply_fame(model, config)

    monkeypatch.setattr(video_edit, "apply_fame", apply)
    return installed


def differ(a: Tensor, b: Tensor) -> bool:
    return bool((a - b).abs().max() > 1e-4)


def random_latents() -> Tensor:
    return torch.randn(LATENTS, generator=torch.Generator().manual_seed(3))


def test_options_reach_the_attention(pipeline: FameVideoEditPipeline, configs: list[fa.FameConfig]) -> None:
    given = dict(self_factor=0.2, cross_factor=0.7, power=2.0, levels=(2, 4), backend="reference")
    modulation = fa.Modulation.region_mask(FRAMES)
    edit(pipeline, **SMALL, **given, modulation=modulation)
    inversion, denoising = configs
    assert {name: getattr(denoising, name) for name in given} == given
    assert denoising.self_modulation is modulation
    assert denoising.cross_size == "frame"  # as VideoGrain
    assert denoising.token_regions is not None and denoising.token_weights is not None
    assert (inversion.levels, inversion.active_fraction, inversion.backend) == ((2, 4), 0.0, "reference")


def test_defaults_are_videograins(pipeline: FameVideoEditPipeline, configs: list[fa.FameConfig]) -> None:
    edit(
        pipeline, **SMALL, latents=random_latents(), num_inference_steps=50,
        callback_on_step_end=lambda pipe, *_: setattr(pipe, "_interrupt", True),  # the first step is enough
    )  # fmt: skip
    [config] = configs
    assert (config.self_factor, config.cross_factor, config.power) == (0.3, 1.0, 5.0)
    assert (config.levels, config.backend) == ((1, 2, 4, 8), "auto")
    pipeline.scheduler.set_timesteps(50)
    assert (pipeline.scheduler.timesteps >= (1 - config.active_fraction) * 1000).sum() == 15


def test_the_training_steps_are_the_schedulers(parts: dict, configs: list[fa.FameConfig]) -> None:
    scheduler = diffusers.DDIMScheduler.from_config(parts["scheduler"].config, num_train_timesteps=500)
    edit(make_pipeline(parts, controlnet=True, scheduler=scheduler), **SMALL, modulated_steps=1)
    inversion, denoising = configs
    assert denoising.num_train_timesteps == 500
    assert denoising.active_fraction == 1 - (251 + 1) / 2 / 500  # between the two timesteps


def test_clip_skip_reaches_every_prompt(pipeline: FameVideoEditPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    original = pipeline._encode_text

    def encode_text(prompt: str, clip_skip: int | None, **options: Any) -> Any:
        calls.append((prompt, clip_skip))
        return original(prompt, clip_skip, **options)

    monkeypatch.setattr(pipeline, "_encode_text", encode_text)
    edit(pipeline, **SMALL, negative_prompt="blurry", clip_skip=1, num_inference_steps=1)
    assert calls == [(TARGET, 1), ("blurry", 1), (SOURCE, 1)]


def test_timesteps_are_made_on_the_device_of_the_models(
    pipeline: FameVideoEditPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    devices = []
    for scheduler in (diffusers.DDIMScheduler, diffusers.DDIMInverseScheduler):
        original = scheduler.set_timesteps

        def spy(self: Any, steps: int, device: Any = None, original: Any = original) -> None:
            devices.append(device)
            original(self, steps, device=device)

        monkeypatch.setattr(scheduler, "set_timesteps", spy)
    edit(pipeline, **SMALL, num_inference_steps=1)
    assert devices and set(devices) == {torch.device("cpu")}


@pytest.mark.parametrize("chunk_size", [1, 2, 3])
def test_chunks_of_the_vae_and_the_controlnet(
    pipeline: FameVideoEditPipeline, monkeypatch: pytest.MonkeyPatch, chunk_size: int
) -> None:
    batches: dict[str, list[int]] = {"encode": [], "decode": [], "controlnet": []}
    for name in ("encode", "decode"):
        original = getattr(pipeline.vae, name)
        monkeypatch.setattr(
            pipeline.vae,
            name,
            lambda x, *args, name=name, original=original, **kwargs: (
                batches[name].append(len(x)) or original(x, *args, **kwargs)
            ),
        )
    hook = pipeline.controlnet.register_forward_pre_hook(lambda _, args: batches["controlnet"].append(len(args[0])))
    edit(pipeline, **SMALL, num_inference_steps=1, chunk_size=chunk_size, output_type="pt")
    hook.remove()
    once = {1: [1, 1, 1], 2: [2, 1], 3: [3]}[chunk_size]
    guided = {1: [1] * 6, 2: [2, 2, 2], 3: [3, 3]}[chunk_size]
    assert batches == {"encode": once, "decode": once, "controlnet": once + guided}


@pytest.mark.parametrize(
    ("options", "batches"),
    [
        (dict(), [1, 2]),
        (dict(split_guidance=True), [1, 1, 1]),
        (dict(guidance_scale=1.0), [1, 1]),
        (dict(guidance_scale=1.0, split_guidance=True), [1, 1]),
        (dict(guidance_scale=1.01), [1, 2]),
    ],
    ids=["guided", "split", "unguided", "unguided, split", "hardly guided"],
)
def test_batches_of_guidance(pipeline: FameVideoEditPipeline, options: dict[str, Any], batches: list[int]) -> None:
    seen = []
    hook = pipeline.unet.register_forward_pre_hook(lambda _, args: seen.append(len(args[0]) // FRAMES))
    edit(pipeline, **SMALL, num_inference_steps=1, **options)
    hook.remove()
    assert seen == batches


# Options of denoising, inversion left out; what each is compared to where that is not the default.
DENOISING: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "prompt": (dict(prompt="a female doctor on a car"), {}),
    "negative_prompt": (dict(negative_prompt="blurry"), {}),
    "masks": (dict(masks={name: mask.flip(2) for name, mask in masks(HEIGHT, WIDTH).items()}), {}),
    "regions": (dict(regions={"person": "car", "background": "female doctor"}), {}),
    "debias": (dict(debias=()), {}),
    "eta of debias": (dict(debias=(Debias("doctor", toward="female", eta=1.0),)), {}),
    "num_inference_steps": (dict(num_inference_steps=3), {}),
    "modulated_steps": (dict(modulated_steps=0), {}),
    "guidance_scale": (dict(guidance_scale=2.0), {}),
    "no guidance": (dict(guidance_scale=1.0), {}),
    "control_frames": (dict(control_frames=clip(9, HEIGHT, WIDTH)), {}),
    "controlnet_conditioning_scale": (dict(controlnet_conditioning_scale=0.2), {}),
    "modulation": (dict(modulation=fa.Modulation.region_mask(FRAMES)), {}),
    "self_factor": (dict(self_factor=1.0), {}),
    "cross_factor": (dict(cross_factor=0.0, power=0.0), dict(power=0.0)),
    "power": (dict(power=0.0), {}),
    "levels": (dict(levels=(2, 4)), {}),
    "isolate_phrases": (dict(isolate_phrases=False), {}),
    "clip_skip": (dict(clip_skip=1), {}),
    "ddim_eta": (dict(ddim_eta=1.0, generator=torch.Generator().manual_seed(1)), {}),
    "generator": (
        dict(ddim_eta=1.0, generator=torch.Generator().manual_seed(1)),
        dict(ddim_eta=1.0, generator=torch.Generator().manual_seed(2)),
    ),
    "latents": (dict(latents=torch.ones(LATENTS)), {}),
}


START = SMALL | dict(latents=random_latents(), modulated_steps=2)


@pytest.fixture(scope="module")
def usual(pipeline: FameVideoEditPipeline) -> Tensor:
    return edit(pipeline, **START)


@pytest.mark.parametrize("name", DENOISING)
def test_an_option_changes_the_denoising(pipeline: FameVideoEditPipeline, usual: Tensor, name: str) -> None:
    options, compared = DENOISING[name]
    assert differ(edit(pipeline, **START | options), edit(pipeline, **START | compared) if compared else usual)


# Options of inversion that change its result.
INVERSION: dict[str, dict[str, Any]] = {
    "frames": dict(frames=clip(1, HEIGHT, WIDTH)),
    "source_prompt": dict(source_prompt="a woman in a train"),
    "num_inference_steps": dict(num_inference_steps=3),
    "control_frames": dict(control_frames=clip(9, HEIGHT, WIDTH)),
    "controlnet_conditioning_scale": dict(controlnet_conditioning_scale=0.2),
    "levels": dict(levels=(2, 4)),
    "clip_skip": dict(clip_skip=1),
}


INVERTED = {name: SMALL[name] for name in ("frames", "control_frames")}
INVERTED |= dict(source_prompt=SOURCE, num_inference_steps=2)


@pytest.fixture(scope="module")
def inversion(pipeline: FameVideoEditPipeline) -> Tensor:
    return pipeline.invert(**INVERTED)


@pytest.mark.parametrize("name", INVERSION)
def test_an_option_changes_the_inversion_and_the_edit_passes_it_on(
    pipeline: FameVideoEditPipeline, inversion: Tensor, name: str
) -> None:
    options = INVERSION[name]
    inverted = pipeline.invert(**INVERTED | options)
    assert differ(inverted, inversion)
    shared = SMALL | dict(modulated_steps=1) | options
    assert torch.equal(edit(pipeline, **shared), edit(pipeline, **shared, latents=inverted))


def test_an_inversion_starts_from_given_latents(pipeline: FameVideoEditPipeline, inversion: Tensor) -> None:
    encoded = pipeline._encode(clip(0, HEIGHT, WIDTH).permute(0, 3, 1, 2) / 255, 4).detach()
    assert torch.equal(pipeline.invert(**INVERTED, latents=encoded), inversion)
    assert differ(pipeline.invert(**INVERTED, latents=random_latents()), inversion)


def test_progress_is_shown_and_titled(parts: dict, capsys: pytest.CaptureFixture[str]) -> None:
    pipeline = make_pipeline(parts)
    pipeline.set_progress_bar_config(disable=False)
    options = dict(frames=SMALL["frames"], masks=SMALL["masks"])
    edit(pipeline, **options)
    shown = capsys.readouterr().err
    assert re.search(r"inversion: 100%[^\r]* 2/2 ", shown) and re.search(r"editing: 100%[^\r]* 2/2 ", shown)
    pipeline.set_progress_bar_config(disable=False, desc="mine")
    edit(pipeline, **options)
    assert "mine: 100%" in capsys.readouterr().err


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_latents_are_kept_in_float32(pipeline: FameVideoEditPipeline, dtype: torch.dtype) -> None:
    latents = random_latents().to(dtype)
    edited = edit(pipeline, **SMALL, latents=latents, num_inference_steps=1)
    assert edited.dtype == torch.float32
    assert torch.equal(edited, edit(pipeline, **SMALL, latents=latents.float(), num_inference_steps=1))
    frames = {name: SMALL[name] for name in ("frames", "control_frames")}
    assert pipeline.invert(**frames, latents=latents, num_inference_steps=1).dtype == torch.float32


def test_the_prompt_is_the_edited_clips(pipeline: FameVideoEditPipeline) -> None:
    """One prompt for both directions is another edit than a target prompt of its own."""
    assert differ(edit(pipeline, **SMALL, prompt=TARGET), edit(pipeline, **SMALL, prompt=TARGET, source_prompt=TARGET))

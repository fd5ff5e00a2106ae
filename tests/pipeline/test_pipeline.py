"""FameVideoEditPipeline on the tiny random checkpoint."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from clips import FRAMES, HEIGHT, REGIONS, SOURCE, TARGET, WIDTH, clip, edit, make_pipeline, masks
from torch import Tensor

import fame_accel as fa
from benchmarks import edit_parity
from fame_accel.demo.pipeline import random_pipeline
from fame_accel.fairness import Debias, encode_prompt
from fame_accel.pipeline import FameVideoEditPipeline


@pytest.fixture(scope="module")
def parts() -> dict:
    return random_pipeline().components


@pytest.fixture
def pipeline(parts: dict) -> FameVideoEditPipeline:
    return make_pipeline(parts)


@pytest.mark.parametrize("guidance_scale", [1.0, 7.5])
@pytest.mark.parametrize("controlnet", [False, True], ids=["unet", "controlnet"])
@pytest.mark.slow
def test_fused_edit_is_the_eager_edit(controlnet: bool, guidance_scale: float) -> None:
    """Ten steps of inversion and ten of denoising: latents pass the 2x rule, and pictures agree within 1/255."""
    row = edit_parity.measure(controlnet, guidance_scale, frames=3, size=64, steps=10, device=torch.device("cpu"))
    assert row["passed"] is True, row
    assert 0 < float(row["eager_max"]) < 1e-2 < float(row["latent_deviation"])  # eager rounds, and is no noise


def test_modulation_is_no_rounding_error(pipeline: FameVideoEditPipeline) -> None:
    edited, plain = edit(pipeline), edit(pipeline, modulated_steps=0, debias=())
    assert (edited - plain).abs().max() > 1e-2


@torch.no_grad()
def encoded(pipeline: FameVideoEditPipeline) -> Tensor:
    return pipeline._encode(clip().permute(0, 3, 1, 2) / 255, 4)


@pytest.mark.parametrize("controlnet", [False, True], ids=["unet", "controlnet"])
@pytest.mark.slow
def test_inversion_returns(parts: dict, controlnet: bool) -> None:
    """A clip inverted and denoised under one prompt, without guidance or modulation, comes back more exactly with finer
    steps. The remaining error is the change of the noise between steps, which is of first order."""
    pipeline = make_pipeline(parts, controlnet)
    start = encoded(pipeline)
    gaps = []
    for steps in (5, 40):
        back = edit(
            pipeline,
            prompt=SOURCE,
            regions={},
            debias=(),
            num_inference_steps=steps,
            modulated_steps=0,
            guidance_scale=1.0,
        )
        gaps.append((back - start).abs().mean())
    assert gaps[1] < gaps[0] / 2


def test_inversion_without_a_network_is_exact(pipeline: FameVideoEditPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the predicted noise is constant, both directions are inverse to each other."""
    noise = torch.randn(FRAMES, 4, HEIGHT // 8, WIDTH // 8)
    monkeypatch.setattr("fame_accel.pipeline.video_edit.NoisePredictor.__call__", lambda self, latents, timestep: noise)
    start = encoded(pipeline)
    inverted = pipeline.invert(clip(), SOURCE, num_inference_steps=10)
    assert (inverted - start).abs().max() > 1
    torch.testing.assert_close(edit(pipeline, latents=inverted, num_inference_steps=10), start, rtol=0, atol=1e-4)


def test_inversion_once_for_several_edits(pipeline: FameVideoEditPipeline) -> None:
    latents = pipeline.invert(clip(), SOURCE, num_inference_steps=2)
    assert torch.equal(edit(pipeline, latents=latents), edit(pipeline))


@pytest.mark.slow
def test_just_the_modulated_steps_are_modulated(pipeline: FameVideoEditPipeline) -> None:
    from fame_accel.adapter.state import FameState

    seen = []
    original = FameState.prepare

    def spy(self, *arguments):
        original(self, *arguments)
        seen.append(self.active)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FameState, "prepare", spy)
        for steps, modulated, wanted in ((2, 0, 0), (2, 2, 2), (7, 3, 3), (7, None, 2), (30, None, 9)):
            seen.clear()
            edit(pipeline, num_inference_steps=steps, modulated_steps=modulated, guidance_scale=1.0)
            assert seen == [False] * steps + [True] * wanted + [False] * (steps - wanted)  # inversion comes first


def test_split_guidance_and_chunks_change_nothing(parts: dict) -> None:
    pipeline = make_pipeline(parts, controlnet=True)
    whole = edit(pipeline, chunk_size=100)
    torch.testing.assert_close(edit(pipeline, split_guidance=True), whole, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(edit(pipeline, chunk_size=1), whole, rtol=1e-4, atol=1e-4)
    pipeline.vae.enable_slicing()
    torch.testing.assert_close(edit(pipeline), whole, rtol=1e-4, atol=1e-4)
    pipeline.vae.disable_slicing()


def test_frames_in_any_form(pipeline: FameVideoEditPipeline) -> None:
    from PIL import Image

    wanted = edit(pipeline)
    video = clip()
    forms = [
        [Image.fromarray(frame.numpy()) for frame in video],
        video.numpy(),
        video.numpy().astype(np.float32) / 255,
        video.permute(0, 3, 1, 2) / 255,
    ]
    for frames in forms:
        torch.testing.assert_close(edit(pipeline, frames=frames), wanted, rtol=1e-5, atol=1e-5)
    as_arrays = {name: mask.numpy().astype(np.uint8) * 255 for name, mask in masks().items()}
    assert torch.equal(edit(pipeline, masks=as_arrays), wanted)


def test_outputs(pipeline: FameVideoEditPipeline) -> None:
    latents = pipeline.invert(clip(), SOURCE, num_inference_steps=1)
    outs = {
        kind: edit(pipeline, latents=latents, num_inference_steps=1, output_type=kind)
        for kind in ("pil", "np", "pt", "latent")
    }
    assert outs["latent"].shape == (FRAMES, 4, HEIGHT // 8, WIDTH // 8)
    assert outs["pt"].shape == (FRAMES, 3, HEIGHT, WIDTH)
    assert outs["np"].shape == (FRAMES, HEIGHT, WIDTH, 3)
    np.testing.assert_allclose(outs["np"], outs["pt"].permute(0, 2, 3, 1), rtol=1e-6)
    assert len(outs["pil"]) == FRAMES and outs["pil"][0].size == (WIDTH, HEIGHT)
    np.testing.assert_allclose(np.asarray(outs["pil"][1]) / 255, outs["np"][1], atol=0.51 / 255)
    as_tuple = pipeline(
        clip(), TARGET, masks(), num_inference_steps=1, latents=latents, output_type="pt", return_dict=False
    )
    assert isinstance(as_tuple, tuple) and as_tuple[0].shape == outs["pt"].shape


def test_callback_and_interrupt(pipeline: FameVideoEditPipeline) -> None:
    steps = []

    def note(pipe, step: int, timestep: Tensor, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        steps.append((step, int(timestep), tuple(tensors["latents"].shape)))
        return {"latents": torch.zeros_like(tensors["latents"])} if step == 2 else {}

    edited = edit(pipeline, num_inference_steps=3, callback_on_step_end=note)
    assert [step for step, *_ in steps] == [0, 1, 2] and steps[0][1] > steps[2][1]
    assert steps[0][2] == (FRAMES, 4, HEIGHT // 8, WIDTH // 8)
    assert not edited.any()

    steps.clear()

    def stop(pipe, step: int, timestep: Tensor, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        pipe._interrupt = True
        return note(pipe, step, timestep, tensors)

    edit(pipeline, num_inference_steps=3, callback_on_step_end=stop)
    assert len(steps) == 1


def test_a_callback_gets_the_tensors_it_asked_for(pipeline: FameVideoEditPipeline) -> None:
    received = []
    for inputs in (("latents",), ()):
        edit(
            pipeline, num_inference_steps=1, callback_on_step_end_tensor_inputs=inputs,
            callback_on_step_end=lambda pipe, step, timestep, tensors: received.append(sorted(tensors)),
        )  # fmt: skip
    assert received == [["latents"], []]


def test_the_outcome_of_debiasing_is_returned(pipeline: FameVideoEditPipeline) -> None:
    options = dict(prompt=TARGET, masks=masks(), debias=(Debias("doctor", toward="female", eta=0.5),))
    options |= dict(
        num_inference_steps=1, output_type="latent", latents=torch.zeros(FRAMES, 4, HEIGHT // 8, WIDTH // 8)
    )
    [injection] = pipeline(clip(), **options).injections
    assert (injection.subject, injection.toward, injection.share) == ("doctor", "female", 0.5)
    assert pipeline(clip(), **options, return_dict=False)[1] == (injection,)


def test_noise_comes_from_the_generator(pipeline: FameVideoEditPipeline) -> None:
    def noisy(seed: int) -> Tensor:
        return edit(pipeline, ddim_eta=1.0, generator=torch.Generator().manual_seed(seed))

    assert torch.equal(noisy(1), noisy(1))
    assert (noisy(1) - noisy(2)).abs().max() > 0.01
    assert torch.equal(edit(pipeline), edit(pipeline))


@pytest.mark.parametrize("clip_skip", [None, 1])
def test_phrases_alone(pipeline: FameVideoEditPipeline, clip_skip: int | None) -> None:
    """Bound tokens have the embeddings of their phrase encoded alone; other tokens have those of the prompt."""
    whole = pipeline._encode_text(TARGET, clip_skip, phrases=REGIONS, names=list(REGIONS))
    alone = pipeline._encode_text(TARGET, clip_skip, phrases=REGIONS, names=list(REGIONS), isolate=True)
    phrase = pipeline._encode_text("female doctor", clip_skip).prompt_embeds
    bound = whole.token_regions != 0
    assert bound.nonzero().flatten().tolist() == [2, 3, 6]
    assert whole.token_regions[bound].tolist() == [1, 1, 2]
    assert torch.equal(alone.prompt_embeds[:, ~bound], whole.prompt_embeds[:, ~bound])
    assert torch.equal(alone.prompt_embeds[:, 2:4], phrase[:, 1:3])
    assert (alone.prompt_embeds[:, 2:4] - whole.prompt_embeds[:, 2:4]).abs().max() > 1e-3


def test_of_phrases_that_overlap_the_longest_counts(pipeline: FameVideoEditPipeline) -> None:
    def encoded(*phrases: str) -> Tensor:
        regions = dict(zip(phrases, phrases, strict=True))
        return pipeline._encode_text(TARGET, None, phrases=regions, names=list(regions), isolate=True).prompt_embeds

    assert torch.equal(encoded("female doctor", "doctor"), encoded("female doctor"))
    assert torch.equal(encoded("doctor", "female doctor"), encoded("female doctor"))
    assert torch.equal(encoded("female", "a female doctor"), encoded("a female doctor"))  # in any alphabetical order


def test_token_weights(pipeline: FameVideoEditPipeline) -> None:
    def weights(*debias: Debias) -> Tensor | None:
        return pipeline._encode_text(
            TARGET, None, phrases=REGIONS, names=list(REGIONS), debias=debias
        ).token_weights  # fmt: skip

    assert weights() is None
    assert weights(Debias("doctor", eta=1.0)) is None  # balanced, drawn to no phrase
    drawn = weights(Debias("doctor", eta=1.0, toward="female"))
    assert drawn[6] == 1.0  # "car", of a region without a debiased subject
    assert 0.1 <= drawn[3] < 1.0  # "doctor"
    assert not drawn[[0, *range(7, 77)]].any()  # start, end and padding
    further = weights(Debias("doctor", eta=0.5, toward="female"))
    assert further[3] < drawn[3]


def test_text_is_that_of_stable_diffusion(parts: dict, pipeline: FameVideoEditPipeline) -> None:
    whole = diffusers.StableDiffusionPipeline(**parts)
    wanted, _ = whole.encode_prompt(TARGET, torch.device("cpu"), 1, False)
    for clip_skip in (None, 0):
        assert torch.equal(pipeline._encode_text(TARGET, clip_skip).prompt_embeds, wanted)
    encoder = parts["text_encoder"]
    ids = parts["tokenizer"](TARGET, padding="max_length", return_tensors="pt").input_ids
    with torch.no_grad():  # transformers 5 moved the norm that diffusers' own clip_skip looks for
        earlier = encoder(ids, output_hidden_states=True).hidden_states[-2]
        wanted = getattr(encoder, "text_model", encoder).final_layer_norm(earlier)
    assert torch.equal(pipeline._encode_text(TARGET, 1).prompt_embeds, wanted)


@pytest.mark.parametrize("controlnet", [False, True], ids=["unet", "controlnet"])
def test_one_plain_frame_is_stable_diffusion(parts: dict, controlnet: bool) -> None:
    """For one frame without modulation, the result is the picture that diffusers' own pipeline makes of the latents."""
    pipeline = make_pipeline(parts, controlnet)
    frames, condition = clip()[:1], clip(seed=5)[:1]
    start = torch.randn(1, 4, HEIGHT // 8, WIDTH // 8, generator=torch.manual_seed(2))
    options = dict(num_inference_steps=4, guidance_scale=5.0, negative_prompt="blurry", latents=start)
    control = dict(control_frames=condition, controlnet_conditioning_scale=0.7) if controlnet else {}
    everywhere = {"all": torch.ones(1, HEIGHT, WIDTH, dtype=torch.bool)}
    measured = pipeline(
        frames, TARGET, everywhere, modulated_steps=0, ddim_eta=0.5, generator=torch.manual_seed(4), output_type="np",
        **options, **control,
    ).frames  # fmt: skip

    checks = dict(safety_checker=None, feature_extractor=None, requires_safety_checker=False)
    if controlnet:
        whole = diffusers.StableDiffusionControlNetPipeline(**pipeline.components, **checks)
        options |= dict(image=condition.permute(0, 3, 1, 2) / 255, controlnet_conditioning_scale=0.7)
    else:
        names = set(pipeline.components) - {"controlnet"}
        whole = diffusers.StableDiffusionPipeline(**{name: pipeline.components[name] for name in names}, **checks)
        options |= dict(height=HEIGHT, width=WIDTH)
    whole.set_progress_bar_config(disable=True)
    wanted = whole(TARGET, eta=0.5, generator=torch.manual_seed(4), output_type="np", **options).images
    np.testing.assert_allclose(measured, wanted, atol=2e-4)


def test_fairness_reaches_the_edit(pipeline: FameVideoEditPipeline) -> None:
    plain = edit(pipeline, debias=())
    none = edit(pipeline, debias=(Debias("doctor", toward="female", eta=0.0),))
    assert torch.equal(none, plain)  # nothing injected, nothing reweighted
    assert (edit(pipeline) - plain).abs().max() > 1e-4


def test_saved_and_loaded(parts: dict, tmp_path: Path) -> None:
    pipeline = make_pipeline(parts, controlnet=True)
    wanted = edit(pipeline)
    pipeline.save_pretrained(tmp_path / "fame")
    loaded = FameVideoEditPipeline.from_pretrained(tmp_path / "fame")
    loaded.set_progress_bar_config(disable=True)
    assert torch.equal(edit(loaded), wanted)


def test_loads_a_stable_diffusion_folder(parts: dict, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    wanted = edit(make_pipeline(parts))
    config = dict(parts["scheduler"].config)
    stored = diffusers.StableDiffusionPipeline(**(parts | {"scheduler": diffusers.PNDMScheduler.from_config(config)}))
    stored.save_pretrained(tmp_path)
    loaded = FameVideoEditPipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    assert "PNDMScheduler is replaced by a DDIMScheduler" in caplog.text
    assert loaded.controlnet is None
    torch.testing.assert_close(edit(loaded), wanted)


@pytest.mark.parametrize("wrong", ["Euler", "clip_sample", "thresholding"])
def test_a_scheduler_set_later_is_replaced_as_well(parts: dict, caplog: pytest.LogCaptureFixture, wrong: str) -> None:
    wanted = edit(make_pipeline(parts))
    config = parts["scheduler"].config
    pipeline = make_pipeline(parts)
    if wrong == "Euler":
        pipeline.scheduler = diffusers.EulerDiscreteScheduler.from_config(config, timestep_spacing="leading")
    else:
        pipeline.scheduler = diffusers.DDIMScheduler.from_config(config, **{wrong: True})
    torch.testing.assert_close(edit(pipeline), wanted)
    assert wrong in caplog.text and "is replaced by a DDIMScheduler" in caplog.text


def test_words_of_several_tokens_by_textual_inversion(parts: dict, tmp_path: Path) -> None:
    """A learned word of two vectors is bound, isolated and debiased with both."""
    from safetensors.torch import save_file

    pipeline = make_pipeline({name: copy.deepcopy(part) for name, part in parts.items()})
    save_file({"<medic>": torch.randn(2, 64)}, tmp_path / "medic.safetensors")
    pipeline.load_textual_inversion(tmp_path / "medic.safetensors", token="<medic>")
    regions = {"person": "<medic>", "background": "car"}
    debias = (Debias("<medic>", toward="female", eta=1.0),)
    plain, moved = (
        pipeline._encode_text("a <medic> in a car", None, phrases=regions, names=list(regions), debias=d, isolate=True)
        for d in ((), debias)
    )
    assert plain.token_regions[:8].tolist() == [0, 0, 1, 1, 0, 0, 2, 0]
    differ = (plain.prompt_embeds != moved.prompt_embeds).any(-1)[0]
    assert differ[2] and differ[3] and not differ[:2].any()
    both = Debias("<medic> <medic>_1", toward="female", eta=1.0)  # the tokens of the word, spelled out
    layer = dict(hidden_layer=-1, final_norm=False)
    expected = encode_prompt(
        pipeline.tokenizer, pipeline.text_encoder, "a <medic> <medic>_1 in a car", debias=[both], **layer
    )
    in_place = pipeline._encode_text("a <medic> in a car", None, debias=debias)
    assert torch.equal(in_place.prompt_embeds, expected.prompt_embeds)


@pytest.mark.parametrize("controlnet", [False, True], ids=["unet", "controlnet"])
def test_model_cpu_offload(parts: dict, monkeypatch: pytest.MonkeyPatch, controlnet: bool) -> None:
    """The CPU is both sides of the offload: the hooks run, the result is the same, and the VAE decodes alone."""
    wanted = edit(make_pipeline(parts, controlnet), output_type="pt")
    pipeline = make_pipeline({name: copy.deepcopy(part) for name, part in parts.items()}, controlnet)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipeline.enable_model_cpu_offload(device="cpu")
    moves = []
    original, decode = diffusers.ControlNetModel.to, pipeline.vae.decode

    def spy(model: torch.nn.Module, *args, **kwargs) -> torch.nn.Module:
        moves.append(str(args[0]))
        return original(model, *args, **kwargs)

    monkeypatch.setattr(diffusers.ControlNetModel, "to", spy)
    monkeypatch.setattr(
        pipeline.vae, "decode", lambda *args, **kwargs: (moves.append("decode"), decode(*args, **kwargs))[1]
    )
    assert torch.equal(edit(pipeline, output_type="pt"), wanted)
    assert not controlnet or moves[moves.index("decode") - 1] == "cpu"  # the hooks do not offload a ControlNet


@pytest.mark.slow
def test_compiled_blocks(parts: dict) -> None:
    wanted = edit(make_pipeline(parts))
    pipeline = make_pipeline({name: copy.deepcopy(part) for name, part in parts.items()})
    torch._dynamo.reset()
    pipeline.unet.compile_repeated_blocks(fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(edit(pipeline), wanted, rtol=1e-4, atol=1e-4)


def test_top_level_name() -> None:
    assert fa.FameVideoEditPipeline is FameVideoEditPipeline


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (dict(frames=[]), TypeError, "frames must be PIL images, an array or a tensor, got list"),
        (dict(frames=clip().float() / 255), ValueError, r"frames must have shape \[F, 3, H, W\]"),
        (dict(frames=clip().permute(0, 3, 1, 2).float()), ValueError, r"frames must lie in \[0, 1\]"),
        (dict(frames=clip()[:, :60]), ValueError, "frames must have sides that are multiples of 8, got 60 x 72"),
        (dict(frames=clip().long().numpy()), TypeError, "frames must be uint8 or floating"),
        (dict(masks={}), TypeError, "masks must map names"),
        (dict(masks={"person": masks()["person"][:2]}, regions={}), ValueError, "the clip's shape"),
        (dict(masks={"person": masks()["person"].float()}, regions={}), TypeError, "bool or uint8"),
        (dict(masks={"person": masks()["person"] & False}, regions={}), ValueError, "'person'.* is empty"),
        (dict(regions={"dog": "car"}), ValueError, "regions names 'dog', but masks has person, background"),
        (dict(regions=["person"]), TypeError, "regions must map names of regions to phrases"),
        (dict(regions={"person": None}), TypeError, "regions must map names of regions to phrases"),
        (dict(num_inference_steps=1000), ValueError, "num_inference_steps must be fewer: .* end at timestep 1000"),
        (dict(regions={"person": "nurse"}), ValueError, "'nurse' does not occur"),
        (dict(debias=(Debias("nurse", toward="female", eta=0.5),)), ValueError, "'nurse' does not occur"),
        (dict(debias="doctor"), TypeError, "debias"),
        (dict(prompt="word " * 80, regions={}, debias=()), ValueError, "77"),
        (dict(prompt=["a", "b"]), TypeError, "prompt must be a str"),
        (dict(num_inference_steps=0), ValueError, "num_inference_steps"),
        (dict(modulated_steps=3), ValueError, "modulated_steps must be an int from 0 to 2, got 3"),
        (dict(guidance_scale=-1.0), ValueError, "guidance_scale"),
        (dict(ddim_eta=2.0), ValueError, "ddim_eta"),
        (dict(chunk_size=0), ValueError, "chunk_size"),
        (dict(output_type="mp4"), ValueError, "output_type"),
        (dict(backend="cuda"), ValueError, "backend"),
        (dict(self_factor=2.0), ValueError, "self_factor"),
        (dict(modulation=fa.Modulation.fame(5)), ValueError, "self_modulation"),
        (dict(latents=torch.zeros(2, 4, 8, 9)), ValueError, "latents must have shape"),
        (dict(control_frames=clip()), ValueError, "the pipeline has no ControlNet"),
        (dict(callback_on_step_end_tensor_inputs=["noise"]), ValueError, "noise"),
        (dict(callback_on_step_end_tensor_inputs="latents"), TypeError, "must be a sequence of names, got 'latents'"),
        (dict(callback_on_step_end=3), TypeError, "callback_on_step_end must be a function or None, got 3"),
        (dict(guidance_scale="7"), ValueError, "guidance_scale must be a finite number >= 0, got '7'"),
        (dict(guidance_scale=None), ValueError, "guidance_scale must be a finite number >= 0, got None"),
        (dict(ddim_eta=torch.ones(2)), ValueError, "ddim_eta must be a number .* got a tensor of torch.float32"),
        (dict(controlnet_conditioning_scale=None), TypeError, "controlnet_conditioning_scale must be a number"),
        (dict(clip_skip="x"), ValueError, "clip_skip must be an int from 0, got 'x'"),
        (dict(clip_skip=True), ValueError, "clip_skip must be an int from 0, got True"),
        (dict(levels=2), ValueError, "levels must be a tuple"),
        (dict(rest="no"), TypeError, "rest must be True or False, got 'no'"),
        (dict(split_guidance="no"), TypeError, "split_guidance must be True or False, got 'no'"),
        (dict(isolate_phrases=0), TypeError, "isolate_phrases must be True or False, got 0"),
        (dict(return_dict=None), TypeError, "return_dict must be True or False, got None"),
        (dict(latents="x.pt"), TypeError, "latents must be a floating tensor or None, got 'x.pt'"),
        (dict(latents=torch.zeros(3, 4, 8, 9).cfloat()), TypeError, "latents must be .* torch.complex64"),
        (dict(latents=torch.zeros(3, 4, 8, 9, device="meta")), ValueError, "latents must have values"),
    ],
)
def test_mistakes(
    parts: dict, monkeypatch: pytest.MonkeyPatch, changes: dict, error: type[Exception], message: str
) -> None:
    """Every mistake is reported before the UNet or the VAE runs."""
    pipeline = make_pipeline(parts)
    for name in ("unet", "vae"):
        monkeypatch.setattr(type(getattr(pipeline, name)), "forward" if name == "unet" else "encode", None)
    with pytest.raises(error, match=message):
        edit(pipeline, **changes)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (dict(levels=2), ValueError, "levels must be a tuple"),
        (dict(backend="cuda"), ValueError, "backend must be one of"),
        (dict(callback_on_step_end="f"), TypeError, "callback_on_step_end must be a function or None, got 'f'"),
        (dict(clip_skip=-1), ValueError, "clip_skip must be an int from 0, got -1"),
    ],
)
def test_mistakes_of_an_inversion(
    parts: dict, monkeypatch: pytest.MonkeyPatch, changes: dict, error: type[Exception], message: str
) -> None:
    """Every mistake is reported before the UNet or the VAE runs."""
    pipeline = make_pipeline(parts)
    for name in ("unet", "vae"):
        monkeypatch.setattr(type(getattr(pipeline, name)), "forward" if name == "unet" else "encode", None)
    with pytest.raises(error, match=message):
        pipeline.invert(clip(), **changes)


def test_a_backend_that_cannot_run_is_reported_before_the_inversion(
    parts: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = make_pipeline({name: copy.deepcopy(part) for name, part in parts.items()})
    monkeypatch.setattr(type(pipeline.unet), "forward", None)
    with monkeypatch.context() as patch:
        patch.setattr("fame_accel.bindings.triton_unavailable", lambda device, dtype: "no such thing here")
        with pytest.raises(RuntimeError, match="backend='triton' cannot run here: no such thing here"):
            edit(pipeline, backend="triton")
    pipeline.to(torch.float64)
    with pytest.raises(ValueError, match="backend must be 'reference' for a UNet in float64, got 'auto'"):
        edit(pipeline)


def test_mistakes_with_a_controlnet(parts: dict) -> None:
    pipeline = make_pipeline(parts, controlnet=True)
    with pytest.raises(ValueError, match="control_frames must be given"):
        edit(pipeline, control_frames=None)
    with pytest.raises(ValueError, match="control_frames must be like frames, 3 of 64 x 72, got 2 of 64 x 72"):
        edit(pipeline, control_frames=clip()[:2])


def test_a_spacing_without_an_inverse_is_replaced(parts: dict, caplog: pytest.LogCaptureFixture) -> None:
    wanted = edit(make_pipeline(parts))
    scheduler = diffusers.DDIMScheduler.from_config(parts["scheduler"].config, timestep_spacing="linspace")
    pipeline = make_pipeline(parts, scheduler=scheduler)
    [line] = [line for line in caplog.messages if "linspace" in line]
    assert line.startswith("DDIMScheduler with timestep_spacing linspace is replaced") and "spacing leading" in line
    torch.testing.assert_close(edit(pipeline), wanted)

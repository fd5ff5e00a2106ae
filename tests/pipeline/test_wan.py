"""The edit with Wan: FlowEdit by its formula, FAME in the velocity of the target, text through UMT5, refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import pytest
import tiny_wan
import torch
from torch import Tensor

from fame_accel import FameWanVideoEditPipeline, Modulation
from fame_accel.core.parity import error
from fame_accel.fairness import Debias
from fame_accel.pipeline.flow import flow_scheduler, flow_steps

FRAMES, HEIGHT, WIDTH = 5, 32, 32
PROMPT, SOURCE = "a female doctor in a car", "a man in a car"
REGIONS = {"person": "female doctor", "rest": "car"}


@pytest.fixture(scope="module")
def frames() -> Tensor:
    return torch.rand(FRAMES, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def masks() -> dict[str, Tensor]:
    person = torch.zeros(FRAMES, HEIGHT, WIDTH, dtype=torch.bool)
    person[:, :, :16] = True
    return {"person": person, "rest": ~person}


def _pipeline(**more: Any) -> FameWanVideoEditPipeline:
    pipeline = FameWanVideoEditPipeline(**tiny_wan.parts() | more)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def pipeline() -> FameWanVideoEditPipeline:
    return _pipeline()


def _edit(pipeline: Any, frames: Tensor, masks: dict[str, Tensor], **more: Any) -> Tensor:
    settings: dict[str, Any] = {
        "prompt": PROMPT, "masks": masks, "regions": REGIONS, "source_prompt": SOURCE, "num_inference_steps": 6,
        "strength": 0.67, "output_type": "latent", "generator": torch.Generator().manual_seed(1),
    }  # fmt: skip
    return pipeline(frames, **settings | more).frames


def test_without_modulation_it_is_flowedit(pipeline: Any, frames: Tensor, masks: dict[str, Tensor]):
    got = _edit(pipeline, frames, masks, modulated_steps=0, isolate_phrases=False, negative_prompt="a photo")

    def encode(prompt: str) -> Tensor:
        ids = pipeline.tokenizer(prompt, return_tensors="pt")
        hidden = pipeline.text_encoder(**ids).last_hidden_state
        return torch.cat([hidden, torch.zeros(1, 512 - hidden.shape[1], hidden.shape[2])], 1)

    def velocity(x: Tensor, t: Tensor, prompt: str, guidance: float) -> Tensor:
        with_prompt, without = (
            pipeline.transformer(x, t[None], encode(text), return_dict=False)[0] for text in (prompt, "a photo")
        )
        return without + guidance * (with_prompt - without)

    with torch.no_grad():
        video = (frames * 2 - 1).transpose(0, 1)[None]
        x = (pipeline.vae.encode(video).latent_dist.mean - 0.1) / 1.5
        shifted = torch.linspace(1, 1 / 1000, 1000)  # what the scheduler is made of: sigmas of training, shifted by 3
        sigmas = torch.linspace(float(_shift(shifted[0])), float(_shift(shifted[-1])), 6)
        sigmas = torch.cat([_shift(sigmas), torch.zeros(1)])
        generator, z = torch.Generator().manual_seed(1), x
        for sigma, following in zip(sigmas[2:-1], sigmas[3:], strict=True):  # the last 4 of 6 steps
            noise = torch.randn(x.shape, generator=generator)
            noised = (1 - sigma) * x + sigma * noise
            target = velocity(z + noised - x, 1000 * sigma, PROMPT, 7.5)
            z = z + (following - sigma) * (target - velocity(noised, 1000 * sigma, SOURCE, 3.5))
    assert got.shape == x.shape and error(got, x)[0] > 1e-2
    assert error(got, z)[0] < 1e-4


def _shift(sigma: Tensor) -> Tensor:
    return 3 * sigma / (1 + 2 * sigma)


def test_a_clip_whose_prompts_agree_stays_as_it_is(pipeline: Any, frames: Tensor, masks: dict[str, Tensor]):
    same = {"prompt": SOURCE, "regions": {"person": "man"}, "isolate_phrases": False, "source_guidance_scale": 7.5}
    plain = _edit(pipeline, frames, masks, **same, modulated_steps=0)
    with torch.no_grad():
        assert torch.equal(plain, pipeline._encode(frames))
    assert error(_edit(pipeline, frames, masks, **same, power=0.0, self_factor=1.0), plain)[0] > 1e-4


def test_fused_and_eager_edits_agree(pipeline: Any, frames: Tensor, masks: dict[str, Tensor]):
    strong = {"power": 0.0, "self_factor": 1.0, "modulated_steps": 4}
    plain = _edit(pipeline, frames, masks, modulated_steps=0)
    fused, eager = (_edit(pipeline, frames, masks, **strong, backend=backend) for backend in ("sdpa", "reference"))
    assert error(fused, plain)[0] > 1e-2 and error(fused, eager)[0] < 1e-4
    assert torch.equal(_edit(pipeline, frames, masks, **strong, backend="sdpa"), fused)


def test_modulated_steps_are_the_first_of_those_taken(pipeline: Any, frames: Tensor, masks: dict[str, Tensor]):
    seen: list[Tensor] = []

    def keep(_: Any, step: int, timestep: Tensor, tensors: dict[str, Tensor]) -> None:
        seen.append(tensors["latents"])

    results = []
    for modulated_steps in (0, 1, 2, 4):
        seen.clear()
        strong = {"power": 0.0, "self_factor": 1.0, "modulated_steps": modulated_steps}
        _edit(pipeline, frames, masks, **strong, callback_on_step_end=keep)
        results.append(list(seen))
    plain, one, two, four = results
    assert len(plain) == 4
    assert error(one[0], plain[0])[0] > 1e-4 and torch.equal(two[0], one[0]) and torch.equal(four[0], one[0])
    assert error(two[1], one[1])[0] > 1e-4 and torch.equal(four[1], two[1])
    assert error(four[2], two[2])[0] > 1e-4


def test_an_edit_goes_on_after_some_of_its_steps(pipeline: Any, frames: Tensor, masks: dict[str, Tensor]):
    generator, states = torch.Generator().manual_seed(1), []

    def keep(_: Any, step: int, timestep: Tensor, tensors: dict[str, Tensor]) -> None:
        states.append((tensors["latents"], generator.get_state()))

    whole = _edit(pipeline, frames, masks, generator=generator, callback_on_step_end=keep, modulated_steps=3)
    latents, state = states[1]
    generator.set_state(state)
    rest = _edit(pipeline, frames, masks, generator=generator, latents=latents, first_step=2, modulated_steps=3)
    assert torch.equal(rest, whole)


def test_output_types_and_interruption(pipeline: Any, frames: Tensor, masks: dict[str, Tensor]):
    pictures = _edit(pipeline, frames, masks, output_type="pt")
    assert pictures.shape == (FRAMES, 3, HEIGHT, WIDTH) and 0 <= pictures.min() <= pictures.max() <= 1
    assert len(_edit(pipeline, frames, masks, output_type="pil")) == FRAMES

    def stop(pipe: Any, step: int, timestep: Tensor, tensors: dict[str, Tensor]) -> None:
        pipe._interrupt = True

    one = _edit(pipeline, frames, masks, callback_on_step_end=stop)
    with torch.no_grad():
        assert error(one, pipeline._encode(frames))[0] > 1e-4


class TestText:
    def test_phrases_and_padding(self, pipeline: Any):
        text = pipeline._encode_text(PROMPT, phrases=REGIONS, names=["person", "rest"])
        assert text.prompt_embeds.shape == (1, 512, 16) and (text.prompt_embeds[:, 7:] == 0).all()
        # a, female, doctor, in, a, car, </s>
        assert text.token_regions[:8].tolist() == [0, 1, 1, 0, 0, 2, 0, 0] and len(text.token_regions) == 512
        assert text.token_weights is None and text.injections == ()

    def test_debiasing_is_injected_in_umt5(self, pipeline: Any, frames: Tensor, masks: dict[str, Tensor]):
        plain = pipeline._encode_text("a doctor in a car")
        moved = pipeline._encode_text("a doctor in a car", debias=[Debias("doctor", toward="female")])
        [injection] = moved.injections
        assert injection.share == 0.5 and injection.after["female"] > injection.after["male"]
        assert error(moved.prompt_embeds, plain.prompt_embeds)[0] > 1e-2
        assert moved.token_weights.shape == (512,) and (moved.token_weights[6:] == 1).all()
        edits = [
            _edit(pipeline, frames, masks, debias=debias, modulated_steps=4, power=0.0)
            for debias in ((), [Debias("doctor", toward="male")])
        ]
        assert error(*edits)[0] > 1e-3

    def test_eta_of_zero_changes_nothing(self, pipeline: Any):
        plain, same = (
            pipeline._encode_text("a doctor", debias=debias).prompt_embeds
            for debias in ((), [Debias("doctor", toward="female", eta=0.0)])
        )
        assert torch.equal(plain, same)


class TestVariants:
    def test_a_second_transformer_takes_the_late_steps(self, frames: Tensor, masks: dict[str, Tensor]):
        torch.manual_seed(5)
        second = tiny_wan.transformer()
        pipeline = _pipeline(transformer_2=second, boundary_ratio=0.7)
        calls: list[tuple[str, float]] = []
        for name, model in (("first", pipeline.transformer), ("second", second)):
            model.register_forward_pre_hook(
                lambda _, args, kwargs, name=name: calls.append((name, float(kwargs["timestep"]))), with_kwargs=True
            )
        _edit(pipeline, frames, masks)
        assert {name for name, timestep in calls if timestep >= 700} == {"first"}
        assert {name for name, timestep in calls if timestep < 700} == {"second"}

    def test_a_timestep_for_each_token(self, frames: Tensor, masks: dict[str, Tensor], pipeline: Any):
        """Wan 2.2 TI2V is told them; with the same for all, the velocity is that of one timestep."""
        got = _edit(_pipeline(expand_timesteps=True), frames, masks)
        assert error(got, _edit(pipeline, frames, masks))[0] < 1e-4

    def test_a_folder_with_a_multistep_scheduler(self, tmp_path: Path, frames: Tensor, masks: dict[str, Tensor]):
        tiny_wan.save_folder(tmp_path / "wan")
        loaded = FameWanVideoEditPipeline.from_pretrained(tmp_path / "wan", local_files_only=True)
        loaded.set_progress_bar_config(disable=True)
        assert type(loaded.scheduler) is diffusers.FlowMatchEulerDiscreteScheduler
        assert loaded.scheduler.config.shift == 3.0
        assert torch.equal(_edit(loaded, frames, masks), _edit(_pipeline(), frames, masks))


def test_flow_steps():
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    whole = flow_steps(scheduler, 50, 1.0, torch.device("cpu"))
    part = flow_steps(scheduler, 50, 0.66, torch.device("cpu"))
    assert (len(whole), len(part), len(flow_steps(scheduler, 50, 0.001, torch.device("cpu")))) == (50, 33, 1)
    assert torch.equal(part.timesteps, whole.timesteps[17:]) and torch.equal(part.sigmas, whole.sigmas[17:])
    assert part.sigmas[-1] == 0
    with pytest.raises(ValueError, match="scheduler must be of flow matching.* got DDIMScheduler"):
        flow_scheduler(diffusers.DDIMScheduler())


class TestRefusals:
    @pytest.mark.parametrize(
        ("more", "kind", "message"),
        [
            ({"strength": 0.0}, ValueError, r"strength must be a number in \(0, 1\], got 0.0"),
            ({"strength": True}, ValueError, "strength must be a number in"),
            ({"source_guidance_scale": -1}, ValueError, "source_guidance_scale must be a finite number >= 0"),
            ({"guidance_scale": float("inf")}, ValueError, "guidance_scale must be a finite number"),
            ({"num_inference_steps": 0}, ValueError, "num_inference_steps must be an int from 1"),
            ({"modulated_steps": 5}, ValueError, "modulated_steps must be an int from 0 to 4"),
            ({"first_step": 2}, ValueError, "latents must be given with first_step=2"),
            ({"latents": torch.zeros(1), "first_step": 1}, ValueError, "latents must have shape"),
            ({"generator": [torch.Generator()]}, TypeError, "generator must be a torch.Generator or None, got list"),
            ({"regions": {"person": "nurse"}}, ValueError, "'nurse' does not occur in the prompt"),
            ({"prompt": "a " * 600}, ValueError, "at most 512"),
            ({"modulation": Modulation.fame(5)}, ValueError, r"self_modulation must have tables .* \(2, 2\)"),
            ({"output_type": "gif"}, ValueError, "output_type must be one of"),
            ({"num_videos_per_prompt": 2}, TypeError, "an edit gives one clip"),
            ({"control_frames": None}, TypeError, "takes no argument 'control_frames'"),
        ],
    )
    def test_arguments(
        self, pipeline: Any, frames: Tensor, masks: dict[str, Tensor], more: dict, kind: type[Exception], message: str
    ):
        with pytest.raises(kind, match=message):
            _edit(pipeline, frames, masks, **{"regions": {}} | more)

    @pytest.mark.parametrize(
        ("shape", "message"),
        [
            ((8, 3, 32, 32), r"frames must be 1 \+ a multiple of 4, got 8: take 5 or 9"),
            ((5, 3, 24, 32), "multiples of 16, got 24 x 32"),
        ],
    )
    def test_sizes(self, pipeline: Any, masks: dict[str, Tensor], shape: tuple[int, ...], message: str):
        with pytest.raises(ValueError, match=message):
            _edit(pipeline, torch.rand(shape), masks)

    def test_other_models(self):
        image = tiny_wan.transformer(image_dim=8, added_kv_proj_dim=24)
        with pytest.raises(ValueError, match="transformer must make videos from text, with 4 channels in, got 4"):
            _pipeline(transformer=image)
        with pytest.raises(ValueError, match="with 4 channels in, got 8"):
            _pipeline(transformer=tiny_wan.transformer(in_channels=8))
        vace = diffusers.WanVACETransformer3DModel(
            patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4,
            text_dim=16, freq_dim=16, ffn_dim=16, num_layers=1, rope_max_seq_len=32, vace_layers=[0],
            vace_in_channels=8,
        )  # fmt: skip
        with pytest.raises(ValueError, match="got WanVACETransformer3DModel: .* under apply_fame"):
            _pipeline(transformer=vace)
        with pytest.raises(ValueError, match="boundary_ratio must be given with transformer_2"):
            _pipeline(boundary_ratio=0.5)

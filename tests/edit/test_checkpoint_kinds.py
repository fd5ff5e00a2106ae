"""Models that are not Stable Diffusion are refused by name, from their configs, by the command and by the pipelines."""

from __future__ import annotations

import copy
import json
import os
import shutil
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from clips import make_pipeline
from edit_inputs import flags, refusal
from tiny_xl import components, make

from fame_accel.cli import main
from fame_accel.demo.pipeline import random_controlnet, random_pipeline
from fame_accel.edit.checkpoint import find_checkpoint
from fame_accel.edit.loading import load_pipeline
from fame_accel.pipeline import FameVideoEditPipeline
from fame_accel.pipeline.supported import check_config


@pytest.fixture
def model(home: Path, tmp_path: Path) -> Path:
    """A copy of the checkpoint whose files can be replaced."""
    shutil.copytree(home / "model", tmp_path / "model", copy_function=os.link)
    return tmp_path / "model"


@pytest.fixture(scope="module")
def parts() -> dict[str, Any]:
    return random_pipeline().components


def change(file: Path, **changed: Any) -> None:
    """Change fields of a config, or leave out those changed to ...; the original, which the file links to, stays."""
    config = json.loads(file.read_text()) | changed
    file.unlink()
    file.write_text(json.dumps({name: value for name, value in config.items() if value is not ...}))


OTHERS = {
    "unet": [
        dict(out_channels=8), dict(in_channels=9), dict(center_input_sample=True), dict(class_embed_type="timestep"),
        dict(num_class_embeds=10), dict(addition_embed_type="image"), dict(addition_embed_type="text_time"),
        dict(time_cond_proj_dim=256), dict(encoder_hid_dim_type="text_proj"), dict(encoder_hid_dim=64),
        dict(dual_cross_attention=True), dict(attention_type="gated"), dict(only_cross_attention=True),
        dict(time_embedding_type="fourier"), dict(mid_block_type="UNetMidBlock2D"), dict(cross_attention_dim=48),
        dict(down_block_types=["SimpleCrossAttnDownBlock2D"] * 4), dict(up_block_types=["UpBlockFlat"] * 4),
        dict(resnet_time_scale_shift="scale_shift"), dict(a_field_of_another_model=1),
        dict(quantization_config={"quant_method": "bitsandbytes"}), dict(_class_name="UNetMotionModel"),
        dict(_class_name="FluxTransformer2DModel"),
    ],
    "vae": [
        dict(latents_mean=[0.0] * 4), dict(latents_std=[1.0] * 4), dict(shift_factor=0.1), dict(latent_channels=16),
        dict(in_channels=4), dict(out_channels=4), dict(_class_name="AutoencoderKLWan"), dict(_class_name="VQModel"),
    ],
    "scheduler": [
        dict(prediction_type="flow_prediction"), dict(prediction_type="sample"), dict(variance_type="learned_range"),
        dict(variance_type="learned"), dict(rescale_betas_zero_snr=True), dict(use_flow_sigmas=True),
        dict(timestep_type="continuous"), dict(sigma_min=0.002), dict(sigma_max=80.0), dict(sigma_data=0.5),
        dict(shift=3.0), dict(use_dynamic_shifting=True), dict(beta_schedule="sigmoid"),
        dict(_class_name="FlowMatchEulerDiscreteScheduler"), dict(_class_name="EDMEulerScheduler"),
    ],
}  # fmt: skip
CASES = [(part, config) for part, configs in OTHERS.items() for config in configs]


@pytest.mark.parametrize(("part", "changed"), CASES, ids=[f"{part}-{config}" for part, config in CASES])
def test_other_models_are_refused(home, model, part, changed):
    name = "scheduler_config.json" if part == "scheduler" else "config.json"
    change(model / part / name, **changed)
    [(field, value)] = changed.items()
    with pytest.raises(ValueError, match=f"^--model .*: {part}") as error:
        find_checkpoint(model)
    named = value if field == "_class_name" else field
    assert str(named) in str(error.value) and "\n" not in str(error.value)


def test_the_command_refuses_them_in_one_line(home, model, capsys):
    change(model / "vae/config.json", latents_mean=[0.0] * 4)
    line = refusal(home, capsys, model=model)
    assert "vae: latents_mean must be null, got [0.0, 0.0, 0.0, 0.0]: other models than Stable Diffusion" in line


def test_a_controlnet_of_another_kind(home, tmp_path, capsys):
    shutil.copytree(home / "controlnet", tmp_path / "network", copy_function=os.link)
    change(tmp_path / "network/config.json", global_pool_conditions=True)
    line = refusal(home, capsys, controlnet=tmp_path / "network", control="canny")
    assert "global_pool_conditions must be false, got true" in line


def test_a_controlnet_for_another_model(home, tmp_path, capsys):
    shutil.copytree(home / "controlnet", tmp_path / "network", copy_function=os.link)
    change(tmp_path / "network/config.json", cross_attention_dim=2048)
    line = refusal(home, capsys, controlnet=tmp_path / "network", control="canny")
    assert "cross_attention_dim must be 64, as in the UNet of" in line and "got 2048" in line


@pytest.mark.parametrize(
    "changed",
    [
        dict(_class_name="AnimateDiffPipeline"), dict(_class_name="WanImageToVideoPipeline"),
        dict(_class_name=["own.py", "Own"]),
        dict(_class_name="StableVideoDiffusionPipeline"), dict(_class_name="StableDiffusion3Pipeline"),
        dict(_class_name=...), dict(motion_adapter=["diffusers", "MotionAdapter"]), dict(transformer=["own", "X"]),
        dict(unet=["diffusers", "UNetMotionModel"]), dict(unet=["own", "UNet2DConditionModel"]),
        dict(vae=["diffusers", "AutoencoderTiny"]), dict(text_encoder=["transformers", "T5EncoderModel"]),
        dict(tokenizer=["transformers", "AutoTokenizer"]), dict(scheduler=["scheduling_own", "DDIMScheduler"]),
        dict(scheduler=["diffusers", "EDMEulerScheduler"]), dict(unet=["diffusers", ["UNet2DConditionModel"]]),
    ],
)  # fmt: skip
def test_the_classes_are_a_list_of_ours(home, model, changed, capsys):
    change(model / "model_index.json", **changed)
    [(name, value)] = changed.items()
    line = refusal(home, capsys, model=model)
    assert (
        "must be a Stable Diffusion 1, 2 or XL, or a text-to-video Wan, got a " in line
        or f"must give {name} as " in line
    )
    assert value is ... or str(value if name == "_class_name" else name) in line


def test_what_else_a_folder_may_hold(model):
    for name in ("safety_checker", "image_encoder", "controlnet"):
        change(model / "model_index.json", **{name: ["somewhere", "Else"]})
    change(model / "unet/config.json", decay=0.9999, optimization_step=1, power=0.75, _name_or_path="x")  # of training
    change(model / "scheduler/scheduler_config.json", _class_name="PNDMScheduler", skip_prk_steps=True)
    assert find_checkpoint(model).kind == "StableDiffusionPipeline"


def test_a_controlnet_in_the_folder_is_not_used_unsaid(home, model, capsys):
    change(model / "model_index.json", controlnet=["diffusers", "ControlNetModel"])
    load_pipeline(find_checkpoint(model), [], torch.float32)
    assert f"without --controlnet {model / 'controlnet'}, it is not used" in capsys.readouterr().err


def test_values_of_another_type_end_in_one_line(home, model, capsys):
    for file, changed in {
        "unet/config.json": dict(down_block_types=5),
        "text_encoder/config.json": dict(hidden_size="wide"),
        "vae/config.json": dict(latents_mean={"a": 1}),
    }.items():
        copied = model / file
        before = copied.read_text()
        change(copied, **changed)
        refusal(home, capsys, model=model)
        copied.write_text(before)


def test_a_tokenizer_with_more_entries_than_the_text_encoder(home, model, capsys):
    change(model / "text_encoder/config.json", vocab_size=49000)
    line = refusal(home, capsys, model=model)
    assert f"{model / 'tokenizer'} must have at most the 49000 entries of text_encoder's embeddings, got 49408" in line


# ---- in Python


def test_pipelines_refuse_them(parts):
    """The same function checks what a pipeline is constructed with."""
    unet, vae = (copy.deepcopy(parts[name]) for name in ("unet", "vae"))
    unet.register_to_config(time_cond_proj_dim=256)
    vae.register_to_config(shift_factor=0.1)
    schedulers = [
        diffusers.FlowMatchEulerDiscreteScheduler(), diffusers.EDMEulerScheduler(),
        diffusers.DDPMScheduler(variance_type="learned_range"), diffusers.DDIMScheduler(rescale_betas_zero_snr=True),
        diffusers.EulerDiscreteScheduler(timestep_type="continuous", prediction_type="v_prediction"),
    ]  # fmt: skip
    for changed in (dict(unet=unet), dict(vae=vae), *(dict(scheduler=one) for one in schedulers)):
        with pytest.raises(ValueError, match=f"^{next(iter(changed))}.*other models than Stable Diffusion 1, 2 and XL"):
            make_pipeline(parts, **changed)
    pipeline = make_pipeline(parts)
    pipeline.scheduler = schedulers[0]  # later
    with pytest.raises(ValueError, match="scheduler .* got a FlowMatchEulerDiscreteScheduler"):
        pipeline.invert(torch.zeros(2, 3, 64, 64))


def test_pipelines_refuse_parts_that_do_not_fit(parts):
    xl = components()
    with pytest.raises(
        ValueError, match="unet: addition_embed_type must be null in Stable Diffusion 1 or 2, got text_time"
    ):
        make_pipeline(parts, unet=xl["unet"])
    with pytest.raises(
        ValueError, match="unet: addition_embed_type must be text_time in Stable Diffusion XL, got null"
    ):
        make(xl | {"unet": parts["unet"]})
    with pytest.raises(ValueError, match="controlnet: addition_embed_type must be null"):
        FameVideoEditPipeline(
            **{name: parts[name] for name in ("vae", "text_encoder", "tokenizer", "unet", "scheduler")},
            controlnet=random_controlnet(xl["unet"]),
        )


def test_trained_betas_and_v_prediction_are_kept(parts):
    betas = torch.linspace(0.001, 0.01, 1000).tolist()
    euler = diffusers.EulerDiscreteScheduler(trained_betas=betas, prediction_type="v_prediction", steps_offset=1)
    pipeline = make_pipeline(parts, scheduler=euler)
    assert type(pipeline.scheduler) is diffusers.DDIMScheduler and pipeline.scheduler.config.trained_betas == betas
    assert pipeline.scheduler.config.prediction_type == "v_prediction"
    assert pipeline.scheduler.config.timestep_spacing == "leading"  # Euler's default is linspace
    zero = diffusers.DDIMScheduler(
        rescale_betas_zero_snr=True, prediction_type="v_prediction", timestep_spacing="linspace"
    )
    assert make_pipeline(parts, scheduler=zero).scheduler.config.timestep_spacing == "trailing"


def test_published_configs_are_accepted():
    """The schedulers of Stable Diffusion 1.5, XL and its turbo, with the fields that older versions left in them."""
    noise = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", num_train_timesteps=1000)
    older = dict(set_alpha_to_one=False, skip_prk_steps=True, steps_offset=1, trained_betas=None, clip_sample=False)
    check_config("scheduler", noise | older, "PNDMScheduler")
    more = dict(interpolation_type="linear", sample_max_value=1.0, timestep_spacing="leading", use_karras_sigmas=False)
    check_config("scheduler", {**noise, **older, **more, "prediction_type": "epsilon"}, "EulerDiscreteScheduler")
    turbo = dict(timestep_spacing="trailing", sigma_min=None, sigma_max=None, timestep_type="discrete")
    check_config("scheduler", {**noise, **older, **turbo}, "EulerAncestralDiscreteScheduler")
    vae = dict(latents_mean=None, latents_std=None, shift_factor=None, scaling_factor=0.13025, force_upcast=True)
    check_config("vae", vae, "AutoencoderKL")


@pytest.mark.slow
def test_several_controlnets(home, tmp_path, capsys):
    """Paired in order with what conditions them; recorded as a list."""
    video = home / "clip.mp4"
    given = dict(controlnet=[home / "controlnet"] * 2, control=["canny", video], steps=1)
    out = tmp_path / "two.mp4"
    assert main(["edit", *flags(home, out, **given)]) == 0
    record = json.loads((tmp_path / "two_run.json").read_text())
    assert len(record["options"]["controlnet"]) == 2 and record["options"]["control"][0] == "canny"
    assert len(record["checkpoint"]["controlnet"]) == 2
    assert main(["edit", "--config", str(tmp_path / "two_run.json"), "--out", str(tmp_path / "again.mp4")]) == 0
    assert "the edited frames are those of the recorded run" in capsys.readouterr().out
    line = refusal(home, capsys, controlnet=[home / "controlnet"] * 2, control="canny")
    assert "--controlnet and --control must be given equally often, in the same order, got 2 and 1" in line

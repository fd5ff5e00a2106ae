"""Checkpoints in one file: the same networks and the same edit as from a folder, and what is refused."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler
from edit_inputs import flags, refusal
from ldm import single_file
from safetensors.torch import load_file, save_file
from tiny_xl import components, make

from fame_accel.cli import main
from fame_accel.edit import single_file as reader
from fame_accel.edit.checkpoint import find_checkpoint
from fame_accel.edit.loading import load_pipeline, load_tokenizers


@pytest.fixture(params=[False, True], ids=["SD", "XL"])
def xl(request: pytest.FixtureRequest) -> bool:
    return request.param


@pytest.fixture
def folder(home: Path, tmp_path: Path, xl: bool) -> Path:
    if not xl:
        return home / "model"
    make(components()).save_pretrained(tmp_path / "xl")
    return tmp_path / "xl"


@pytest.fixture
def file(folder: Path, tmp_path: Path, xl: bool, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder's checkpoint as one file; the configs that the package has are replaced by its tiny ones."""
    extra = {"model_ema.decay": torch.ones(1), "alphas_cumprod": torch.ones(3)}
    tiny = single_file(folder, tmp_path / "model.safetensors", **extra)
    kind = "StableDiffusionXLPipeline" if xl else "StableDiffusionPipeline"
    real = reader._data()
    monkeypatch.setattr(reader, "_data", lambda: {**real, kind: tiny, "common": {"scheduler": _scheduler(folder)}})
    return tmp_path / "model.safetensors"


def _scheduler(folder: Path) -> dict[str, Any]:
    config = json.loads((folder / "scheduler/scheduler_config.json").read_text())
    known = inspect.signature(DDIMScheduler).parameters
    return {"clip_sample": False} | {name: value for name, value in config.items() if name in known}


def test_the_networks_are_those_of_the_folder(folder: Path, file: Path, xl: bool, capsys: Any):
    wanted = load_pipeline(find_checkpoint(folder), [], torch.float32)
    checkpoint = find_checkpoint(file)
    assert "2 tensors belong to no network and are left: alphas_cumprod, model_ema.decay" in capsys.readouterr().out
    got = load_pipeline(checkpoint, [], torch.float32)
    assert type(got) is type(wanted) and checkpoint.xl == xl
    assert set(checkpoint.identity()["files"]) == {"model.safetensors"}
    for name in ("unet", "vae", "text_encoder", *(["text_encoder_2"] if xl else [])):
        tensors, others = (getattr(pipeline, name).state_dict() for pipeline in (got, wanted))
        assert tensors.keys() == others.keys()
        assert all(torch.equal(tensor, others[key]) for key, tensor in tensors.items())
        assert not getattr(got, name).training
    assert [type(tokenizer).__name__ for tokenizer in load_tokenizers(checkpoint)] == ["CLIPTokenizer"] * (1 + xl)
    if xl:
        assert got.tokenizer_2.pad_token == "!" and got.tokenizer.pad_token != "!"


@pytest.mark.slow
def test_the_edit_is_that_of_the_folder(folder: Path, file: Path, home: Path, tmp_path: Path):
    hashes = []
    for model in (folder, file):
        out = tmp_path / f"{model.stem}_edited.mp4"
        assert main(["edit", *flags(home, out, model=model)]) == 0
        hashes.append(json.loads(out.with_name(f"{out.stem}_run.json").read_text()))
    assert hashes[0]["frames_sha256"] == hashes[1]["frames_sha256"]
    assert set(hashes[1]["checkpoint"]["model"]["files"]) == {"model.safetensors"}


@pytest.mark.parametrize("xl", [False], indirect=True)
@pytest.mark.slow
def test_missing_unexpected_and_misshapen_tensors_are_named(file: Path, home: Path, capsys: Any, xl: bool):
    tensors = load_file(file)
    for change, message in (
        ({"model.diffusion_model.out.2.bias": None}, "missing: conv_out.bias"),
        ({"model.diffusion_model.extra.weight": torch.ones(2)}, "unexpected: model.diffusion_model.extra.weight"),
        ({"first_stage_model.extra.weight": torch.ones(2)}, "unexpected: first_stage_model.extra.weight"),
        ({"cond_stage_model.transformer.text_model.extra": torch.ones(2)}, "unexpected: "),
        ({"other.weight": torch.ones(2)}, "unexpected: other.weight"),
        ({"model.diffusion_model.out.2.bias": torch.ones(7)}, "of another shape: conv_out.bias [7] for [4]"),
    ):
        changed = {name: tensor for name, tensor in (tensors | change).items() if tensor is not None}
        save_file(changed, file)
        line = refusal(home, capsys, model=file)
        assert message in line and str(file) in line


def _header(file: Path, **shapes: tuple[int, ...]) -> Path:
    save_file({name: torch.zeros(shape) for name, shape in shapes.items()}, file)
    return file


_UNET = {"model.diffusion_model.input_blocks.0.0.weight": (8, 4, 3, 3)}
_TEXT = {"cond_stage_model.transformer.text_model.x": (1,)}


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"lora_unet_down.lora_up.weight": (1,)}, "got a LoRA: load it into a checkpoint folder"),
        ({"unet.down_blocks.0.lora_A.weight": (1,)}, "got a LoRA"),
        ({"control_model.input_blocks.0.0.weight": (1,)}, "got a ControlNet"),
        ({"model.diffusion_model.joint_blocks.0.x": (1,)}, "got a Stable Diffusion 3"),
        ({"double_blocks.0.img_attn.qkv.weight": (1,)}, "got a Flux or HunyuanVideo"),
        ({"blocks.0.self_attn.q.weight": (1,)}, "got a Wan"),
        ({"down_blocks.0.resnets.0.conv1.weight": (1,)}, "got a UNet in diffusers' format"),
        ({"encoder.conv_in.weight": (1,)}, "got a VAE alone"),
        ({"something": (1,)}, "got neither"),
        (_UNET | {"cond_stage_model.model.ln_final.weight": (1,)}, "got a Stable Diffusion 2, whose kind"),
        (_UNET | {"conditioner.embedders.0.model.ln_final.weight": (1,)}, "got the refiner of XL"),
        (_UNET | {"conditioner.embedders.1.model.x": (1,), "v_pred": (1,)}, "got a model of v-prediction"),
        ({"model.diffusion_model.input_blocks.0.0.weight": (8, 9, 3, 3)} | _TEXT, "a UNet of 9 input channels"),
        (_UNET, "got one without a text encoder"),
    ],
)
def test_other_files_are_refused_by_name(
    home: Path, tmp_path: Path, capsys: Any, tensors: dict[str, tuple[int, ...]], message: str
):
    file = _header(tmp_path / "model.safetensors", **tensors)
    assert message in refusal(home, capsys, model=file)


def test_damaged_and_pickled_files_are_refused(home: Path, tmp_path: Path, capsys: Any):
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"\x10" + bytes(7) + b"no header at all")
    assert "is not a complete safetensors file" in refusal(home, capsys, model=file)
    file.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    assert "is a pointer of git-lfs" in refusal(home, capsys, model=file)
    pickled = tmp_path / "model.ckpt"
    pickled.write_bytes(b"\x80\x04")
    assert "got a pickled file, which could run code" in refusal(home, capsys, model=pickled)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["StableDiffusionPipeline", "StableDiffusionXLPipeline"])
def test_the_packaged_configs_are_those_of_the_models(kind: str):
    """Numbers of parameters, which the models' authors give: 860 and 2567 million in the UNet, 84 in the VAE."""
    import diffusers
    import transformers

    xl = "XL" in kind
    with torch.device("meta"):
        unet = diffusers.UNet2DConditionModel(**reader.component_config(kind, "unet"))
        vae = diffusers.AutoencoderKL(**reader.component_config(kind, "vae"))
        text = transformers.CLIPTextModel(transformers.CLIPTextConfig(**reader.component_config(kind, "text_encoder")))
    counts = [sum(parameter.numel() for parameter in model.parameters()) for model in (unet, vae, text)]
    assert counts == [2_567_463_684 if xl else 859_520_964, 83_653_863, 123_060_480]
    if xl:
        with torch.device("meta"):
            config = transformers.CLIPTextConfig(**reader.component_config(kind, "text_encoder_2"))
            second = transformers.CLIPTextModelWithProjection(config)
        assert sum(parameter.numel() for parameter in second.parameters()) == 694_659_840

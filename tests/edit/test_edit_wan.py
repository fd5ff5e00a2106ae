"""`fame-accel edit` with a tiny random Wan in a folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import edit_inputs
import pytest
import tiny_wan
import torch
from safetensors.torch import load_file, save_file

from fame_accel import FameWanVideoEditPipeline
from fame_accel.cli import main
from fame_accel.edit.checkpoint import find_checkpoint
from fame_accel.edit.loading import load_pipeline, load_tokenizers
from fame_accel.media.video import read_video


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("wan")
    edit_inputs.make_inputs(home)
    (home / "model").rename(home / "stable_diffusion")
    tiny_wan.save_folder(home / "model")
    return home


def _flags(home: Path, out: Path, **changed: Any) -> list[str]:
    wan = {"frames": 5, "stride": 1, "steps": 3, "modulated_steps": None, "region": ["man=female doctor"]}
    return edit_inputs.flags(home, out, **wan | changed)


def _refusal(home: Path, capsys: Any, **changed: Any) -> str:
    capsys.readouterr()
    assert main(["edit", *_flags(home, home / "refused.mp4", **changed)]) == 2
    line = capsys.readouterr().err
    assert line.startswith("fame-accel: ") and line.count("\n") == 1, line
    return line


def test_an_edit_its_record_and_its_replay(home: Path, tmp_path: Path, capsys: Any):
    out = tmp_path / "edited.mp4"
    assert main(["edit", *_flags(home, out, debias="doctor=female", source_guidance=2)]) == 0
    printed = capsys.readouterr().out
    assert "'doctor' moved toward 'female'" in printed and "editing" in printed
    video = read_video(out)
    assert video.frames.shape == (5, edit_inputs.SIZE, edit_inputs.SIZE, 3)
    record = json.loads((tmp_path / "edited_run.json").read_text())
    assert record["checkpoint"]["model"]["class"] == "WanPipeline"
    files = record["checkpoint"]["model"]["files"]
    assert set(files) == {
        f"{name}.safetensors"
        for name in (
            "transformer/diffusion_pytorch_model", "vae/diffusion_pytorch_model", "text_encoder/model"
        )
    }  # fmt: skip
    assert record["scheduler"]["shift"] == 3.0 and record["options"]["source_guidance"] == 2
    assert "inverting" not in record["seconds"]
    again = tmp_path / "again.mp4"
    assert main(["edit", "--config", str(tmp_path / "edited_run.json"), "--out", str(again)]) == 0
    assert "the edited frames are those of the recorded run" in capsys.readouterr().out
    assert again.read_bytes() == out.read_bytes()


@pytest.mark.slow
def test_options_change_the_edit(home: Path, tmp_path: Path):
    frames = {}
    changes = {"": {}, "guidance": {"guidance": 3}, "source_guidance": {"source_guidance": 1}, "seed": {"seed": 1}}
    changes |= {"strength": {"strength": 1}, "modulation": {"modulation": "region-mask", "modulated_steps": 2}}
    changes |= {"negative": {"negative_prompt": "a photo"}}
    for name, change in changes.items():
        out = tmp_path / f"edited{name}.mp4"
        assert main(["edit", *_flags(home, out, **change)]) == 0
        frames[name] = json.loads((tmp_path / f"edited{name}_run.json").read_text())["frames_sha256"]
    assert len(set(frames.values())) == len(frames)


@pytest.mark.slow
def test_an_interrupted_edit_goes_on(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any):
    from fame_accel.edit.steps import SavedSteps

    whole, out = tmp_path / "whole.mp4", tmp_path / "edited.mp4"
    assert main(["edit", *_flags(home, whole)]) == 0
    save = SavedSteps.after_editing

    def stop(self: SavedSteps, pipeline: Any, step: int, *rest: Any) -> Any:
        save(self, pipeline, step, *rest)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(SavedSteps, "after_editing", stop)
        assert main(["edit", *_flags(home, out)]) == 130
    assert "--resume" in capsys.readouterr().err
    assert main(["edit", *_flags(home, out), "--resume"]) == 0
    assert "1 of editing" in capsys.readouterr().out
    assert out.read_bytes() == whole.read_bytes()


def test_a_preview_names_the_tokens(home: Path, tmp_path: Path):
    from fame_accel.edit.options import EditOptions
    from fame_accel.edit.preview import region_line

    assert main(["edit", *_flags(home, tmp_path / "edited.mp4"), "--preview"]) == 0
    assert (tmp_path / "edited_preview.png").exists() and not (tmp_path / "edited.mp4").exists()
    [tokenizer] = load_tokenizers(find_checkpoint(home / "model"))
    options = EditOptions(
        str(home / "model"), "clip.mp4", "a female doctor in a car", "out.mp4", masks="masks",
        region={"man": "female doctor"},
    )  # fmt: skip
    assert region_line("man", options, tokenizer) == 'man: "female doctor" = female, doctor'


def test_the_own_aspect_of_the_video_is_in_multiples_of_16(home: Path, tmp_path: Path, capsys: Any):
    assert main(["edit", *_flags(home, tmp_path / "edited.mp4", size=None, width=80), "--preview"]) == 0
    assert "resized to 80x80" in capsys.readouterr().out


def test_the_vae_stays_in_float32(home: Path):
    pipeline = load_pipeline(find_checkpoint(home / "model"), [], torch.bfloat16)
    assert isinstance(pipeline, FameWanVideoEditPipeline)
    assert (pipeline.vae.dtype, pipeline.transformer.dtype) == (torch.float32, torch.bfloat16)
    assert pipeline.tokenizer.model_max_length == 512


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"frames": 4}, "--frames must be 1 + a multiple of 4 for this checkpoint, got 4: take 1 or 5"),
        ({"size": 72}, "--size must be positive multiples of 16, got 72x72"),
        ({"size": None, "width": 72}, "--width must be a multiple of 16 for this checkpoint, got 72"),
        ({"latents": "latents.safetensors"}, "--latents is for a checkpoint of Stable Diffusion"),
        ({"ddim_eta": 0.5}, "--ddim-eta is for a checkpoint of Stable Diffusion"),
        ({"split_guidance": True}, "--split-guidance is for a checkpoint of Stable Diffusion"),
        ({"chunk_size": 2}, "--chunk-size is for a checkpoint of Stable Diffusion"),
        ({"controlnet": "net", "control": "canny"}, "--controlnet is for a checkpoint of Stable Diffusion"),
        ({"strength": 0}, "--strength must lie in 0.001 to 1, got 0"),
        ({"region": ["man=nurse"]}, "--region man=nurse: 'nurse' does not occur in the prompt"),
    ],
)
def test_what_does_not_fit_costs_one_line(home: Path, capsys: Any, changed: dict[str, Any], message: str):
    assert message in _refusal(home, capsys, **changed)


def test_options_of_wan_are_refused_with_stable_diffusion(home: Path, capsys: Any):
    for name, value in (("strength", 0.5), ("source_guidance", 2)):
        line = _refusal(home, capsys, model=home / "stable_diffusion", **{name: value})
        assert f"--{name.replace('_', '-')} is for a checkpoint of Wan: leave it out" in line


class TestFolders:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        return tiny_wan.save_folder(tmp_path / "model")

    def _line(self, home: Path, folder: Path, capsys: Any) -> str:
        return _refusal(home, capsys, model=folder)

    def test_missing_and_renamed_weights(self, home: Path, folder: Path, capsys: Any):
        file = folder / "text_encoder" / "model.safetensors"
        tensors = load_file(file)
        name = next(name for name in tensors if "SelfAttention.q" in name)
        tensors["renamed"] = tensors.pop(name)
        save_file(tensors, file, metadata={"format": "pt"})
        line = self._line(home, folder, capsys)
        assert "text_encoder" in line and "missing" in line and "unexpected: renamed" in line

    @pytest.mark.parametrize(
        ("part", "entry", "message"),
        [
            ("text_encoder", ["transformers", "T5EncoderModel"], "must give text_encoder as transformers.UMT5Encoder"),
            ("vae", ["diffusers", "AutoencoderKL"], "must give vae as diffusers.AutoencoderKLWan"),
            ("scheduler", ["evil", "Code"], "must give scheduler as diffusers.FlowMatchEulerDiscreteScheduler"),
            ("tokenizer", None, "must give tokenizer as transformers.T5TokenizerFast"),
        ],
    )
    def test_classes(self, home: Path, folder: Path, capsys: Any, part: str, entry: Any, message: str):
        index = json.loads((folder / "model_index.json").read_text())
        index[part] = entry
        (folder / "model_index.json").write_text(json.dumps(index))
        assert message in self._line(home, folder, capsys)

    def test_models_that_take_an_image(self, home: Path, folder: Path, capsys: Any):
        file = folder / "transformer" / "config.json"
        config = json.loads(file.read_text())
        file.write_text(json.dumps(config | {"in_channels": 9}))
        assert "must hold a Wan that makes videos from text" in self._line(home, folder, capsys)

    def test_a_tokenizer_without_vocabulary(self, home: Path, folder: Path, capsys: Any):
        (folder / "tokenizer" / "tokenizer.json").unlink()
        assert "holds no vocabulary, tokenizer.json" in self._line(home, folder, capsys)


def test_suite_refuses_it(home: Path, tmp_path: Path, capsys: Any):
    arguments = ["suite", "--model", home / "model", "--video", home / "clip.mp4", "--out", tmp_path / "suite"]
    arguments += ["--masks", home / "masks.npz"]
    assert main([str(argument) for argument in arguments]) == 2
    assert "suite does not edit with Wan" in capsys.readouterr().err

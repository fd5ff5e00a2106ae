"""The planner's figures of a whole edit: networks are counted as they are, and the flags lower what they say."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from planned import allocated

from fame_accel.cli import main
from fame_accel.demo.pipeline import random_pipeline
from fame_accel.pipeline import FameVideoEditPipeline
from fame_accel.tools.planner import footprint as module
from fame_accel.tools.planner.estimate import Setting
from fame_accel.tools.planner.footprint import Footprint, measure, read_footprint
from fame_accel.tools.planner.network import FAMILIES, read_network
from fame_accel.tools.planner.regions import EqualRegions
from fame_accel.tools.planner.whole import WholeEdit

# Of the published checkpoints, what FAMILIES leaves out.
VAE = dict(
    block_out_channels=[128, 256, 512, 512], down_block_types=["DownEncoderBlock2D"] * 4,
    up_block_types=["UpDecoderBlock2D"] * 4, layers_per_block=2, latent_channels=4,
)  # fmt: skip
LARGE = dict(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12, projection_dim=768)
HUGE = dict(hidden_size=1024, intermediate_size=4096, num_hidden_layers=23, num_attention_heads=16, projection_dim=512)
GIANT = dict(
    hidden_size=1280, intermediate_size=5120, num_hidden_layers=32, num_attention_heads=20, projection_dim=1280
)
XL = dict(
    cross_attention_dim=2048, use_linear_projection=True, addition_embed_type="text_time", addition_time_embed_dim=256,
    projection_class_embeddings_input_dim=2816,
)  # fmt: skip
CONFIGS: dict[str, dict[str, Any]] = {
    "sd15": dict(unet=dict(cross_attention_dim=768), vae=VAE, text_encoder=LARGE),
    "sd21": dict(unet=dict(cross_attention_dim=1024, use_linear_projection=True), vae=VAE, text_encoder=HUGE),
    "sdxl": dict(unet=XL, vae=VAE | dict(force_upcast=True), text_encoder=LARGE, text_encoder_2=GIANT),
}
FLAGS = ("--split-guidance", "--chunk-size 1", "--offload")


def sd15(**changed: Any) -> WholeEdit:
    return WholeEdit(Setting(read_network("sd15"), EqualRegions(2), **changed), read_footprint("sd15"))


@pytest.mark.parametrize(
    "name", ["sd21", pytest.param("sd15", marks=pytest.mark.slow), pytest.param("sdxl", marks=pytest.mark.slow)]
)
def test_named_footprints_are_those_measured(name: str):
    configs = CONFIGS[name] | {"unet": FAMILIES[name] | CONFIGS[name]["unet"]}
    configs["vae"] = {"force_upcast": False} | configs["vae"]
    assert asdict(measure(configs)) == asdict(read_footprint(name))


def test_parameters_are_those_published():
    assert read_footprint("sd15").parameters == {"unet": 859_520_964, "vae": 83_653_863, "text_encoder": 123_060_480}
    assert read_footprint("sdxl").parameters["unet"] == 2_567_463_684


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.slow
def test_an_edit_allocates_what_is_planned(tmp_path: Path, split: bool):
    """Of the toy checkpoint on a CPU, whose convolutions allocate about a MiB besides."""
    pipeline = FameVideoEditPipeline.from_pipe(random_pipeline())
    pipeline.set_progress_bar_config(disable=True)
    pipeline.save_pretrained(tmp_path)
    frames = torch.randint(256, (3, 128, 128, 3), dtype=torch.uint8)
    masks = {"person": torch.zeros(3, 128, 128, dtype=torch.bool)}
    masks["person"][:, :, :64] = True
    latents = torch.randn(3, 4, 16, 16)

    def edit() -> None:
        pipeline(frames, "a doctor", masks, {"person": "doctor"}, latents=latents, num_inference_steps=1,
                 modulated_steps=1, split_guidance=split, chunk_size=1, backend="sdpa", output_type="pt")  # fmt: skip

    edit()
    setting = Setting(read_network(tmp_path), EqualRegions(2), 3, (128, 128), "float32", "fame", True, "sdpa")
    planned = WholeEdit(setting, read_footprint(tmp_path), split, chunk_size=1)
    weights = sum(planned.footprint.parameters.values()) * 4
    assert planned.peak_bytes() - weights == pytest.approx(allocated(edit), rel=0.3)


def test_each_saving_lowers_the_peak_and_is_offered_once():
    edit = sd15(frames=40)
    savings = edit.savings()
    assert list(savings) == [*FLAGS, " ".join(FLAGS), "--size 256x256", "--frames 20"]
    for words in ("--split-guidance", "--offload", "--size 256x256", "--frames 20"):
        assert savings[words].peak_bytes() < edit.peak_bytes(), words
    assert savings[" ".join(FLAGS)].peak_bytes() < min(savings[flag].peak_bytes() for flag in FLAGS)
    assert savings["--chunk-size 1"].peak_bytes() <= edit.peak_bytes()
    rest = savings[" ".join(FLAGS)].savings()
    assert list(rest) == ["--size 256x256", "--frames 20"]
    assert "--split-guidance" not in sd15(guidance=False).savings()


def test_a_smaller_size_is_told_as_the_flag_takes_it():
    assert "--size 512x256" in sd15(size=(512, 1024)).savings()


def test_most_frames_is_the_edge():
    memory = 8 * 2**30
    frames = sd15().most_frames(memory)
    assert frames > 1
    assert sd15(frames=frames).peak_bytes() <= memory < sd15(frames=frames + 1).peak_bytes()
    assert sd15().most_frames(2**20) == 0


def test_weights_of_another_dtype_and_an_upcast_vae():
    weights = sum(read_footprint("sd15").parameters.values())
    assert sd15(frames=1, size=(8, 8)).peak_bytes() == pytest.approx(2 * weights, rel=0.01)
    assert sd15(frames=1, size=(8, 8), dtype="float32").peak_bytes() == pytest.approx(4 * weights, rel=0.01)
    footprint = replace(read_footprint("sd15"), upcast=True)
    upcast = WholeEdit(sd15(frames=1, size=(8, 8)).setting, footprint)
    assert upcast.peak_bytes() == pytest.approx(2 * weights + 2 * footprint.parameters["vae"], rel=0.01)


def plan(capsys: pytest.CaptureFixture, *arguments: object) -> tuple[int, str, str]:
    status = main(["plan", *map(str, arguments)])
    printed = capsys.readouterr()
    return status, printed.out, printed.err


UNITS = {"24": 24, "24GiB": 24, "24 gib": 24, "24GB": 24e9 / 2**30, "512MiB": 0.5, "500MB": 5e8 / 2**30, "1TiB": 1024}


@pytest.mark.parametrize("memory, gib", UNITS.items())
def test_units_of_memory(capsys: pytest.CaptureFixture, memory: str, gib: float):
    status, out, err = plan(capsys, "--memory", memory, "--frames", 2, "--json")
    assert status == 0, err
    report = json.loads(out)
    assert report["memory_gib"] == pytest.approx(gib)
    whole = report["whole_edit"][0]
    assert whole["change"] == "as given" and whole["fits"] == (whole["peak_bytes"] <= gib * 2**30)


def test_the_memory_of_the_card_is_taken(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("fame_accel.cli.plan.card_memory", lambda: 10.0, raising=False)
    monkeypatch.setattr("fame_accel.tools.planner.report.card_memory", lambda: 10.0)
    assert json.loads(plan(capsys, "--json")[1])["memory_gib"] == 10
    assert json.loads(plan(capsys, "--json", "--memory", 5)[1])["memory_gib"] == 5


def test_the_text_says_what_fits(capsys: pytest.CaptureFixture):
    _, out, _ = plan(capsys, "--memory", "3GiB")
    [given] = [line for line in out.splitlines() if line.startswith("as given")]
    assert given.split()[4] == "NO" and int(given.split()[5]) == sd15().most_frames(3 * 2**30)
    assert all(any(line.startswith(flag + " ") for line in out.splitlines()) for flag in FLAGS)


def test_attention_alone_of_any_model(capsys: pytest.CaptureFixture):
    given = ("--heads", 8, 4, "--head-dim", 40, "--layers", 2, "--frames", 3, "--json")
    status, out, err = plan(capsys, "--tokens", "16x24", "8x12", *given)
    assert status == 0, err
    report = json.loads(out)
    rows = [(row["level"], row["tokens"], row["heads"], row["head_dim"], row["layers"]) for row in report["rows"][:-1]]
    assert rows == [("16x24", 1152, 8, 40, 2), ("8x12", 288, 4, 40, 2)] and report["whole_edit"] is None


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("--memory", "24 apples"), "--memory must be a size such as 24GB or 23.5GiB, got '24 apples'"),
        (("--memory", "0GB"), "--memory must lie in"),
        (("--memory", "1e999GB"), "--memory must lie in"),
        (("--memory", "1e-e-GB"), "--memory must be a size"),
        (("--heads", 8), "--heads needs --tokens"),
        (("--layers", 8), "--layers needs --tokens"),
        (("--tokens", "8x8"), "--tokens needs --heads and --head-dim"),
        (("--tokens", "0x8", "--heads", 1, "--head-dim", 8), "--tokens must be at least 1x1"),
        (("--tokens", "8x8", "--heads", 1, 2, "--head-dim", 8), "--heads must be one number, or one for each of the 1"),
        (("--tokens", "8x8", "--heads", 1, "--head-dim", 300), "--head-dim must lie in 1 to 256"),
        (("--tokens", "8x8", "--heads", 1, "--head-dim", 8, "--model", "sd15"), "in place of --model"),
        (("--tokens", "8x8", "--heads", 1, "--head-dim", 8, "--size", 64), "in place of --model"),
    ],
)
def test_mistakes_end_in_one_line(capsys: pytest.CaptureFixture, arguments: tuple, message: str):
    status, out, err = plan(capsys, *arguments)
    assert status == 2 and out == "" and err.count("\n") == 1 and message in err


def test_a_folder_without_diffusers_is_planned_for_attention_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "config.json").write_text(json.dumps(FAMILIES["sd15"]))
    monkeypatch.setattr(module, "require", lambda *_: (_ for _ in ()).throw(ImportError()))
    status, out, _ = plan(capsys, "--model", tmp_path)
    assert status == 0 and "Not counted: weights" in out and "whole edit" not in out


def test_configs_that_do_not_fit_end_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture):
    for name, config in {
        "unet": FAMILIES["sd15"],
        "vae": VAE | dict(layers_per_block="two"),
        "text_encoder": {},
    }.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(config))
    status, _, err = plan(capsys, "--model", tmp_path)
    assert status == 2 and err.count("\n") == 1 and "--model: its configs do not fit together" in err


@pytest.mark.parametrize("text", ["[" * 100_000, "[1]", "{"])
def test_a_config_that_is_no_object_ends_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture, text: str):
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "config.json").write_text(text)
    status, _, err = plan(capsys, "--model", tmp_path)
    assert status == 2 and err.count("\n") == 1 and "config.json" in err


def test_a_footprint_is_that_of_its_levels():
    footprint = read_footprint("sd15")
    assert isinstance(footprint, Footprint)
    assert [footprint.beside(level) for level in read_network("sd15")] == list(footprint.at_attention.values())

"""`fame-accel edit` on a checkpoint with random weights: what it writes, that it repeats, and each of its errors."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from edit_inputs import FRAMES, SIZE, flags
from PIL import Image
from tiny_xl import components, make

from fame_accel.cli import main
from fame_accel.core.presets import MODULATIONS
from fame_accel.edit import run
from fame_accel.edit.checkpoint import find_checkpoint, find_controlnet
from fame_accel.edit.options import EditOptions
from fame_accel.edit.record import KEYS
from fame_accel.media.clip import load_clip
from fame_accel.media.edges import canny_edges
from fame_accel.media.frames import fit_frames
from fame_accel.media.video import read_video
from fame_accel.media.writing import write_video

NETWORKS = {
    "unet/diffusion_pytorch_model.safetensors", "vae/diffusion_pytorch_model.safetensors",
    "text_encoder/model.safetensors",
}  # fmt: skip


def edit(home: Path, out: Path, **changed: Any) -> bytes:
    """The bytes of the edited video."""
    assert main(["edit", *flags(home, out, **changed)]) == 0
    return out.read_bytes()


@pytest.fixture(scope="module")
def first(home: Path) -> Path:
    """An edit of everything: its video, among the files beside it."""
    out = home / "first.mp4"
    edit(
        home, out, debias="doctor=auto", controlnet=home / "controlnet", control="canny", negative_prompt="blurry",
        ddim_eta=0.5,
    )  # fmt: skip
    return out


def record(out: Path) -> dict[str, Any]:
    return json.loads(out.with_name(f"{out.stem}_run.json").read_text())


# ---- what it writes


def test_the_files_of_an_edit(home, first):
    written = sorted(file.name for file in home.glob("first*"))
    assert written == ["first.mp4", "first_run.json", "first_sheet.png", "first_side_by_side.mp4"]
    video, source = read_video(first), load_clip(6, 128)
    assert video.frames.shape == (FRAMES, SIZE, SIZE, 3) and video.fps == pytest.approx(2.5)
    assert video.frames.float().std() > 5
    beside = read_video(home / "first_side_by_side.mp4")
    assert len(beside.frames) == FRAMES and beside.source_size[1] == 8 + 2 * (192 + 8)
    left = beside.frames[:, -8 - 192 : -8, 8:200]
    shown = fit_frames(source[::3][:FRAMES], (SIZE, SIZE)).repeat_interleave(3, 1).repeat_interleave(3, 2)
    assert (left.float() - shown.float()).abs().mean() < 8
    with Image.open(home / "first_sheet.png") as sheet:
        assert sheet.height > 3 * 256


def test_the_record_of_an_edit(home, first):
    result = record(first)
    assert set(result) == set(KEYS)
    [injection] = result["injections"]
    assert injection["subject"] == "doctor" and 0 <= injection["share"] <= 0.3 * 0.5  # at most that, times eta
    before = injection["before"]
    assert set(before) == {"male", "female"} and injection["toward"] == min(before, key=before.get)  # what auto chose
    options = result["options"]
    assert set(options) == set(EditOptions.__dataclass_fields__)
    assert (options["model"], options["control"], options["out"]) == ("model", "canny", "first.mp4")
    assert result["scheduler"]["_class_name"] == "DDIMScheduler" and result["folder"] == str(home)
    assert (options["backend"], options["dtype"], options["device"]) == ("sdpa", "float32", "cpu")
    assert options["region"] == {"man": "female doctor", "car": "car"} and options["size"] == [SIZE, SIZE]
    assert set(result["checkpoint"]["model"]["files"]) == NETWORKS
    assert result["checkpoint"]["controlnet"]["class"] == "ControlNetModel"
    weights = result["checkpoint"]["model"]["files"]["text_encoder/model.safetensors"]
    assert weights["bytes"] == (home / "model/text_encoder/model.safetensors").stat().st_size
    assert len(weights["sha256"]) == 64
    assert result["outputs"] == [f"first{end}" for end in (".mp4", "_side_by_side.mp4", "_sheet.png", "_run.json")]
    assert list(result["seconds"]) == ["reading", "loading", "inverting", "editing", "writing"]
    assert result["threads"] == torch.get_num_threads() and len(result["frames_sha256"]) == 64
    assert result["versions"]["torch"] == torch.__version__


def test_the_record_repeats_the_edit(home, first, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the record's paths hold anywhere
    assert main(["edit", "--config", str(home / "first_run.json"), "--out", "again.mp4"]) == 0
    printed = capsys.readouterr()
    assert "unlike the recorded run" not in printed.err
    assert "the edited frames are those of the recorded run" in printed.out
    for end in (".mp4", "_side_by_side.mp4", "_sheet.png"):
        assert (home / f"first{end}").read_bytes() == (tmp_path / f"again{end}").read_bytes()
    again, before = record(tmp_path / "again.mp4"), record(first)
    paths = {name: again["options"].pop(name) for name in ("model", "controlnet", "video", "masks", "out")}
    assert paths.pop("out") == "again.mp4" and again["options"].items() <= before["options"].items()
    assert all((tmp_path / path).samefile(home / before["options"][name]) for name, path in paths.items())
    assert again["inputs"] == before["inputs"] and again["checkpoint"] == before["checkpoint"]


def test_flags_override_the_record(home, first, tmp_path):
    config = ["edit", "--config", str(home / "first_run.json"), "--out", str(tmp_path / "a.mp4")]
    assert (
        main([*config, "--seed", "1", "--auto-person-mask", "--region", "person=doctor", "--region", "background=car"])
        == 0
    )
    options = record(tmp_path / "a.mp4")["options"]
    assert options["seed"] == 1 and options["auto_person_mask"] and options["masks"] is None
    assert options["region"] == {"person": "doctor", "background": "car"}
    assert (tmp_path / "a.mp4").read_bytes() != first.read_bytes()
    assert options["debias"] == {"doctor": "auto"}  # as recorded


@pytest.mark.slow
def test_each_part_changes_the_edit(home, tmp_path):
    plain = edit(home, tmp_path / "plain.mp4")
    assert plain == edit(home, tmp_path / "same.mp4", seed=7)  # without fresh noise there is nothing to draw
    controlled = dict(controlnet=home / "controlnet", control="canny")
    results = {
        "guidance": edit(home, tmp_path / "a.mp4", guidance=2.0),
        "source prompt": edit(home, tmp_path / "b.mp4", source_prompt="a dog"),
        "negative prompt": edit(home, tmp_path / "c.mp4", negative_prompt="a dog"),
        "noise": edit(home, tmp_path / "d.mp4", ddim_eta=1.0),
        "seed": edit(home, tmp_path / "e.mp4", ddim_eta=1.0, seed=1),
        "debias": edit(home, tmp_path / "f.mp4", debias="doctor=female", eta=1.0),
        "control": edit(home, tmp_path / "g.mp4", **controlled),
        "regions": edit(home, tmp_path / "h.mp4", region=["man=car", "car=female doctor"]),
        "one region": edit(home, tmp_path / "i.mp4", region="man=female doctor"),
        "modulation": edit(home, tmp_path / "j.mp4", modulation="region-mask"),
        "decay": edit(home, tmp_path / "k.mp4", decay=2.0),
        "key frames": edit(home, tmp_path / "l.mp4", modulation="first-frame"),
    }
    assert len({plain, *results.values()}) == 1 + len(results)


def test_what_the_command_tells(home, tmp_path, capsys):
    """Shares of the regions, and what a debiasing came to, without opening a file."""
    edit(home, tmp_path / "a.mp4", region="man=doctor", debias="doctor=female")
    printed = capsys.readouterr().out.splitlines()
    assert printed.pop(0) == "2 of 6 frames, stride 3: 0.00 to 0.80 s"
    assert printed.pop(0) == "128x128 at 7.5 fps, resized to 64x64 (width x height)"
    assert printed[0] == "regions, as shares of all pixels: car 54% (no phrase), man 46%"
    assert printed[1].startswith("'doctor' moved toward 'female' by 0.500 of the difference between the groups; its ")


@pytest.mark.slow
def test_other_steps_keep_the_share_that_is_modulated(home, tmp_path, monkeypatch):
    seen = []

    def painted(pipeline: Any, options: EditOptions, inputs: Any, *_: Any) -> Any:
        seen.append((options.steps, options.modulated_steps))
        frames = inputs.video.frames.permute(0, 3, 1, 2).float() / 255
        return SimpleNamespace(frames=frames, injections=())

    monkeypatch.setattr(run, "_edit", painted)
    edit(home, tmp_path / "a.mp4", steps=50, modulated_steps=None)
    assert record(tmp_path / "a.mp4")["options"]["modulated_steps"] is None
    assert main(["edit", "--config", str(tmp_path / "a_run.json"), "--steps", "10"]) == 0
    assert seen == [(50, None), (10, None)]


@pytest.mark.slow
def test_ready_conditioning_frames(home, tmp_path):
    """The edges that canny would find, given as a folder, lead to the same edit."""
    source = read_video(home / "clip.mp4", size=(SIZE, SIZE)).frames
    (tmp_path / "video").mkdir()
    (tmp_path / "control").mkdir()
    for index, (frame, edges) in enumerate(zip(source, canny_edges(source), strict=True)):
        Image.fromarray(frame.numpy()).save(tmp_path / "video" / f"{index}.png")
        Image.fromarray(edges.numpy()).save(tmp_path / "control" / f"{index}.png")
    np.savez(tmp_path / "m.npz", man=np.eye(SIZE, dtype=bool), car=~np.eye(SIZE, dtype=bool))
    given = dict(video=tmp_path / "video", masks=tmp_path / "m.npz", controlnet=home / "controlnet")
    ready = edit(home, tmp_path / "a.mp4", **given, control=tmp_path / "control")
    assert ready == edit(home, tmp_path / "b.mp4", **given, control="canny")


def test_conditioning_frames_have_the_size_of_the_video(home, tmp_path, capsys, monkeypatch):
    write_video(tmp_path / "small.mp4", load_clip(6, 64), 8)
    given = dict(controlnet=home / "controlnet", control=tmp_path / "small.mp4")
    message = "--control .*small.mp4 must have the video's frame size, 128x128, got 64x64"
    expect_error(["edit", *flags(home, tmp_path / "a.mp4", **given)], message, capsys, monkeypatch)


@pytest.mark.slow
def test_the_bar_ends_full(home, tmp_path, capsys):
    edit(home, tmp_path / "a.mp4", steps=3)
    line = capsys.readouterr().err.replace("\r", "\n").strip().splitlines()[-1]
    assert line.startswith("editing: 100%") and f"{FRAMES * (3 * 3 + 1)}/{FRAMES * (3 * 3 + 1)}" in line
    edit(home, tmp_path / "a.mp4", guidance=1.0)
    line = capsys.readouterr().err.replace("\r", "\n").strip().splitlines()[-1]
    assert line.startswith("editing: 100%") and f"{FRAMES * (2 * 2 + 1)}/" in line


def test_other_weights_are_remarked_on(home, first, tmp_path, capsys):
    assert main(["random-checkpoint", str(tmp_path / "model"), "--seed", "1"]) == 0
    arguments = ["--config", str(home / "first_run.json"), "--model", str(tmp_path / "model")]
    assert main(["edit", *arguments, "--out", str(tmp_path / "a.mp4")]) == 0
    printed = capsys.readouterr()
    different = [line for line in printed.err.splitlines() if line.startswith("fame-accel: unlike the recorded run: ")]
    assert len(different) == 3 and all("sha256" in line and "checkpoint.model.files" in line for line in different)
    assert "the edited frames differ from those of the recorded run" in printed.out


def test_half_precision_on_the_cpu(home, tmp_path):
    edit(home, tmp_path / "a.mp4", dtype="bfloat16")
    assert record(tmp_path / "a.mp4")["options"]["dtype"] == "bfloat16"


# ---- checkpoints


def linked(home: Path, folder: Path, name: str = "model") -> Path:
    """A copy of a checkpoint whose files can be removed and renamed."""
    shutil.copytree(home / name, folder / name, copy_function=os.link)
    return folder / name


def test_a_variant_is_found_and_loaded(home, tmp_path):
    model = linked(home, tmp_path)
    for name in NETWORKS:
        (model / name).rename((model / name).with_suffix(".fp16.safetensors"))
    checkpoint = find_checkpoint(model)
    assert checkpoint.variant == "fp16" and len(checkpoint.files) == 3
    loaded, plain = (
        run.load_pipeline(find, [], torch.float32) for find in (checkpoint, find_checkpoint(home / "model"))
    )
    for mine, theirs in zip(loaded.unet.parameters(), plain.unet.parameters(), strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.slow
def test_stable_diffusion_xl(home, tmp_path):
    parts = components()
    make(parts).save_pretrained(tmp_path / "xl")
    result = find_checkpoint(tmp_path / "xl")
    assert result.xl and {file.parent.name for file in result.files} == {
        "unet",
        "vae",
        "text_encoder",
        "text_encoder_2",
    }
    given = dict(model=tmp_path / "xl", prompt="Wow!!! a female doctor in a car")  # "!" pads in the second tokenizer
    plain = edit(home, tmp_path / "a.mp4", **given)
    assert plain != edit(home, tmp_path / "b.mp4", **given, debias="doctor=female", eta=1.0)
    shutil.rmtree(tmp_path / "xl/tokenizer_2")
    assert main(["edit", *flags(home, tmp_path / "c.mp4", model=tmp_path / "xl")]) == 2


def test_plain_weights_come_before_variants(home, tmp_path):
    model = linked(home, tmp_path)
    for variant in ("fp16", "non_ema"):
        os.link(
            model / "unet/diffusion_pytorch_model.safetensors",
            model / f"unet/diffusion_pytorch_model.{variant}.safetensors",
        )
    assert find_checkpoint(model).variant is None
    assert {file.relative_to(model).as_posix() for file in find_checkpoint(model).files} == NETWORKS


def _pickled(model: Path) -> None:
    (model / "unet/diffusion_pytorch_model.safetensors").rename(model / "unet/diffusion_pytorch_model.bin")


def _cut(model: Path) -> None:
    file = model / "vae/diffusion_pytorch_model.safetensors"
    data = file.read_bytes()
    file.unlink()  # it is a link: writing to it would change the other
    file.write_bytes(data[: len(data) // 2])


def _index(**changed: Any) -> Callable[[Path], None]:
    def change(model: Path) -> None:
        file = model / "model_index.json"
        index = json.loads(file.read_text())
        file.unlink()
        file.write_text(json.dumps({name: value for name, value in {**index, **changed}.items() if value is not None}))

    return change


def _written(name: str, text: str) -> Callable[[Path], None]:
    def write(model: Path) -> None:
        (model / name).unlink()  # a link
        (model / name).write_text(text)

    return write


def _unet_of_nine_channels(model: Path) -> None:
    file = model / "unet/config.json"
    config = json.loads(file.read_text())
    file.unlink()
    file.write_text(json.dumps({**config, "in_channels": 9}))


def _two_variants(model: Path) -> None:
    for name, variant in zip(sorted(NETWORKS), ("fp16", "fp16", "ema"), strict=True):
        (model / name).rename((model / name).with_suffix(f".{variant}.safetensors"))


def _single_file(model: Path) -> None:
    shutil.rmtree(model)
    model.mkdir()
    (model / "sd15.ckpt").touch()


BROKEN = {
    "pickled": (_pickled, r"unet/diffusion_pytorch_model\.bin is pickled .*: safetensors only"),
    "cut": (_cut, r"vae/diffusion_pytorch_model\.safetensors is not a complete safetensors file"),
    "no weights": (lambda model: (model / "text_encoder/model.safetensors").unlink(), "text_encoder holds no weights"),
    "no folder": (lambda model: shutil.rmtree(model / "vae"), "model/vae: no such folder"),
    "no tokenizer": (lambda model: shutil.rmtree(model / "tokenizer"), "model/tokenizer: no such folder"),
    "no vocabulary": (lambda model: (model / "tokenizer/tokenizer.json").unlink(), "tokenizer holds no vocabulary"),
    "tokenizer": (_written("tokenizer/tokenizer.json", "5"), "model/tokenizer cannot be loaded: 'int' object"),
    # given these, diffusers would look for a scheduler of that name on the network
    "scheduler": (_written("scheduler/scheduler_config.json", '"5"'), "config.json must hold an object, got str"),
    "no scheduler": (lambda model: (model / "scheduler/scheduler_config.json").unlink(), "it has no scheduler_config"),
    "text encoder": (_written("text_encoder/config.json", "[]"), "config.json must hold an object, got list"),
    "vae": (_written("vae/config.json", "{"), "vae/config.json is not JSON"),
    "no index": (lambda model: (model / "model_index.json").unlink(), "it has no model_index.json"),
    "single file": (_single_file, r"it has no model_index.json, and sd15.ckpt is pickled: safetensors only"),
    "bad index": (
        lambda model: (model / "model_index.json").unlink() or (model / "model_index.json").write_text("{"),
        "is not JSON",
    ),
    "bad entry": (_index(unet=5), r"must give unet as \[library, class\], got 5"),
    "another model": (_index(unet=None, _class_name="FluxPipeline"), "got a FluxPipeline without unet"),
    "refiner": (
        _index(text_encoder=[None, None], text_encoder_2=["transformers", "CLIPTextModelWithProjection"]),
        "without text_encoder, tokenizer_2",
    ),
    "three text encoders": (_index(text_encoder_3=["transformers", "T5"]), "must be a Stable Diffusion 1, 2 or XL"),
    "inpainting": (_unet_of_nine_channels, "unet: in_channels must be 4, got 9: other models"),
    "mixed variants": (_two_variants, r"must hold one variant, got \['ema', 'fp16'\]"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_checkpoints(home, tmp_path, capsys, monkeypatch, name):
    breaks, message = BROKEN[name]
    model = linked(home, tmp_path)
    breaks(model)
    expect_error(["edit", *flags(home, tmp_path / "a.mp4", model=model)], message, capsys, monkeypatch)


def test_broken_controlnets(home, tmp_path, capsys, monkeypatch):
    network = linked(home, tmp_path, "controlnet")
    given = dict(controlnet=network, control="canny")
    weights = network / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    arguments = ["edit", *flags(home, tmp_path / "a.mp4", **given)]
    expect_error(arguments, r"--controlnet: .*diffusion_pytorch_model\.bin is pickled", capsys, monkeypatch)
    arguments = ["edit", *flags(home, tmp_path / "a.mp4", **{**given, "controlnet": home / "model/unet"})]
    expect_error(arguments, "must hold a ControlNetModel, got a UNet2DConditionModel", capsys, monkeypatch)
    assert find_controlnet(home / "controlnet").variant is None


# ---- errors: one line, status 2, before any weights are loaded


def expect_error(arguments: list[str], message: str, capsys: Any, monkeypatch: Any) -> None:
    def loads(*_: Any) -> None:
        raise AssertionError("the weights were loaded")

    monkeypatch.setattr(run, "load_pipeline", loads)
    capsys.readouterr()
    assert main(arguments) == 2
    error = capsys.readouterr().err.splitlines()
    assert len(error) == 1 and error[0].startswith("fame-accel: ")
    assert re.search(message, error[0]), error[0]


def _no_person(home: Path) -> Path:
    write_video(home / "grey.mp4", torch.full((6, 64, 64, 3), 128, dtype=torch.uint8), 8)
    return home / "grey.mp4"


def _fast(home: Path) -> Path:
    write_video(home / "fast.mp4", load_clip(6, 128), 1000)
    return home / "fast.mp4"


def _garbage(home: Path) -> Path:
    (home / "garbage.mp4").write_bytes(b"no video" * 100)
    return home / "garbage.mp4"


def _frames(home: Path) -> Path:
    (home / "frames/1").mkdir(parents=True, exist_ok=True)
    return home / "frames"


def _masks(**arrays: np.ndarray) -> Callable[[Path], Path]:
    def write(home: Path) -> Path:
        np.savez(home / "other.npz", **arrays)
        return home / "other.npz"

    return write


WRONG = {
    "no model": (dict(model="nowhere"), "--model nowhere: no such folder"),
    "no controlnet": (dict(controlnet="nowhere", control="canny"), "--controlnet nowhere: no such folder"),
    "control alone": (dict(control="canny"), "--controlnet, .*, and --control, .*, must be given together"),
    "controlnet alone": (dict(controlnet="x"), "--controlnet, .*, and --control, .*, must be given together"),
    "no control": (
        dict(controlnet=lambda home: home / "controlnet", control="nowhere"),
        "--control must be canny or an existing video or folder, got nowhere",
    ),
    "model missing": (dict(model=None), "--model must be given"),
    "prompt missing": (dict(prompt=None, out=None), "--prompt, --out must be given"),
    "no video": (dict(video="nowhere.mp4"), "no such video file or folder: nowhere.mp4"),
    "unreadable video": (dict(video=_garbage), "garbage.mp4 cannot be read as a video"),
    "short video": (dict(frames=3, stride=3), "clip.mp4 has 6 frames, 2 at stride 3: 3 were asked for"),
    "fast video": (dict(video=_fast, fps=3002, stride=3), "--fps must lie in 0.01 to 1000"),
    "no masks": (dict(masks="nowhere"), "no such masks: nowhere"),
    "masks and person": (dict(auto_person_mask=True), "either --masks or --auto-person-mask"),
    "no way to regions": (dict(masks=None), "either --masks or --auto-person-mask"),
    "no person": (dict(masks=None, auto_person_mask=True, video=_no_person), r"no person found in frames \[0, 1\]"),
    "mask size": (dict(masks=_masks(man=np.ones((6, 32, 64), bool))), "'man'.*64x32 pixels: the video has 128x128"),
    "mask count": (dict(masks=_masks(man=np.ones((3, 128, 128), bool))), "'man'.*has 3 frames, 1 at stride 3: 2 were"),
    "empty mask": (dict(masks=_masks(man=np.zeros((6, 128, 128), bool))), "region 'man'.*is empty"),
    "no region": (dict(region=None), "give the phrase of at least one region"),
    "unknown region": (dict(region=["man=doctor", "car=car", "dog=a"]), "no such region; the regions are car, man"),
    "region twice": (dict(region=["man=doctor", "man=car"]), "--region must be given once per name, got 'man' twice"),
    "phrase not in the prompt": (dict(region=["man=nurse", "car=car"]), "--region man=nurse: 'nurse' does not occur"),
    "subject not in the prompt": (dict(debias="nurse=auto"), "--debias nurse=auto: 'nurse' does not occur"),
    "long prompt": (dict(prompt="a female doctor in a car" + " on" * 80), "--prompt: the prompt has 88 tokens"),
    "long source prompt": (dict(source_prompt="car " * 80), "--source-prompt: the prompt has 82 tokens"),
    "empty prompt": (dict(prompt=" "), "--prompt must not be empty"),
    "no out folder": (dict(out="nowhere/a.mp4"), "--out nowhere/a.mp4: there is no folder nowhere"),
    "empty video": (dict(video=""), "--video must not be empty"),
    "empty control": (dict(controlnet="x", control=" "), "--control must not be empty"),
    "out suffix": (dict(out="a.avi"), "--out must end in .mp4, got a.avi"),
    "out over the video": (dict(out=lambda home: home / "clip.mp4"), "would overwrite .*clip.mp4, which is an input"),
    "out among the frames": (dict(video=_frames, out=lambda home: home / "frames/a.mp4"), "frames, which is an input"),
    "out among the masks": (dict(masks=_frames, out=lambda home: home / "frames/1/a.mp4"), "frames, which is"),
    "prompt that is no text": (dict(prompt="a \udcff"), "--prompt: prompt must be valid Unicode"),
    "phrase that is no text": (dict(region="man=\udcff"), "a phrase must be valid Unicode"),
    "backend": (dict(backend="fast"), "--backend must be one of auto, triton, sdpa, reference, got 'fast'"),
    "dtype": (dict(dtype="float64"), "--dtype must be one of float32, float16, bfloat16, got 'float64'"),
    "dtype for the cpu": (dict(dtype="float16"), "--dtype float16 needs a GPU"),
    "device": (dict(device="abacus"), "--device must be cpu, cuda, cuda:N or mps, got abacus"),
    "meta device": (dict(device="meta"), "--device must be cpu, cuda, cuda:N or mps, got meta"),
    "absent device": (dict(device="cuda:99"), r"--device cuda:99: torch .* sees \d+ CUDA devices"),
    "size": (dict(size="60x64"), "--size must be positive multiples of 8, got 60x64"),
    "frames": (dict(frames=0), "--frames must be at least 1, got 0"),
    "many frames": (dict(frames=10**400), "--frames must be at least 1, got 1000"),
    "wide size": (dict(size=f"8x{8 * 10**20}"), r"size must be \(height, width\) in pixels"),
    "long stride": (dict(stride=10**20), "stride must be at most 2147483647, got 1000"),
    "stride": (dict(stride=0), "--stride must be at least 1, got 0"),
    "steps": (dict(steps=0), "--steps must lie in 1 to 1000, got 0"),
    "modulated steps": (dict(modulated_steps=3), "--modulated-steps must lie in 0 to 2, got 3"),
    "guidance": (dict(guidance="nan"), "--guidance must be at least 0 and finite, got nan"),
    "eta alone": (dict(eta=0.5), "--eta is the strength of --debias, which is not given"),
    "modulation": (dict(modulation="hard"), f"--modulation must be one of {', '.join(MODULATIONS)}, got 'hard'"),
    "decay": (dict(decay=-1), "--decay must be at least 0 and finite, got -1"),
    "decay of videograin": (dict(decay=0.1, modulation="videograin"), "must not be given for --modulation videograin"),
    "eta": (dict(eta=1.5, debias="doctor=female"), "--eta must lie in 0 to 1, got 1.5"),
    "ddim eta": (dict(ddim_eta=-1), "--ddim-eta must lie in 0 to 1, got -1"),
    "seed": (dict(seed=-1), "--seed must lie in 0 to"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_mistakes(home, tmp_path, capsys, monkeypatch, name):
    changed, message = WRONG[name]
    changed = {flag: value(home) if callable(value) else value for flag, value in changed.items()}
    expect_error(["edit", *flags(home, tmp_path / "a.mp4", **changed)], message, capsys, monkeypatch)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_to(home, tmp_path, capsys, monkeypatch):
    opened = Path.open

    def refuse(path: Path, mode: str = "r", **options: Any) -> Any:
        if mode == "xb":
            raise PermissionError(13, "Permission denied")
        return opened(path, mode, **options)

    monkeypatch.setattr(Path, "open", refuse)
    message = f"--out {tmp_path}/a.mp4: cannot write to {tmp_path}: Permission denied"
    expect_error(["edit", *flags(home, tmp_path / "a.mp4")], re.escape(message), capsys, monkeypatch)


def test_a_backend_that_cannot_run_is_not_swapped(home, tmp_path, capsys, monkeypatch):
    from fame_accel import bindings

    monkeypatch.setattr(bindings, "triton_unavailable", lambda device, dtype: "no such thing here")
    arguments = ["edit", *flags(home, tmp_path / "a.mp4", backend="triton")]
    expect_error(arguments, "backend='triton' cannot run here: no such thing here", capsys, monkeypatch)


@pytest.mark.parametrize("arguments", [["--region", "man"], ["--region", "=a"], ["--size", "axb"], ["--size", "8x8x8"]])
def test_malformed_flags(arguments, capsys):
    assert main(["edit", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"fame-accel: {arguments[0]} must be ") and error.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{oops", "--config .* cannot be read as JSON"),
        ("[]", '--config .* must hold {"options"'),
        ('{"options": {}, "extra": 1}', "--config .* has unknown keys extra"),
        ('{"options": {"modell": "x"}}', "unknown options modell; known are model"),
        ('{"options": {"frames": "8"}}', "--config: --frames must be int, got '8'"),
        (f'{{"options": {{"guidance": 1{"0" * 400}}}}}', "--guidance must be at least 0 and finite, got 1000"),
        ('{"options": {"frames": true}}', "--config: --frames must be int, got True"),
        ('{"options": {"size": 64.5}}', "--config: --size must be a height and a width, got 64.5"),
        ('{"options": {"region": ["man"]}}', "--region must map names to phrases"),
        ('{"options": {"debias": {"doctor": 1}}}', "--debias must map names to phrases"),
    ],
)
def test_bad_records(home, tmp_path, capsys, monkeypatch, text, message):
    file = tmp_path / "run.json"
    file.write_text(text)
    named = next((name for name in ("frames", "size", "region", "debias") if f'"{name}"' in text), None)
    given = flags(home, tmp_path / "a.mp4", **({named: None} if named else {}))
    expect_error(["edit", "--config", str(file), *given], message, capsys, monkeypatch)


def test_a_missing_record(home, tmp_path, capsys, monkeypatch):
    expect_error(["edit", "--config", "nowhere.json"], "--config nowhere.json cannot be read", capsys, monkeypatch)


def test_a_checkpoint_that_fails_to_load_is_named(home, tmp_path, capsys):
    model = linked(home, tmp_path)
    file = model / "unet/config.json"
    result = json.loads(file.read_text())
    file.unlink()
    file.write_text(json.dumps({**result, "block_out_channels": 5}))
    capsys.readouterr()
    assert main(["edit", *flags(home, tmp_path / "a.mp4", model=model)]) == 2
    assert f"fame-accel: --model: {model / 'unet'} cannot be loaded: " in capsys.readouterr().err


def test_an_interrupt_ends_in_one_line(home, tmp_path, capsys, monkeypatch):
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    for position in ("load_pipeline", "contact_sheet"):  # the second when two files are whole and one is begun
        with monkeypatch.context() as patch:
            patch.setattr(run, position, interrupted)
            capsys.readouterr()
            assert main(["edit", *flags(home, tmp_path / "a.mp4")]) == 130
        line, files = capsys.readouterr().err.splitlines()[-1], sorted(tmp_path.iterdir())
        if position == "load_pipeline":
            assert line == "fame-accel: interrupted" and not files
    assert line == f"fame-accel: interrupted: --resume goes on from {tmp_path}/a_progress.safetensors"
    assert [file.name for file in files] == ["a_progress.safetensors"]


def test_values_that_are_not_finite_are_not_written(home, tmp_path, capsys, monkeypatch):
    load = run.load_pipeline

    def overflowing(*arguments: Any) -> Any:
        pipeline = load(*arguments)
        torch.nn.init.constant_(pipeline.vae.decoder.conv_out.bias, float("nan"))
        return pipeline

    monkeypatch.setattr(run, "load_pipeline", overflowing)
    assert main(["edit", *flags(home, tmp_path / "a.mp4")]) == 2
    assert "what the VAE decoded is infinite or NaN in float32" in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["a_progress.safetensors"]


# ---- random checkpoints


def test_random_checkpoints(home, tmp_path, capsys):
    assert main(["random-checkpoint", str(tmp_path / "a")]) == 0
    same, other = (find_checkpoint(folder).identity() for folder in (home / "model", tmp_path / "a"))
    assert same == other
    for arguments in ([str(home)], [str(tmp_path / "b"), "--controlnet", str(home)], [str(home / "clip.mp4")]):
        assert main(["random-checkpoint", *arguments]) == 2
        assert "is not an empty folder" in capsys.readouterr().err
    assert main(["random-checkpoint", ""]) == 2
    assert "FOLDER must not be empty" in capsys.readouterr().err
    assert main(["random-checkpoint", "/proc/b"]) == 2
    assert "FOLDER /proc/b: cannot write to /proc" in capsys.readouterr().err
    assert main(["random-checkpoint", str(tmp_path / "b"), "--controlnet", str(tmp_path / "b")]) == 2
    assert main(["random-checkpoint", str(tmp_path / "b"), "--seed", "-1"]) == 2
    assert not (tmp_path / "b").exists()

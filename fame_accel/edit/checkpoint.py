"""Checkpoint folders: found whole and in safetensors before anything is loaded, and identified by their bytes."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fame_accel.media.packages import require

NETWORKS = ("unet", "vae", "text_encoder")
LATENT_CHANNELS = 4
PICKLED = (".bin", ".ckpt", ".pt", ".pth")
# model.safetensors, model.fp16.safetensors, model-00001-of-00002.safetensors, ...: a variant and a shard are optional
_WEIGHTS = re.compile(r"(?:diffusion_pytorch_model|model)(?:\.(?P<variant>\w+))?(?:-\d+-of-\d+)?\.safetensors")


@dataclass(frozen=True)
class Checkpoint:
    """kind: the class that the folder says it is of; files: the weights that loading reads; variant: the word in
    their names that from_pretrained must be given, such as "fp16"."""

    folder: Path
    kind: str
    files: tuple[Path, ...]
    variant: str | None

    def identity(self) -> dict[str, Any]:
        """What tells these weights from others: the class and, by file, bytes and sha256."""
        files = {
            file.relative_to(self.folder).as_posix(): dict(bytes=file.stat().st_size, sha256=_sha256(file))
            for file in self.files
        }
        return {"class": self.kind, "files": files}


def find_checkpoint(folder: str | Path) -> Checkpoint:
    """A Stable Diffusion checkpoint in diffusers' layout; ValueError says what is wrong with it."""
    folder = Path(folder)
    index = _config(folder, "model_index.json", "--model", "checkpoint")
    kind = str(index.get("_class_name"))
    if missing := [name for name in (*NETWORKS, "tokenizer", "scheduler") if not index.get(name)]:
        raise ValueError(f"--model {folder} is a {kind} without {', '.join(missing)}: it must be a Stable Diffusion")
    if "text_encoder_2" in index:
        raise ValueError(f"--model {folder} is a {kind}: only Stable Diffusion with one text encoder is supported")
    if (channels := _config(folder / "unet", "config.json", "--model", "UNet").get("in_channels")) != LATENT_CHANNELS:
        raise ValueError(
            f"--model {folder}: its UNet takes {channels} channels, not the {LATENT_CHANNELS} of latents alone: "
            "it is made for inpainting or the like"
        )
    found = [_weights(folder / name, "--model") for name in NETWORKS]
    variants = {variant for _, variant in found if variant}
    if len(variants) > 1:
        raise ValueError(f"--model {folder} mixes the variants {sorted(variants)}: keep one")
    return Checkpoint(folder, kind, tuple(file for files, _ in found for file in files), *(variants or {None}))


def find_controlnet(folder: str | Path) -> Checkpoint:
    """A ControlNet folder of diffusers; ValueError says what is wrong with it."""
    folder = Path(folder)
    kind = str(_config(folder, "config.json", "--controlnet", "ControlNet").get("_class_name"))
    if kind != "ControlNetModel":
        raise ValueError(f"--controlnet {folder} holds a {kind}, not a ControlNetModel")
    return Checkpoint(folder, kind, *_weights(folder, "--controlnet"))


def load_tokenizer(checkpoint: Checkpoint) -> Any:
    """The checkpoint's tokenizer alone, which takes a fraction of a second."""
    folder = checkpoint.folder / "tokenizer"
    if not folder.is_dir():
        raise ValueError(f"--model {checkpoint.folder} has no folder tokenizer")
    return require("transformers", "diffusers").CLIPTokenizer.from_pretrained(folder, local_files_only=True)


def _config(folder: Path, name: str, flag: str, what: str) -> dict[str, Any]:
    if not folder.exists():
        raise ValueError(f"{flag} {folder}: no such folder")
    wanted = f"must be a {what} folder in diffusers' layout"
    if folder.is_file():
        kind = (
            "a pickled file, which could run code: safetensors only; it" if folder.suffix in PICKLED else "a file: it"
        )
        raise ValueError(f"{flag} {folder} is {kind} {wanted}")
    if not (folder / name).is_file():
        pickled = next((file.name for file in sorted(folder.iterdir()) if file.suffix in PICKLED), None)
        note = f", and {pickled} is pickled: safetensors only" if pickled else ""
        raise ValueError(f"{flag} {folder} {wanted}: it has no {name}{note}")
    try:
        found = json.loads((folder / name).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{flag}: {folder / name} is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{flag}: {folder / name} must hold an object")
    return found


def _weights(folder: Path, flag: str) -> tuple[tuple[Path, ...], str | None]:
    """The weights in a folder that from_pretrained would read, and their variant: the plain ones if there are any."""
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    variants: dict[str | None, list[Path]] = {}
    for file in files:
        if match := _WEIGHTS.fullmatch(file.name):
            variants.setdefault(match["variant"], []).append(file)
    if not variants:
        pickled = next((file for file in files if file.suffix in PICKLED), None)
        if pickled is not None:
            raise ValueError(f"{flag}: {pickled} is pickled and could run code when loaded: safetensors only")
        raise ValueError(f"{flag}: {folder} holds no weights in safetensors")
    variant = None if None in variants else next(iter(variants))
    if None not in variants and len(variants) > 1:
        raise ValueError(f"{flag}: {folder} holds the variants {sorted(variants)}: keep one")
    for file in variants[variant]:
        _check_safetensors(file, flag)
    return tuple(variants[variant]), variant


def _check_safetensors(file: Path, flag: str) -> None:
    """Read the header, which says how long the file must be."""
    safetensors = require("safetensors", "diffusers")
    try:
        with safetensors.safe_open(str(file), "pt"):
            pass
    except (safetensors.SafetensorError, OSError) as error:
        raise ValueError(f"{flag}: {file} is not a whole safetensors file: {error}") from error


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as data:
        while block := data.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()

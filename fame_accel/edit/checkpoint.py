"""Checkpoint folders: checked to be complete and in safetensors before they are loaded, identified by their bytes."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fame_accel.media.packages import has_vocabulary, require

NETWORKS = ("unet", "vae", "text_encoder")
TOKENIZERS = {False: ("tokenizer",), True: ("tokenizer", "tokenizer_2")}  # of XL
LATENT_CHANNELS = 4
_CONFIGS = dict.fromkeys(("tokenizer", "tokenizer_2"), "tokenizer_config.json") | {"scheduler": "scheduler_config.json"}
PICKLED = (".bin", ".ckpt", ".pt", ".pth")
# model.safetensors, model.fp16.safetensors, model-00001-of-00002.safetensors, ...: a variant and a shard are optional
_WEIGHTS = re.compile(r"(?:diffusion_pytorch_model|model)(?:\.(?P<variant>\w+))?(?:-\d+-of-\d+)?\.safetensors")


@dataclass(frozen=True)
class Checkpoint:
    """A folder in diffusers' layout.

    kind: name of the class it was saved from. xl: whether it is Stable Diffusion XL, with two text encoders. files: the
    weights that from_pretrained reads. variant: the word in their names that from_pretrained must be given, such as
    "fp16", or None.
    """

    folder: Path
    kind: str
    xl: bool
    files: tuple[Path, ...]
    variant: str | None

    def identity(self) -> dict[str, Any]:
        """What distinguishes these weights from others: the class and, for each file, its size and sha256."""
        files = {
            file.relative_to(self.folder).as_posix(): dict(bytes=file.stat().st_size, sha256=_sha256(file))
            for file in self.files
        }
        return {"class": self.kind, "files": files}


def find_checkpoint(folder: str | Path) -> Checkpoint:
    """A checkpoint of Stable Diffusion 1, 2 or XL in diffusers' layout; ValueError says what is wrong with the
    folder."""
    folder = Path(folder)
    index = _config(folder, "model_index.json", "--model", "checkpoint")
    kind = str(index.get("_class_name"))
    xl = "text_encoder_2" in index
    networks = (*NETWORKS, "text_encoder_2") if xl else NETWORKS
    parts = (*networks, *TOKENIZERS[xl], "scheduler")  # the UNet is the first
    for name in parts:
        entry = index.get(name)
        if entry is not None and not (isinstance(entry, list) and len(entry) == 2):
            raise ValueError(f"--model {folder}: model_index.json must give {name} as [library, class], got {entry!r}")
    # A component that is left out is [null, null], as the first text encoder of XL's refiner is.
    missing = [name for name in parts if not (index.get(name) or [None])[0]]
    if missing or "text_encoder_3" in index:
        without = f" without {', '.join(missing)}" if missing else ""
        raise ValueError(f"--model {folder} must be a Stable Diffusion 1, 2 or XL, got a {kind}{without}")
    if (channels := _config(folder / "unet", "config.json", "--model", "UNet").get("in_channels")) != LATENT_CHANNELS:
        raise ValueError(
            f"--model {folder}: its UNet must take {LATENT_CHANNELS} channels, those of the latents, got {channels!r}: "
            "models for inpainting and the like are not supported"
        )
    weights = [_find_weights(folder / name, "--model") for name in networks]
    for name in parts[1:]:  # diffusers would take a config that is no object for the name of one to download
        _config(folder / name, _CONFIGS.get(name, "config.json"), "--model", name.replace("_", " "))
    for name in TOKENIZERS[xl]:  # without a vocabulary, transformers reads all words alike
        if not has_vocabulary(folder / name):
            raise ValueError(f"--model: {folder / name} holds no vocabulary, tokenizer.json or vocab.json")
    variants = {variant for _, variant in weights if variant}
    if len(variants) > 1:
        raise ValueError(f"--model {folder} must hold one variant, got {sorted(variants)}")
    files = tuple(file for listed, _ in weights for file in listed)
    return Checkpoint(folder, kind, xl, files, next(iter(variants), None))


def find_controlnet(folder: str | Path) -> Checkpoint:
    """A ControlNet in diffusers' layout; ValueError says what is wrong with it."""
    folder = Path(folder)
    kind = str(_config(folder, "config.json", "--controlnet", "ControlNet").get("_class_name"))
    if kind != "ControlNetModel":
        raise ValueError(f"--controlnet {folder} must hold a ControlNetModel, got a {kind}")
    return Checkpoint(folder, kind, False, *_find_weights(folder, "--controlnet"))


def load_tokenizers(checkpoint: Checkpoint) -> list[Any]:
    """Load the checkpoint's tokenizers alone, which takes a fraction of a second."""
    loader = require("transformers", "diffusers").CLIPTokenizer
    tokenizers = []
    for name in TOKENIZERS[checkpoint.xl]:
        with loading(f"--model: {checkpoint.folder / name}"):
            tokenizers.append(loader.from_pretrained(checkpoint.folder / name, local_files_only=True))
    return tokenizers


@contextmanager
def loading(what: str) -> Iterator[None]:
    """Turn any exception that transformers or diffusers raise for a damaged folder into a ValueError naming `what`."""
    try:
        yield
    except ImportError:
        raise
    except Exception as error:
        raise ValueError(f"{what} cannot be loaded: {error or type(error).__name__}") from error


def _config(folder: Path, name: str, flag: str, what: str) -> dict[str, Any]:
    """The object in a JSON file of a folder; ValueError, naming the flag, where there is none."""
    if not folder.exists():
        raise ValueError(f"{flag} {folder}: no such folder")
    wanted = f"must be a {what} folder in diffusers' layout"
    if folder.is_file():
        kind = "a pickled file, which could run code" if folder.suffix in PICKLED else "a file"
        raise ValueError(f"{flag} {folder} {wanted} with safetensors, got {kind}")
    if not (folder / name).is_file():
        pickled = next((file.name for file in sorted(folder.iterdir()) if file.suffix in PICKLED), None)
        note = f", and {pickled} is pickled: safetensors only" if pickled else ""
        raise ValueError(f"{flag} {folder} {wanted}: it has no {name}{note}")
    try:
        config = json.loads((folder / name).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{flag}: {folder / name} is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{flag}: {folder / name} must hold an object, got {type(config).__name__}")
    return config


def _find_weights(folder: Path, flag: str) -> tuple[tuple[Path, ...], str | None]:
    """The files that from_pretrained would read, and their variant: None where there are files without one."""
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
        raise ValueError(f"{flag}: {folder} must hold one variant, got {sorted(map(str, variants))}")
    for file in variants[variant]:
        _check_safetensors(file, flag)
    return tuple(variants[variant]), variant


def _check_safetensors(file: Path, flag: str) -> None:
    """Raise ValueError unless the file is complete: its header says how long it must be."""
    safetensors = require("safetensors", "diffusers")
    try:
        with safetensors.safe_open(str(file), "pt"):
            pass
    except (safetensors.SafetensorError, OSError) as error:
        raise ValueError(f"{flag}: {file} is not a complete safetensors file: {error}") from error


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as data:
        while block := data.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()

"""Checkpoint folders: found whole and in safetensors before anything is loaded, and identified by their bytes."""

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
    """kind: the class that the folder says it is of; xl: whether that is Stable Diffusion XL, with two text encoders;
    files: the weights that loading reads; variant: the word in their names that from_pretrained must be given, such as
    "fp16"."""

    folder: Path
    kind: str
    xl: bool
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
    """A Stable Diffusion 1, 2 or XL checkpoint in diffusers' layout; ValueError says what is wrong with it."""
    folder = Path(folder)
    index = _config(folder, "model_index.json", "--model", "checkpoint")
    kind = str(index.get("_class_name"))
    xl = "text_encoder_2" in index
    networks = (*NETWORKS, "text_encoder_2") if xl else NETWORKS
    parts = (*networks, *TOKENIZERS[xl], "scheduler")
    for name in parts:
        entry = index.get(name)
        if entry is not None and not (isinstance(entry, list) and len(entry) == 2):
            raise ValueError(f"--model {folder}: model_index.json must give {name} as [library, class], got {entry!r}")
    # without its first text encoder, as is XL's refiner, a component is [null, null]
    missing = [name for name in parts if not (index.get(name) or [None])[0]]
    if missing or "text_encoder_3" in index:
        lack = f" without {', '.join(missing)}" if missing else ""
        raise ValueError(f"--model {folder} is a {kind}{lack}: it must be a Stable Diffusion 1, 2 or XL")
    if (channels := _config(folder / "unet", "config.json", "--model", "UNet").get("in_channels")) != LATENT_CHANNELS:
        raise ValueError(
            f"--model {folder}: its UNet takes {channels!r} channels, not the {LATENT_CHANNELS} of latents alone: "
            "it is made for inpainting or the like"
        )
    found = [_weights(folder / name, "--model") for name in networks]
    for name in parts[1:]:  # what is no object in a scheduler's, diffusers takes for the name of one to download
        _config(folder / name, _CONFIGS.get(name, "config.json"), "--model", name.replace("_", " "))
    for name in TOKENIZERS[xl]:  # without one, transformers reads every word alike
        if not has_vocabulary(folder / name):
            raise ValueError(f"--model: {folder / name} holds no vocabulary, tokenizer.json or vocab.json")
    variants = {variant for _, variant in found if variant}
    if len(variants) > 1:
        raise ValueError(f"--model {folder} mixes the variants {sorted(variants)}: keep one")
    return Checkpoint(folder, kind, xl, tuple(file for files, _ in found for file in files), *(variants or {None}))


def find_controlnet(folder: str | Path) -> Checkpoint:
    """A ControlNet folder of diffusers; ValueError says what is wrong with it."""
    folder = Path(folder)
    kind = str(_config(folder, "config.json", "--controlnet", "ControlNet").get("_class_name"))
    if kind != "ControlNetModel":
        raise ValueError(f"--controlnet {folder} holds a {kind}, not a ControlNetModel")
    return Checkpoint(folder, kind, False, *_weights(folder, "--controlnet"))


def load_tokenizers(checkpoint: Checkpoint) -> list[Any]:
    """The checkpoint's tokenizers alone, which takes a fraction of a second."""
    loaded = []
    for name in TOKENIZERS[checkpoint.xl]:
        tokenizers = require("transformers", "diffusers").CLIPTokenizer
        with loading(f"--model: {checkpoint.folder / name}"):
            loaded.append(tokenizers.from_pretrained(checkpoint.folder / name, local_files_only=True))
    return loaded


@contextmanager
def loading(what: str) -> Iterator[None]:
    """Turn what transformers and diffusers raise over a damaged folder, KeyError and TypeError among it, into a
    ValueError that names it."""
    try:
        yield
    except ImportError:
        raise
    except Exception as error:
        raise ValueError(f"{what} cannot be loaded: {error or type(error).__name__}") from error


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

"""Checkpoint folders: checked to be Stable Diffusion's, complete and in safetensors, before anything is loaded."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fame_accel.core.limits import VAE_SCALE_FACTOR
from fame_accel.media.packages import has_vocabulary, require
from fame_accel.media.weights import PICKLED, Weights, check_not_pointer, find_weights, read_json, some

TOKENIZERS = {False: ("tokenizer",), True: ("tokenizer", "tokenizer_2")}  # of XL
TEXT_ENCODERS = {False: ("text_encoder",), True: ("text_encoder", "text_encoder_2")}
# The classes that model_index.json may name, beside the schedulers of `pipeline.supported`; nothing else is loaded.
_TOKENIZER_CLASSES = ("CLIPTokenizer", "CLIPTokenizerFast")
CLASSES = {
    "unet": ("UNet2DConditionModel",),
    "vae": ("AutoencoderKL",),
    "text_encoder": ("CLIPTextModel",),
    "text_encoder_2": ("CLIPTextModelWithProjection",),
    "tokenizer": _TOKENIZER_CLASSES,
    "tokenizer_2": _TOKENIZER_CLASSES,
}
_CONFIGS = dict.fromkeys(("tokenizer", "tokenizer_2"), "tokenizer_config.json") | {"scheduler": "scheduler_config.json"}
_USES = ("", "Img2Img", "Inpaint", "ControlNet", "ControlNetImg2Img", "ControlNetInpaint")
KINDS = {
    *("FameVideoEditPipeline", "FameVideoEditXLPipeline"),
    *(f"StableDiffusion{size}{use}Pipeline" for size in ("", "XL") for use in _USES),
}
ALL = "all"  # the name under which weights are of all networks in one file
WAN_KINDS = ("WanPipeline", "WanVideoToVideoPipeline", "FameWanVideoEditPipeline")
WAN_CLASSES = {
    "transformer": ("WanTransformer3DModel",),
    "vae": ("AutoencoderKLWan",),
    "text_encoder": ("UMT5EncoderModel",),
    "tokenizer": ("T5TokenizerFast", "T5Tokenizer"),
    "scheduler": ("FlowMatchEulerDiscreteScheduler", "UniPCMultistepScheduler"),
}
# What such a folder may hold besides; an edit needs none of it.
_UNUSED = ("safety_checker", "feature_extractor", "image_encoder", "controlnet")


@dataclass(frozen=True)
class Checkpoint:
    """A folder in diffusers' layout.

    kind: name of the class it was saved from. xl: whether it is Stable Diffusion XL, with two text encoders. index:
    what model_index.json says. weights: those of each network, by the name of its folder. multiple: what the sides of
    frames are multiples of, in pixels. temporal: frames of the video for each of the latents after the first.
    """

    folder: Path
    kind: str
    xl: bool
    index: Mapping[str, Any]
    weights: Mapping[str, Weights]
    multiple: int = VAE_SCALE_FACTOR
    temporal: int = 1

    @property
    def single_file(self) -> Path | None:
        """The file that holds all of it, where it is no folder."""
        return self.weights[ALL].files[0] if ALL in self.weights else None

    @property
    def is_wan(self) -> bool:
        """Whether it is a Wan, which is edited without inversion."""
        return self.kind in WAN_KINDS

    @property
    def files(self) -> tuple[Path, ...]:
        """All files of weights."""
        return tuple(file for weights in self.weights.values() for file in weights.files)

    @property
    def variant(self) -> str | None:
        """The word in the names of the weights, such as "fp16", or None."""
        return next((weights.variant for weights in self.weights.values() if weights.variant), None)

    def identity(self) -> dict[str, Any]:
        """What distinguishes these weights from others: the class and, for each file, its size and sha256."""
        files = {
            file.relative_to(self.folder).as_posix(): dict(bytes=file.stat().st_size, sha256=_sha256(file))
            for file in self.files
        }
        return {"class": self.kind, "files": files}


def find_checkpoint(model: str | Path) -> Checkpoint:
    """A checkpoint of Stable Diffusion 1, 2 or XL, or of Wan, in diffusers' layout, by its folder or its name in
    Hugging Face's cache; ValueError says what is wrong with it."""
    folder = locate(model, "--model")
    if folder.is_file() and folder.suffix == ".safetensors":
        return _find_single_file(folder)
    index = _config(folder, "model_index.json", "--model", "checkpoint")
    kind = str(index.get("_class_name"))
    if kind in WAN_KINDS:
        return _find_wan(folder, index, kind)
    xl = "text_encoder_2" in index
    networks = ("unet", "vae", *TEXT_ENCODERS[xl])
    parts = (*networks, *TOKENIZERS[xl], "scheduler")
    _check_index(folder, index, kind, parts)
    configs = {
        # diffusers would take a config that is no object for the name of one to download
        name: _config(folder / name, _CONFIGS.get(name, "config.json"), "--model", name.replace("_", " "))
        for name in parts
    }
    _check_configs(folder, index, configs, xl)
    for name in TOKENIZERS[xl]:  # without a vocabulary, transformers reads all words alike
        if not has_vocabulary(folder / name):
            raise ValueError(f"--model: {folder / name} holds no vocabulary, tokenizer.json or vocab.json")
        for file in filter(Path.is_file, (folder / name).iterdir()):
            check_not_pointer(file, "--model")
    weights = {
        name: find_weights(folder / name, "model" if "text" in name else "diffusion_pytorch_model", "--model", folder)
        for name in networks
    }
    if len(variants := {found.variant for found in weights.values()} - {None}) > 1:
        raise ValueError(f"--model {folder} must hold one variant, got {sorted(map(str, variants))}")
    return Checkpoint(folder, kind, xl, index, weights)


def _find_single_file(file: Path) -> Checkpoint:
    """A checkpoint of Stable Diffusion 1 or XL in one file."""
    from fame_accel.edit.single_file import check_names, recognize

    kind, tensors = recognize(file)
    unused = check_names(file, kind, tensors)
    if unused:
        print(f"fame-accel: {file}: {len(unused)} tensors belong to no network and are left: {some(unused)}")
    weights = {ALL: Weights((file,), None)}
    return Checkpoint(file.parent, kind, "XL" in kind, {}, weights)


def _find_wan(folder: Path, index: Mapping[str, Any], kind: str) -> Checkpoint:
    """A checkpoint of Wan that makes videos from text."""
    networks = ["transformer", *(["transformer_2"] if (index.get("transformer_2") or [None])[0] else [])]
    networks += ["vae", "text_encoder"]
    for name in (*networks, "tokenizer", "scheduler"):
        library = "transformers" if name in ("text_encoder", "tokenizer") else "diffusers"
        classes = WAN_CLASSES[name.removesuffix("_2")]
        entry = index.get(name)
        if not isinstance(entry, list) or entry[0] != library or entry[1] not in classes:
            raise ValueError(
                f"--model {folder}: model_index.json must give {name} as {library}.{classes[0]}, got {entry}"
            )
    configs = {
        name: _config(folder / name, _CONFIGS.get(name, "config.json"), "--model", name.replace("_", " "))
        for name in (*networks, "tokenizer", "scheduler")
    }
    vae, transformer = configs["vae"], configs["transformer"]
    channels = vae.get("z_dim", 16)
    if transformer.get("in_channels", 16) != channels or transformer.get("image_dim") is not None:
        raise ValueError(
            f"--model {folder} must hold a Wan that makes videos from text: its transformer takes "
            f"{transformer.get('in_channels')} channels, not the VAE's {channels}, or an image besides"
        )
    if not (folder / "tokenizer" / "tokenizer.json").is_file():
        raise ValueError(f"--model: {folder / 'tokenizer'} holds no vocabulary, tokenizer.json")
    weights = {
        name: find_weights(folder / name, "model" if "text" in name else "diffusion_pytorch_model", "--model", folder)
        for name in networks
    }
    multiple = vae.get("scale_factor_spatial", 8) * transformer.get("patch_size", [1, 2, 2])[1]
    return Checkpoint(folder, kind, False, index, weights, multiple, vae.get("scale_factor_temporal", 4))


def find_controlnet(model: str | Path, checkpoint: Checkpoint | None = None) -> Checkpoint:
    """A ControlNet in diffusers' layout, for the UNet of a checkpoint; ValueError says what is wrong with it."""
    from fame_accel.pipeline.supported import check_config

    folder = locate(model, "--controlnet")
    config = _config(folder, "config.json", "--controlnet", "ControlNet")
    kind = str(config.get("_class_name"))
    if kind != "ControlNetModel":
        raise ValueError(f"--controlnet {folder} must hold a ControlNetModel, got a {kind}")
    try:
        check_config("controlnet", config)
    except ValueError as error:
        raise ValueError(f"--controlnet {folder}: {error}") from error
    unet = config if checkpoint is None else _unet_config(checkpoint)
    for field in ("addition_embed_type", "cross_attention_dim", "block_out_channels", "layers_per_block"):
        given = field == "addition_embed_type" or field in config and field in unet
        if given and config.get(field) != unet.get(field):
            raise ValueError(
                f"--controlnet {folder}: {field} must be {unet.get(field)}, as in the UNet of --model, "
                f"got {config.get(field)}"
            )
    weights = find_weights(folder, "diffusion_pytorch_model", "--controlnet")
    return Checkpoint(folder, kind, False, config, {"controlnet": weights})


def _unet_config(checkpoint: Checkpoint) -> dict[str, Any]:
    if checkpoint.single_file is None:
        return read_json(checkpoint.folder / "unet" / "config.json", "--model")
    from fame_accel.edit.single_file import component_config

    return component_config(checkpoint.kind, "unet")


def locate(model: str | Path, flag: str) -> Path:
    """The folder of a model: a folder, or the name of a model in Hugging Face's cache; nothing is downloaded."""
    folder = Path(model)
    if folder.exists() or not re.fullmatch(r"[\w.-]+/[\w.-]+", str(model)):
        return folder
    hub = require("huggingface_hub", "diffusers")
    try:
        return Path(hub.snapshot_download(str(model), local_files_only=True))
    except (hub.errors.HfHubHTTPError, OSError, ValueError) as error:
        raise ValueError(
            f"{flag} {model}: no such folder, nor in Hugging Face's cache, to which `hf download {model}` adds it"
        ) from error


def _check_index(folder: Path, index: Mapping[str, Any], kind: str, parts: tuple[str, ...]) -> None:
    """ValueError unless model_index.json names a supported pipeline, all its parts, and classes that are ours to load.

    A part that is left out is [null, null], as the first text encoder of XL's refiner is.
    """
    from fame_accel.pipeline.supported import SCHEDULERS

    for name in parts:
        entry = index.get(name)
        if entry is not None and not (isinstance(entry, list) and len(entry) == 2):
            raise ValueError(f"--model {folder}: model_index.json must give {name} as [library, class], got {entry!r}")
    missing = [name for name in parts if not (index.get(name) or [None])[0]]
    listed = {name for name, entry in index.items() if isinstance(entry, list) and entry[:1] != [None]}
    others = sorted(name for name in listed - {*parts, *_UNUSED} if not name.startswith("_"))
    if kind not in KINDS or missing or others:
        without = f" without {', '.join(missing)}" if missing else ""
        more = f" with {', '.join(others)}" if others else ""
        wanted = "a Stable Diffusion 1, 2 or XL, or a text-to-video Wan"
        raise ValueError(f"--model {folder} must be {wanted}, got a {kind}{without}{more}")
    for name in parts:
        library = "transformers" if "text" in name or "token" in name else "diffusers"
        classes = CLASSES.get(name, SCHEDULERS)
        if index[name][0] != library or index[name][1] not in classes:
            wanted, got = f"{library}.{classes[0]}", ".".join(map(str, index[name]))
            raise ValueError(f"--model {folder}: model_index.json must give {name} as {wanted} or the like, got {got}")


def _check_configs(folder: Path, index: Mapping[str, Any], configs: Mapping[str, Any], xl: bool) -> None:
    """ValueError unless the parts are those of Stable Diffusion, and fit each other."""
    from fame_accel.pipeline.supported import check_conditioning, check_config

    try:
        for name in ("unet", "vae", "scheduler"):
            check_config(name, {"_class_name": index[name][1], **configs[name]})
        for name in TEXT_ENCODERS[xl]:
            kind = configs[name].get("model_type", "clip_text_model")
            if kind not in ("clip_text_model", "clip") or "quantization_config" in configs[name]:
                raise ValueError(
                    f"{name} must be CLIP's, of the model_type clip_text_model and not quantized, got {kind}"
                )
        encoders = [configs[name].get("text_config") or configs[name] for name in TEXT_ENCODERS[xl]]
        check_conditioning(configs["unet"], xl, [encoder.get("hidden_size", 512) for encoder in encoders])
    except (ValueError, TypeError, AttributeError) as error:  # the latter two where a value has another type
        raise ValueError(f"--model {folder}: {error}") from error


def _config(folder: Path, name: str, flag: str, what: str) -> dict[str, Any]:
    """The object in a JSON file of a folder; ValueError, naming the flag, where there is none."""
    if not folder.exists():
        raise ValueError(f"{flag} {folder}: no such folder")
    wanted = f"must be a {what} folder in diffusers' layout"
    if folder.is_file():
        is_pickled = folder.suffix in PICKLED
        got = "a pickled file, which could run code: get it as .safetensors" if is_pickled else "a file"
        raise ValueError(f"{flag} {folder} {wanted} with safetensors, got {got}")
    if not (folder / name).is_file():
        pickled = next((file.name for file in sorted(folder.iterdir()) if file.suffix in PICKLED), None)
        note = f", and {pickled} is pickled: safetensors only" if pickled else ""
        raise ValueError(f"{flag} {folder} {wanted}: it has no {name}{note}")
    return read_json(folder / name, flag)


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as data:
        while block := data.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()

"""Models of diffusers and transformers, loaded from safetensors of a folder without the network: all or none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from fame_accel.media.packages import require
from fame_accel.media.weights import Weights, some

LOCAL = dict(local_files_only=True, trust_remote_code=False)


def load_transformers_model(kind: str, folder: Path, weights: Weights, dtype: torch.dtype, flag: str) -> Any:
    """Load a model of transformers.

    Args:
        kind: name of its class.
        folder: of its config.
        weights: as `find_weights` found them there; no other file is read.
        dtype: of the weights.
        flag: for messages.

    Raises:
        ValueError: it cannot be loaded, or the weights are not those of the config.
    """
    model_class = getattr(require("transformers", "diffusers"), kind)
    load_file = require("safetensors.torch", "diffusers").load_file
    with loading(f"{flag}: {folder}"):
        tensors = {name: tensor for file in weights.files for name, tensor in load_file(file).items()}
        model, info = model_class.from_pretrained(
            None, config=model_class.config_class.from_pretrained(folder, **LOCAL), state_dict=tensors, dtype=dtype,
            output_loading_info=True, ignore_mismatched_sizes=True,
        )  # fmt: skip
    check_loaded(info, weights, flag)
    return model


def load_diffusers_model(kind: str, folder: Path, weights: Weights, dtype: torch.dtype, flag: str) -> Any:
    """Load a model of diffusers; arguments and errors as of `load_transformers_model`."""
    model_class = getattr(require("diffusers", "diffusers"), kind)
    with loading(f"{flag}: {folder}"):
        model, info = model_class.from_pretrained(
            folder, variant=weights.variant, use_safetensors=True, local_files_only=True, dtype=dtype,
            output_loading_info=True, ignore_mismatched_sizes=True,
        )  # fmt: skip
    check_loaded(info, weights, flag)
    return model


@contextmanager
def loading(what: str) -> Iterator[None]:
    """Turn any exception that transformers or diffusers raise for a damaged folder into a ValueError naming `what`."""
    try:
        yield
    except ImportError:
        raise
    except Exception as error:
        raise ValueError(f"{what} cannot be loaded: {error or type(error).__name__}") from error


def check_loaded(info: Mapping[str, Any], weights: Weights, flag: str) -> None:
    """ValueError where a model lacks tensors, or was given others or such of other shapes; transformers would draw the
    missing ones at random."""
    misshapen = [f"{name} {list(got)} for {list(wanted)}" for name, got, wanted in info["mismatched_keys"]]
    groups = {"missing": info["missing_keys"], "unexpected": info["unexpected_keys"], "of another shape": misshapen}
    if problems := [f"{what}: {some(names)}" for what, names in groups.items() if names]:
        files = ", ".join(map(str, weights.files))
        raise ValueError(f"{flag}: {files} must hold just the tensors of the model; {'; '.join(problems)}")

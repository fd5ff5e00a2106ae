"""What an edit does before its networks are loaded: it reads files and checks all options against them."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch

from fame_accel.edit.checkpoint import Checkpoint, find_checkpoint, find_controlnet
from fame_accel.edit.inputs import EditInputs, read_inputs
from fame_accel.edit.loading import load_tokenizers
from fame_accel.edit.options import CANNY, MEASURED, EditOptions, flag
from fame_accel.edit.target import Outputs, choose_target
from fame_accel.edit.wan import check_fits_checkpoint
from fame_accel.fairness import Debias, token_regions
from fame_accel.media.outputs import check_space
from fame_accel.media.packages import quiet, require
from fame_accel.media.signing import Certificate


@dataclass(frozen=True, eq=False)
class Prepared:
    """What an edit needs besides its options.

    Attributes:
        checkpoint, controlnets: what to load.
        tokenizers: of the checkpoint, one for each text encoder.
        inputs: the clip, its regions and its conditioning.
        debias: the debiasings.
        device, dtype, backend: where and how it runs.
        certificate: what its files are signed with, if anything.
    """

    checkpoint: Checkpoint
    controlnets: list[Checkpoint]
    tokenizers: list[Any]
    inputs: EditInputs
    debias: list[Debias]
    device: torch.device
    dtype: torch.dtype
    backend: str
    certificate: Certificate | None


def prepare(options: EditOptions, outputs: Outputs, seconds: dict[str, float]) -> Prepared:
    """Read what the options name, and print what was taken of it.

    Args:
        options: of the edit.
        outputs: the files that it will write.
        seconds: gets the time that reading took.

    Raises:
        ValueError, RuntimeError, ImportError: a file, an option or a package is wrong or missing.
    """
    _prepare_packages(options)
    checkpoint = find_checkpoint(options.model)
    check_fits_checkpoint(options, checkpoint)
    controlnets = [find_controlnet(folder, checkpoint) for folder in options.controlnet]
    certificate = None
    if options.sign_cert is not None and options.sign_key is not None:
        certificate = Certificate.read(options.sign_cert, options.sign_key)
    device, dtype, backend = choose_target(
        options.device, options.dtype, options.backend, "bfloat16" if checkpoint.is_wan else "float16"
    )
    if options.offload and device.type != "cuda":
        raise ValueError(f"--offload needs a cuda device, got {device}: leave it out")
    start = time.perf_counter()
    inputs = read_inputs(options, checkpoint.multiple)
    seconds["reading"] = time.perf_counter() - start
    print(_describe_regions(inputs, options), flush=True)
    check_space("--out", outputs.video.parent, outputs.bytes_needed(inputs.video.frames))
    debias = [
        Debias(subject=subject, eta=options.eta, toward=None if toward == MEASURED else toward)
        for subject, toward in options.debias.items()
    ]
    tokenizers = load_tokenizers(checkpoint)
    for tokenizer in tokenizers:
        _check_prompts(options, tokenizer)
    return Prepared(checkpoint, controlnets, tokenizers, inputs, debias, device, dtype, backend, certificate)


def _describe_regions(inputs: EditInputs, options: EditOptions) -> str:
    """Each region's share of the pixels, which shows a wrong mask before the long work begins."""
    shares = [
        f"{name} {mask.float().mean():.0%}" + ("" if name in options.region else " (no phrase)")
        for name, mask in zip(inputs.names, inputs.masks, strict=True)
    ]
    left_out = (~inputs.masks.any(0)).float().mean()
    if left_out:
        shares.append(f"rest of the frame {left_out:.0%}" + (", in no region" if options.no_rest else ""))
    return f"regions, as shares of all pixels: {', '.join(shares)}"


def _check_prompts(options: EditOptions, tokenizer: Any) -> None:
    """ValueError where a prompt has too many tokens, or lacks the phrase of a region or a subject to debias."""
    checks: list[tuple[str, str, dict[str, int]]]
    checks = [(flag(name), getattr(options, name), {}) for name in ("prompt", "source_prompt", "negative_prompt")]
    checks += [(f"--region {name}={phrase}", options.prompt, {phrase: 1}) for name, phrase in options.region.items()]
    checks += [(f"--debias {name}={to}", options.prompt, {name: 1}) for name, to in options.debias.items()]
    for argument, prompt, bindings in checks:
        try:
            token_regions(tokenizer, prompt, bindings)
        except ValueError as error:
            raise ValueError(f"{argument}: {error}") from error


def _prepare_packages(options: EditOptions) -> None:
    """ImportError where a package that will be needed is missing."""
    for package in ("numpy", "av", "PIL", "tqdm", "safetensors", "diffusers", "transformers"):
        require(package, "diffusers")
    if options.auto_person_mask or CANNY in options.control:
        require("cv2")
    quiet()

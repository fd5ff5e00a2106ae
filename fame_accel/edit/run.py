"""One edit, from options to files. Everything that can be checked early is, before the models are loaded and run."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fame_accel.core.presets import make_modulation
from fame_accel.edit.checkpoint import Checkpoint, find_checkpoint, find_controlnet, load_tokenizers, loading
from fame_accel.edit.inputs import EditInputs, read_inputs
from fame_accel.edit.memory import out_of_memory_advised
from fame_accel.edit.options import CANNY, MEASURED, EditOptions, flag
from fame_accel.edit.progress import progress
from fame_accel.edit.record import absolute_paths, write_record
from fame_accel.edit.target import Outputs, check_outputs, choose_target
from fame_accel.fairness import Debias, Injection, token_regions
from fame_accel.media.files import atomic_write
from fame_accel.media.frames import to_bytes
from fame_accel.media.packages import installed_versions, quiet, require
from fame_accel.media.pictures import contact_sheet, side_by_side_video
from fame_accel.media.writing import write_video

PACKAGES = ("fame-accel", "torch", "triton", "diffusers", "transformers", "av")


def run_edit(options: EditOptions, recorded_checkpoint: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Edit a video and write the files of `Outputs.next_to(options.out)`.

    Args:
        options: of the edit.
        recorded_checkpoint: the checkpoint of an earlier record; a warning is printed where the weights differ.

    Returns:
        The record of the run, as in run.json.

    Raises:
        ValueError, RuntimeError, ImportError: before the models are loaded, for all that can be known by then.
    """
    outputs = check_outputs(options)
    _prepare_packages(options)
    checkpoint = find_checkpoint(options.model)
    controlnet = None if options.controlnet is None else find_controlnet(options.controlnet)
    device, dtype, backend = choose_target(options.device, options.dtype, options.backend)
    if options.offload and device.type != "cuda":
        raise ValueError(f"--offload needs a cuda device, got {device}: leave it out")
    seconds: dict[str, float] = {}
    timed = partial(_timed, seconds, device)

    inputs = timed("reading", lambda: read_inputs(options))
    print(_describe_regions(inputs, options), flush=True)
    debias = [
        Debias(subject=subject, eta=options.eta, toward=None if toward == MEASURED else toward)
        for subject, toward in options.debias.items()
    ]
    for tokenizer in load_tokenizers(checkpoint):
        _check_prompts(options, tokenizer)
    identity = {"model": checkpoint.identity(), "controlnet": controlnet and controlnet.identity()}
    if recorded_checkpoint is not None and recorded_checkpoint != identity:
        print("fame-accel: these are not the weights of the recorded run: the result will differ", file=sys.stderr)

    pipeline = timed("loading", lambda: _placed(load_pipeline(checkpoint, controlnet, dtype), device, options.offload))
    options = replace(
        options, **absolute_paths(options), device=str(device), dtype=str(dtype).removeprefix("torch."),
        backend=backend,
    )  # fmt: skip
    with out_of_memory_advised(options, device, len(inputs.names)):
        edited, injections = _edit(pipeline, options, inputs, debias, timed)
    timed("writing", lambda: _write(outputs, options.prompt, inputs, edited))
    record = {
        "options": options.as_json(),
        "checkpoint": identity,
        "inputs": inputs.identity(),
        "injections": [asdict(injection) for injection in injections],
        "outputs": [file.name for file in vars(outputs).values()],
        "versions": installed_versions(*PACKAGES),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
    }
    write_record(outputs.record, record)
    return record


def load_pipeline(checkpoint: Checkpoint, controlnet: Checkpoint | None, dtype: torch.dtype) -> Any:
    """The pipeline of a checkpoint, loaded from safetensors alone and without the network.

    Args:
        checkpoint: as `find_checkpoint` gives it.
        controlnet: as `find_controlnet` gives it, or None.
        dtype: of the weights.

    Returns:
        A FameVideoEditPipeline, or a FameVideoEditXLPipeline for a checkpoint of Stable Diffusion XL.
    """
    from fame_accel.pipeline import FameVideoEditPipeline, FameVideoEditXLPipeline

    local = dict(dtype=dtype, use_safetensors=True, local_files_only=True)
    network = None
    if controlnet is not None:
        loader = require("diffusers", "diffusers").ControlNetModel
        with loading(f"--controlnet {controlnet.folder}"):
            network = loader.from_pretrained(controlnet.folder, variant=controlnet.variant, **local)
    pipeline_class = FameVideoEditXLPipeline if checkpoint.xl else FameVideoEditPipeline
    with loading(f"--model {checkpoint.folder}"):
        return pipeline_class.from_pretrained(
            checkpoint.folder, controlnet=network, variant=checkpoint.variant, **local
        )


def _placed(pipeline: Any, device: torch.device, offload: bool) -> Any:
    """The pipeline on the device: wholly, or each network only while it runs."""
    if not offload:
        return pipeline.to(device)
    pipeline.enable_model_cpu_offload(device=device)
    return pipeline


def as_bytes(frames: Tensor) -> Tensor:
    """Frames of a pipeline, float [F, 3, H, W] in [0, 1], as uint8 [F, H, W, 3] on the CPU; RuntimeError for NaN."""
    if not bool(frames.isfinite().all()):
        raise RuntimeError("the edited frames hold NaN: --dtype is too narrow for this checkpoint")
    return to_bytes(frames).permute(0, 2, 3, 1).contiguous().cpu()


def _edit(
    pipeline: Any, options: EditOptions, inputs: EditInputs, debias: list[Debias], timed: Callable[..., Any]
) -> tuple[Tensor, tuple[Injection, ...]]:
    """The edited clip, uint8 [F, H, W, 3] on the CPU, and what each debiasing did."""
    shared = dict(
        num_inference_steps=options.steps, control_frames=inputs.control, backend=options.backend,
        chunk_size=options.chunk_size,
    )  # fmt: skip
    frames = inputs.video.frames
    with _deterministic_cudnn(), progress(pipeline, len(frames), options.steps, options.guidance > 1) as bar:
        latents = timed("inverting", lambda: pipeline.invert(frames, options.source_prompt, **shared))
        bar.set_description("editing")
        edit = partial(
            pipeline,
            frames,
            options.prompt,
            dict(zip(inputs.names, inputs.masks, strict=True)),
            dict(options.region),
            options.source_prompt,
            options.negative_prompt,
            debias=debias,
            modulation=make_modulation(options.modulation, options.frames, options.decay),
            modulated_steps=options.modulated_steps,
            guidance_scale=options.guidance,
            ddim_eta=options.ddim_eta,
            split_guidance=options.split_guidance,
            generator=torch.Generator().manual_seed(options.seed),
            latents=latents,
            output_type="pt",
            **shared,
        )
        result = timed("editing", edit)
    return as_bytes(result.frames), result.injections


def _write(outputs: Outputs, prompt: str, inputs: EditInputs, edited: Tensor) -> None:
    source, fps = inputs.video.frames, inputs.video.fps
    write_video(outputs.video, edited, fps)
    side_by_side_video(outputs.side_by_side, {"source": source, f"edited: {prompt}": edited}, fps)
    with atomic_write(outputs.sheet) as temporary:
        contact_sheet(temporary, source, inputs.masks, inputs.names, edited)


def _describe_regions(inputs: EditInputs, options: EditOptions) -> str:
    """Each region's share of the pixels, which shows a wrong mask before the long work begins."""
    shares = [
        f"{name} {mask.float().mean():.0%}" + ("" if name in options.region else " (no phrase)")
        for name, mask in zip(inputs.names, inputs.masks, strict=True)
    ]
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
    if options.auto_person_mask or options.control == CANNY:
        require("cv2")
    quiet()


def _deterministic_cudnn() -> AbstractContextManager[None]:
    """Without this, cuDNN may choose another algorithm in another run."""
    cudnn = torch.backends.cudnn
    return cudnn.flags(enabled=cudnn.enabled, deterministic=True, allow_tf32=cudnn.allow_tf32)


def _timed(seconds: dict[str, float], device: torch.device, name: str, call: Callable[[], Any]) -> Any:
    start = time.perf_counter()
    result = call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    seconds[name] = time.perf_counter() - start
    return result

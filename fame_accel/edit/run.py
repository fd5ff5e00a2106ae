"""One edit, from options to files. Everything that can be checked early is, before the models are loaded and run."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fame_accel.core.presets import make_modulation
from fame_accel.edit.checkpoint import find_checkpoint, find_controlnet
from fame_accel.edit.inputs import EditInputs, read_inputs, sha256
from fame_accel.edit.latents import differences
from fame_accel.edit.loading import load_pipeline, load_tokenizers
from fame_accel.edit.memory import out_of_memory_advised
from fame_accel.edit.options import CANNY, MEASURED, EditOptions, flag, one_or_list
from fame_accel.edit.progress import progress
from fame_accel.edit.record import as_json, recorded_options
from fame_accel.edit.rescue import kept_if_writing_fails
from fame_accel.edit.steps import SavedSteps
from fame_accel.edit.target import Outputs, check_outputs, choose_target
from fame_accel.fairness import Debias, Injection, token_regions
from fame_accel.media.frames import to_bytes
from fame_accel.media.outputs import check_space, exclusive, write_together
from fame_accel.media.packages import installed_versions, quiet, require
from fame_accel.media.pictures import contact_sheet, side_by_side_video
from fame_accel.media.provenance import XMP
from fame_accel.media.signing import Certificate
from fame_accel.media.writing import write_video

PACKAGES = ("fame-accel", "torch", "triton", "diffusers", "transformers", "av")
COMPARED = ("checkpoint", "inputs", "scheduler", "versions", "device", "threads")  # with an earlier record


def run_edit(
    options: EditOptions, recorded: Mapping[str, Any] | None = None, *, resume: bool = False
) -> dict[str, Any]:
    """Edit a video and write the files of `Outputs.next_to(options.out)`.

    Args:
        options: of the edit.
        recorded: an earlier record; what differs from it is printed.
        resume: go on with an edit that was interrupted, where it left its progress.

    Returns:
        The record of the run, as in run.json.

    Raises:
        ValueError, RuntimeError, ImportError: before the models are loaded, for all that can be known by then.
        OSError: the files cannot be written; the message says where the edited frames are.
        KeyboardInterrupt: the message says how to go on.
    """
    outputs = check_outputs(options)
    with exclusive("--out", outputs.video):
        return _run(options, recorded or {}, resume, outputs)


def _run(options: EditOptions, recorded: Mapping[str, Any], resume: bool, outputs: Outputs) -> dict[str, Any]:
    _prepare_packages(options)
    checkpoint = find_checkpoint(options.model)
    controlnets = [find_controlnet(folder, checkpoint) for folder in options.controlnet]
    certificate = None
    if options.sign_cert is not None and options.sign_key is not None:
        certificate = Certificate.read(options.sign_cert, options.sign_key)
    device, dtype, backend = choose_target(options.device, options.dtype, options.backend)
    if options.offload and device.type != "cuda":
        raise ValueError(f"--offload needs a cuda device, got {device}: leave it out")
    seconds: dict[str, float] = {}
    timed = partial(_timed, seconds, device)

    inputs = timed("reading", lambda: read_inputs(options))
    print(_describe_regions(inputs, options), flush=True)
    check_space("--out", outputs.video.parent, outputs.bytes_needed(inputs.video.frames))
    debias = [
        Debias(subject=subject, eta=options.eta, toward=None if toward == MEASURED else toward)
        for subject, toward in options.debias.items()
    ]
    for tokenizer in load_tokenizers(checkpoint):
        _check_prompts(options, tokenizer)
    options = replace(options, device=str(device), dtype=str(dtype).removeprefix("torch."), backend=backend)
    record: dict[str, Any] = {
        "options": recorded_options(options, outputs.record.parent),
        "folder": str(outputs.record.parent.absolute()),
        "checkpoint": {
            "model": checkpoint.identity(),
            "controlnet": one_or_list([network.identity() for network in controlnets]),
        },
        "inputs": inputs.identity(),
        "versions": installed_versions(*PACKAGES),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        "threads": torch.get_num_threads(),
    }
    steps = SavedSteps.find(options, record, outputs.progress, resume)

    pipeline = timed("loading", lambda: _placed(load_pipeline(checkpoint, controlnets, dtype), device, options.offload))
    record["scheduler"] = json.loads(pipeline.scheduler.to_json_string())
    before = {name: recorded[name] for name in COMPARED if name in recorded}
    for difference in differences(before, {name: record[name] for name in before}):
        print(f"fame-accel: unlike the recorded run: {difference}", file=sys.stderr)

    with _telling_how_to_go_on(outputs.progress):
        with out_of_memory_advised(options, checkpoint.folder, inputs.video.size, device, len(inputs.names)):
            edited, injections = _edit(pipeline, options, inputs, debias, steps, timed)
        edited = inputs.video.without_padding(edited)
        record["injections"] = [asdict(injection) for injection in injections]
        record["outputs"] = [file.name for file in outputs.results]
        record["frames_sha256"] = sha256(edited)
        with kept_if_writing_fails(edited, outputs.video):
            _write(outputs, options.prompt, inputs, edited, certificate, record, seconds)
    outputs.progress.unlink(missing_ok=True)
    if "frames_sha256" in recorded:
        same = recorded["frames_sha256"] == record["frames_sha256"]
        print(f"the edited frames {'are' if same else 'differ from'} those of the recorded run")
    return record


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
    pipeline: Any,
    options: EditOptions,
    inputs: EditInputs,
    debias: list[Debias],
    steps: SavedSteps,
    timed: Callable[..., Any],
) -> tuple[Tensor, tuple[Injection, ...]]:
    """The edited clip, uint8 [F, H, W, 3] on the CPU, and what each debiasing did."""
    control = None if inputs.control is None else one_or_list(inputs.control.unbind())
    shared = dict(
        num_inference_steps=options.steps, control_frames=control, backend=options.backend,
        chunk_size=options.chunk_size,
    )  # fmt: skip
    frames = inputs.video.frames
    with (
        _deterministic_cudnn(),
        progress(pipeline, len(frames), options.steps, options.guidance > 1, steps.inverted, steps.edited) as bar,
    ):
        if not steps.edited:
            latents = timed(
                "inverting",
                lambda: pipeline.invert(
                    frames, options.source_prompt, latents=steps.latents, first_step=steps.inverted,
                    callback_on_step_end=steps.after_inverting, **shared,
                ) if steps.inverted < options.steps else steps.latents,
            )  # fmt: skip
            steps.finish_inversion(latents)
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
            rest=not options.no_rest,
            guidance_scale=options.guidance,
            ddim_eta=options.ddim_eta,
            split_guidance=options.split_guidance,
            generator=steps.generator,
            latents=steps.latents,
            first_step=steps.edited,
            output_type="pt",
            callback_on_step_end=steps.after_editing,
            **shared,
        )
        result = timed("editing", edit)
    return as_bytes(result.frames), result.injections


def _write(
    outputs: Outputs,
    prompt: str,
    inputs: EditInputs,
    edited: Tensor,
    certificate: Certificate | None,
    record: dict[str, Any],
    seconds: dict[str, float],
) -> None:
    """Write all files or none; the record gets the seconds."""
    start = time.perf_counter()
    video = inputs.video
    source, fps, sound = video.without_padding(video.frames), video.fps, video.sound
    masks = torch.stack([video.without_padding(mask) for mask in inputs.masks])
    with write_together(*outputs.results) as (clip, side_by_side, sheet, run):
        write_video(clip, edited, fps, xmp=XMP, sound=sound)
        side_by_side_video(side_by_side, {"source": source, f"edited: {prompt}": edited}, fps, xmp=XMP, sound=sound)
        contact_sheet(sheet, source, masks, inputs.names, edited)
        if certificate is not None:
            for file in (clip, side_by_side, sheet):
                certificate.sign(file)
        seconds["writing"] = time.perf_counter() - start
        record["seconds"] = {name: round(value, 3) for name, value in seconds.items()}
        run.write_text(as_json(record), encoding="utf-8")


@contextmanager
def _telling_how_to_go_on(progress: Path) -> Iterator[None]:
    """Add to an interrupt the flag that goes on from the saved progress."""
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"--resume goes on from {progress}" if progress.exists() else "") from None


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

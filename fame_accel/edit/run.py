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
from fame_accel.edit.inputs import EditInputs, sha256
from fame_accel.edit.latents import differences
from fame_accel.edit.loading import load_pipeline
from fame_accel.edit.memory import out_of_memory_advised
from fame_accel.edit.options import EditOptions, one_or_list
from fame_accel.edit.prepare import prepare
from fame_accel.edit.progress import progress
from fame_accel.edit.record import as_json, recorded_options
from fame_accel.edit.rescue import kept_if_writing_fails
from fame_accel.edit.steps import SavedSteps
from fame_accel.edit.target import Outputs, check_outputs
from fame_accel.edit.wan import edit_with_wan
from fame_accel.fairness import Debias
from fame_accel.media.frames import to_bytes
from fame_accel.media.outputs import exclusive, write_together
from fame_accel.media.packages import installed_versions
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
    seconds: dict[str, float] = {}
    ready = prepare(options, outputs, seconds)
    checkpoint, inputs, device = ready.checkpoint, ready.inputs, ready.device
    timed = partial(_timed, seconds, device)
    dtype = str(ready.dtype).removeprefix("torch.")
    options = replace(options, device=str(device), dtype=dtype, backend=ready.backend)
    record: dict[str, Any] = {
        "options": recorded_options(options, outputs.record.parent),
        "folder": str(outputs.record.parent.absolute()),
        "checkpoint": {
            "model": checkpoint.identity(),
            "controlnet": one_or_list([network.identity() for network in ready.controlnets]),
        },
        "inputs": inputs.identity(),
        "versions": installed_versions(*PACKAGES),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        "threads": torch.get_num_threads(),
    }
    steps = SavedSteps.find(options, record, outputs.progress, resume, inverts=not checkpoint.is_wan)

    pipeline = timed(
        "loading",
        lambda: _placed(load_pipeline(checkpoint, ready.controlnets, ready.dtype), device, options.offload),
    )
    record["scheduler"] = json.loads(pipeline.scheduler.to_json_string())
    before = {name: recorded[name] for name in COMPARED if name in recorded}
    for difference in differences(before, {name: record[name] for name in before}):
        print(f"fame-accel: unlike the recorded run: {difference}", file=sys.stderr)

    with _telling_how_to_go_on(outputs.progress):
        with out_of_memory_advised(options, checkpoint.folder, inputs.video.size, device, len(inputs.names)):
            with _deterministic_cudnn():
                edit = edit_with_wan if checkpoint.is_wan else _edit
                result = edit(pipeline, options, inputs, ready.debias, steps, timed)
            edited, injections = as_bytes(result.frames), result.injections
        edited = inputs.video.without_padding(edited)
        record["injections"] = [asdict(injection) for injection in injections]
        record["outputs"] = [file.name for file in outputs.results]
        record["frames_sha256"] = sha256(edited)
        with kept_if_writing_fails(edited, outputs.video):
            _write(outputs, options.prompt, inputs, edited, ready.certificate, record, seconds)
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
) -> Any:
    """The pipeline's output, frames float [F, 3, H, W] in [0, 1]."""
    control = None if inputs.control is None else one_or_list(inputs.control.unbind())
    shared = dict(
        num_inference_steps=options.steps, control_frames=control, backend=options.backend,
        chunk_size=options.chunk_size,
    )  # fmt: skip
    frames = inputs.video.frames
    with progress(pipeline, len(frames), options.steps, options.guidance > 1, steps.inverted, steps.edited) as bar:
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
        return timed("editing", edit)


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

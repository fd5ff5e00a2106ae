"""Where an edit runs and which files it writes, decided before it begins."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch

from fame_accel.core.backend import default_device, resolve_backend
from fame_accel.edit.options import CANNY, EditOptions


@dataclass(frozen=True)
class Outputs:
    """The files of an edit, all in one folder."""

    video: Path
    side_by_side: Path
    sheet: Path
    record: Path

    @classmethod
    def next_to(cls, video: str | Path) -> Outputs:
        """The files of the edit that writes this video."""
        video = Path(video)
        names = (f"{video.stem}_side_by_side.mp4", f"{video.stem}_sheet.png", f"{video.stem}_run.json")
        return cls(video, *(video.with_name(name) for name in names))


def check_outputs(options: EditOptions) -> Outputs:
    """The files to write; ValueError where one cannot be written or is also an input."""
    outputs = Outputs.next_to(options.out)
    folder = outputs.video.parent
    if not folder.is_dir():
        raise ValueError(f"--out {options.out}: there is no folder {folder}")
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(f"--out {options.out}: cannot write to {folder}: {error.strerror}") from error
    names = (options.video, options.masks, None if options.control == CANNY else options.control)
    inputs = [Path(name).resolve() for name in names if name is not None]
    # In a folder of frames the sheet would become one more frame; in a subfolder of the masks, one more region.
    in_masks = options.masks is not None and folder.resolve().is_relative_to(Path(options.masks).resolve())
    if folder.resolve() in inputs or in_masks:
        raise ValueError(f"--out {options.out} must be outside of {folder}, which is an input")
    for file in vars(outputs).values():
        if file.is_dir():
            raise ValueError(f"--out {options.out}: {file} is a folder")
        if file.resolve() in inputs:
            raise ValueError(f"--out {options.out} would overwrite {file}, which is an input")
    return outputs


def choose_target(device: str | None, dtype: str | None, backend: str) -> tuple[torch.device, torch.dtype, str]:
    """Device, dtype and backend of a run.

    Args:
        device: a torch device; None takes cuda where torch finds a GPU, otherwise cpu.
        dtype: a torch dtype; None takes float16 on cuda, otherwise float32.
        backend: of attention; "auto" takes triton where it can run, otherwise sdpa.

    Raises:
        ValueError: the device or the dtype is not available.
        RuntimeError: the named backend cannot run there.
    """
    target = default_device() if device is None else _find_device(device)
    kind = getattr(torch, dtype or ("float16" if target.type == "cuda" else "float32"))
    if target.type == "cpu" and kind == torch.float16:
        raise ValueError("--dtype float16 needs a GPU; use float32 or bfloat16 on the CPU")
    if kind == torch.bfloat16 and target.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise ValueError(f"--dtype bfloat16 is not supported by {torch.cuda.get_device_name(target)}; use float16")
    return target, kind, resolve_backend(backend, target, kind)


def _find_device(name: str) -> torch.device:
    """The device of that name; ValueError where torch does not have it."""
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"--device must be cpu, cuda, cuda:N or mps, got {name}") from error
    if device.type not in ("cpu", "cuda", "mps"):
        raise ValueError(f"--device must be cpu, cuda, cuda:N or mps, got {name}")
    if device.type == "cuda" and not (device.index or 0) < torch.cuda.device_count():
        raise ValueError(f"--device {name}: torch {torch.__version__} sees {torch.cuda.device_count()} CUDA devices")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ValueError(f"--device {name}: torch {torch.__version__} sees no such device")
    return device

"""Where an edit runs and what it writes, settled before it begins."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch

from fame_accel import bindings
from fame_accel.edit.options import CANNY, EditOptions


@dataclass(frozen=True)
class Outputs:
    """The files of an edit, all in one folder."""

    video: Path
    side_by_side: Path
    sheet: Path
    record: Path

    @classmethod
    def beside(cls, video: str | Path) -> Outputs:
        video = Path(video)
        names = (f"{video.stem}_side_by_side.mp4", f"{video.stem}_sheet.png", f"{video.stem}_run.json")
        return cls(video, *(video.with_name(name) for name in names))


def check_outputs(options: EditOptions) -> Outputs:
    """The files to write; ValueError where they cannot be written, or one of them is read as well."""
    outputs = Outputs.beside(options.out)
    folder = outputs.video.parent
    if not folder.is_dir():
        raise ValueError(f"--out {options.out}: there is no folder {folder}")
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(f"--out {options.out}: cannot write to {folder}: {error.strerror}") from error
    names = (options.video, options.masks, None if options.control == CANNY else options.control)
    read = [Path(name).resolve() for name in names if name is not None]
    # there the sheet would be one image more; in a sub-folder of the masks, a region more
    if folder.resolve() in read or (options.masks and folder.resolve().is_relative_to(Path(options.masks).resolve())):
        raise ValueError(f"--out {options.out}: {folder} is read, take another folder")
    for file in vars(outputs).values():
        if file.is_dir():
            raise ValueError(f"--out {options.out}: {file} is a folder")
        if file.resolve() in read:
            raise ValueError(f"--out {options.out} would overwrite {file}, which is read")
    return outputs


def choose_target(device: str | None, dtype: str | None, backend: str) -> tuple[torch.device, torch.dtype, str]:
    """Device, dtype and backend: those asked for, otherwise cuda with float16 and triton where they are there.

    ValueError or RuntimeError where one that was asked for is not.
    """
    place = _device(device)
    kind = getattr(torch, dtype or ("float16" if place.type == "cuda" else "float32"))
    if place.type == "cpu" and kind == torch.float16:
        raise ValueError("--dtype float16 is for GPUs: on the CPU take float32, or bfloat16")
    if kind == torch.bfloat16 and place.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise ValueError(f"--dtype bfloat16: {torch.cuda.get_device_name(place)} does not have it; take float16")
    reason = bindings.triton_unavailable(place, kind)
    if backend == "auto":
        return place, kind, "triton" if place.type == "cuda" and reason is None else "sdpa"
    if backend == "triton" and reason is not None:
        raise RuntimeError(f"--backend triton cannot run here: {reason}")
    return place, kind, backend


def _device(name: str | None) -> torch.device:
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
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

"""Where an edit runs and which files it writes, decided before it begins."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from fame_accel.core.backend import default_device, resolve_backend
from fame_accel.edit.options import CANNY, EditOptions
from fame_accel.media.outputs import check_output_file

BYTES_PER_PIXEL = 3  # a byte for the video, two for the side-by-side video twice as wide


@dataclass(frozen=True)
class Outputs:
    """The files of an edit, all in one folder.

    video, side_by_side, sheet, record: what an edit writes when it is done. progress: its latents, from which it goes
    on after an interruption; removed when it is done. preview: what `--preview` draws.
    """

    video: Path
    side_by_side: Path
    sheet: Path
    record: Path
    progress: Path
    preview: Path

    @classmethod
    def next_to(cls, video: str | Path) -> Outputs:
        """The files of the edit that writes this video."""
        video = Path(video)
        names = ("side_by_side.mp4", "sheet.png", "run.json", "progress.safetensors", "preview.png")
        return cls(video, *(video.with_name(f"{video.stem}_{name}") for name in names))

    @property
    def results(self) -> tuple[Path, Path, Path, Path]:
        """What is there when the edit is done, the record last."""
        return self.video, self.side_by_side, self.sheet, self.record

    @staticmethod
    def bytes_needed(frames: Tensor) -> int:
        """The most that the files take for frames [F, H, W, 3]: latents, and videos of pure noise."""
        return BYTES_PER_PIXEL * frames[..., 0].numel()


def check_outputs(options: EditOptions) -> Outputs:
    """The files to write; ValueError where one cannot be written or would change an input."""
    outputs = Outputs.next_to(options.out)
    controls = [control for control in options.control if control != CANNY]
    inputs = (options.video, options.masks, *controls, options.model, *options.controlnet)
    for file in vars(outputs).values():
        check_output_file("--out", file, inputs)
    if options.latents is not None:
        check_output_file("--latents", options.latents, inputs)
    return outputs


def choose_target(
    device: str | None, dtype: str | None, backend: str, narrow: str = "float16"
) -> tuple[torch.device, torch.dtype, str]:
    """Device, dtype and backend of a run.

    Args:
        device: a torch device; None takes cuda where torch finds a GPU, otherwise cpu.
        dtype: a torch dtype; None takes `narrow` on cuda, otherwise float32.
        backend: of attention; "auto" takes triton where it can run, otherwise sdpa.
        narrow: the dtype of 16 bits that the networks are made for.

    Raises:
        ValueError: the device or the dtype is not available.
        RuntimeError: the named backend cannot run there.
    """
    target = default_device() if device is None else _find_device(device)
    kind = getattr(torch, dtype or (narrow if target.type == "cuda" else "float32"))
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

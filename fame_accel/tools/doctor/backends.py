"""Which backend runs where, or why not, and the launches that the kernels take."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch

from fame_accel import bindings
from fame_accel.bindings.device import family
from fame_accel.kernels.launch_table import VARIABLE, choose_launch, is_known, load
from fame_accel.tools.tune import HEAD_DIMS, describe
from fame_accel.tools.tune_cases import KERNELS

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Backend:
    """reasons: per dtype why it does not run on the device, None where it does."""

    device: str
    name: str
    reasons: dict[str, str | None]

    @property
    def dtypes(self) -> list[str]:
        return [dtype for dtype, reason in self.reasons.items() if reason is None]


@dataclass(frozen=True)
class LaunchFile:
    """The file that FAME_ACCEL_LAUNCHES names. error: why it does not load, and None where it does."""

    path: str
    entries: int
    error: str | None


@dataclass(frozen=True)
class Launches:
    """Launches on a device, as "rows x keys, warps, stages" per kernel, element size in bits and head_dim.

    known: whether the table has the chip's family.
    """

    device: str
    family: str
    known: bool
    entries: dict[str, dict[str, dict[int, str]]]


def find_backends(device: torch.device) -> list[Backend]:
    triton = {dtype_name(dtype): bindings.triton_unavailable(device, dtype) for dtype in DTYPES}
    anywhere = dict.fromkeys(triton)
    return [
        Backend(str(device), "triton", triton),
        Backend(str(device), "sdpa", anywhere),
        Backend(str(device), "reference", anywhere | {"float64": None}),
    ]


def find_launch_file() -> LaunchFile | None:
    path = os.environ.get(VARIABLE)
    if not path:
        return None
    try:
        return LaunchFile(path, load(path), None)
    except ValueError as error:
        return LaunchFile(path, 0, str(error))


def find_launches(device: torch.device) -> Launches | None:
    """None where the kernels do not run on the device, or the file of launches does not load."""
    if bindings.triton_unavailable(device, torch.float32) is not None:
        return None
    chip = family(device)
    try:
        known = is_known(chip)
        entries = {kernel: {f"{8 * size} bit": _row(kernel, chip, size) for size in (2, 4)} for kernel in KERNELS}
    except ValueError:  # told by find_launch_file
        return None
    return Launches(str(device), chip, known, entries)


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _row(kernel: str, chip: str, element_size: int) -> dict[int, str]:
    chosen = {head_dim: choose_launch(kernel, chip, head_dim, element_size) for head_dim in HEAD_DIMS}
    # few_keys has no entry for some chips
    return {head_dim: "by streamed_keys" if entry is None else describe(entry) for head_dim, entry in chosen.items()}

"""Which backend runs on which device, or why not, and the launches that the kernels use."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch

from fame_accel import bindings
from fame_accel.bindings.device import family
from fame_accel.kernels.launch_table import HEAD_DIMS, KERNELS, VARIABLE, choose_launch, is_known, load
from fame_accel.tools.tune import describe

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Backend:
    """A backend on a device. reasons: per dtype why it does not run there, None where it does."""

    device: str
    name: str
    reasons: dict[str, str | None]

    @property
    def dtypes(self) -> list[str]:
        """Those that it runs in."""
        return [dtype for dtype, reason in self.reasons.items() if reason is None]


@dataclass(frozen=True)
class LaunchFile:
    """The file that FAME_ACCEL_LAUNCHES names. error: why it does not load, None where it does."""

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
    """The three backends on a device."""
    triton = {dtype_name(dtype): bindings.triton_unavailable(device, dtype) for dtype in DTYPES}
    anywhere: dict[str, str | None] = dict.fromkeys(triton)
    return [
        Backend(str(device), "triton", triton),
        Backend(str(device), "sdpa", anywhere),
        Backend(str(device), "reference", anywhere | {"float64": None}),
    ]


def find_launch_file() -> LaunchFile | None:
    """The file that FAME_ACCEL_LAUNCHES names, loaded; None where the variable is not set."""
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
        entries = {kernel: {f"{8 * size} bit": _launches(kernel, chip, size) for size in (2, 4)} for kernel in KERNELS}
    except ValueError:  # find_launch_file reports it
        return None
    return Launches(str(device), chip, known, entries)


def dtype_name(dtype: torch.dtype) -> str:
    """float16 for torch.float16."""
    return str(dtype).removeprefix("torch.")


def _launches(kernel: str, chip: str, element_size: int) -> dict[int, str]:
    """By head_dim; few_keys has no entry for some."""
    launches = {head_dim: choose_launch(kernel, chip, head_dim, element_size) for head_dim in HEAD_DIMS}
    return {
        head_dim: "by streamed_keys" if launch is None else describe(launch) for head_dim, launch in launches.items()
    }

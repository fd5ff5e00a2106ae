"""Masks in an .npz file: an array per region."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fame_accel.media.files import natural_order
from fame_accel.media.mask_levels import FrameChoice, inside
from fame_accel.media.packages import require

MOST_BYTES = 2**33  # of an array: 4000 frames of 1920x1080


def read_arrays(file: Path, choice: FrameChoice) -> list[tuple[str, Tensor]]:
    """(name, bool [frames or 1, H, W]) of each array [frames, H, W] or [H, W].

    Raises:
        ValueError: the file is damaged, or an array has another shape, holds no numbers, negative ones or NaN.
    """
    numpy = require("numpy", "diffusers")
    try:
        _check_headers(file)
        with numpy.load(file, allow_pickle=False) as archive:  # unpickling could run code
            arrays = {name: archive[name] for name in archive.files}
    except _Refused as error:
        raise ValueError(str(error)) from error
    except Exception as error:  # a damaged file fails in numpy, zipfile, zlib or tokenize, each with its own errors
        raise ValueError(f"{file} is not an .npz file of plain arrays: {error}") from error
    if not arrays:
        raise ValueError(f"{file} holds no arrays: it must hold one per region")
    regions = []
    for name in sorted(arrays, key=lambda name: natural_order(Path(name))):
        array, source = arrays[name], f"{name!r} in {file}"
        kind = getattr(array, "dtype", None)
        if kind is None or kind.kind not in "buif" or array.ndim not in (2, 3) or not array.size:
            shape = list(getattr(array, "shape", ()))
            raise ValueError(f"{source} must be numbers [frames, H, W] or [H, W], got {kind} {shape}")
        if not (array >= 0).all():
            raise ValueError(f"{source} must hold numbers that are not negative, got some that are, or NaN")
        levels = array if kind == numpy.bool_ else array.astype(numpy.float32)
        mask = inside(torch.from_numpy(levels))
        mask = mask[None] if mask.ndim == 2 else mask
        regions.append((name, mask[choice.of(len(mask), source)]))
    return regions


class _Refused(Exception):
    """A file that is whole, but too large."""


def _check_headers(file: Path) -> None:
    """Raise where an array would not fit in memory, by its header, before it is read."""
    numpy = require("numpy", "diffusers")
    with zipfile.ZipFile(file) as archive:
        for entry in archive.infolist():
            with archive.open(entry) as data:
                shape, kind = _header(numpy, data)
            size = math.prod(shape) * kind.itemsize
            if size > MOST_BYTES:
                raise _Refused(
                    f"{entry.filename!r} in {file} has {size / 1e9:.0f} GB: at most {MOST_BYTES / 1e9:.0f} fit"
                )


def _header(numpy: Any, data: Any) -> tuple[tuple[int, ...], Any]:
    version = numpy.lib.format.read_magic(data)
    read = {(1, 0): numpy.lib.format.read_array_header_1_0, (2, 0): numpy.lib.format.read_array_header_2_0}
    shape, _, kind = read[version](data)
    return shape, kind

"""Checks of single arguments: each error names the argument, what came and what was wanted, in one line."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

MAX_COUNT = 2**31 - 1  # frames and tokens are counted in int32


def shown(value: object) -> str:
    """A value as an error shows it: one line of at most 80 characters."""
    if isinstance(value, Tensor) and value.dim():
        return f"a tensor of {value.dtype} with shape {tuple(value.shape)}"
    try:
        text = " ".join(repr(value).split())
    except ValueError:  # Python prints no int of more than 4300 digits
        return f"an int of {value.bit_length()} bits" if isinstance(value, int) else type(value).__name__
    return text if len(text) <= 80 else f"{text[:77]}..."


def check_dense(name: str, tensor: Tensor) -> None:
    """TypeError where a tensor is sparse or nested: its elements do not lie at strides."""
    if tensor.layout != torch.strided or tensor.is_nested:
        kind = "nested" if tensor.is_nested else str(tensor.layout)
        raise TypeError(f"{name} must be a dense tensor, got one that is {kind}")


def check_choice(name: str, value: object, choices: Sequence[str]) -> None:
    """ValueError unless the value is one of the names."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {shown(value)}")


def check_flag(name: str, value: object) -> None:
    """TypeError unless the value is True or False."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, got {shown(value)}")


def check_count(name: str, value: object) -> int:
    """The value, an int from 1 to MAX_COUNT; ValueError otherwise."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} must be an int >= 1, got {shown(value)}")
    if value > MAX_COUNT:
        raise ValueError(f"{name} must be an int of at most {MAX_COUNT}, got {shown(value)}")
    return value


def is_number(value: object) -> bool:
    """Whether the value is an int or a float that is finite as a float; a bool is not."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def check_device(name: str, value: object) -> torch.device:
    """The device that a value names, or numbers among the GPUs; TypeError or ValueError where it names none."""
    if not isinstance(value, (str, int, torch.device)) or isinstance(value, bool):
        raise TypeError(f"{name} must be a torch.device or its name, got {shown(value)}")
    try:
        return torch.device(value)
    except (RuntimeError, ValueError):
        raise ValueError(
            f"{name} must be a torch.device or its name, such as 'cpu' or 'cuda:0', got {shown(value)}"
        ) from None

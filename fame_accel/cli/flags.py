"""Flags that several commands share: type, range and placeholder of each are written here, once.

A type raises argparse.ArgumentTypeError with a message that reads on from the flag's name: "must be ..., got ...".
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from typing import Any

from fame_accel.core.limits import BACKENDS, COUNT, DTYPES, FPS, FRACTION, NOT_NEGATIVE, SEED, STEPS, Range, check_size
from fame_accel.core.presets import MODULATIONS

_DEFAULT_DEVICE = "cuda where torch finds a GPU, otherwise cpu"


def number(limits: Range) -> Callable[[str], float]:
    """The type of a number within limits."""

    def parse(text: str) -> float:
        try:
            value = limits.kind(text)
        except ValueError as error:
            wanted = "a whole number" if limits.kind is int else "a number"
            raise argparse.ArgumentTypeError(f"must be {wanted}, got {text!r}") from error
        if value not in limits:
            raise argparse.ArgumentTypeError(f"must {limits}, got {text}")
        return value

    return parse


def one_of(names: Iterable[str]) -> Callable[[str], str]:
    """The type of a name out of a few."""
    allowed = tuple(names)

    def parse(text: str) -> str:
        if text not in allowed:
            raise argparse.ArgumentTypeError(f"must be one of {', '.join(allowed)}, got {text!r}")
        return text

    return parse


def size(text: str) -> tuple[int, int]:
    """The type of (height, width) in pixels: "HEIGHTxWIDTH", or one number for both."""
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.isdecimal() for side in sides):
        raise argparse.ArgumentTypeError(f"must be HEIGHTxWIDTH or one number, got {text!r}")
    return int(sides[0]), int(sides[-1])


def size_for_vae(text: str) -> tuple[int, int]:
    """The type of (height, width) in pixels that Stable Diffusion's VAE takes: positive multiples of 8."""
    sides = size(text)
    try:
        check_size("", sides)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error).strip()) from error
    return sides


_SHARED: dict[str, dict[str, Any]] = {
    "--frames": dict(type=number(COUNT), metavar="N"),
    "--stride": dict(type=number(COUNT), metavar="N"),
    "--size": dict(type=size_for_vae, metavar="HxW"),
    "--fps": dict(type=number(FPS)),
    "--steps": dict(type=number(STEPS), metavar="N"),
    "--guidance": dict(type=number(NOT_NEGATIVE), metavar="SCALE"),
    "--eta": dict(type=number(FRACTION), metavar="STRENGTH"),
    "--ddim-eta": dict(type=number(FRACTION), metavar="SHARE"),
    "--decay": dict(type=number(NOT_NEGATIVE), metavar="RATE"),
    "--seed": dict(type=number(SEED), metavar="N"),
    "--modulation": dict(type=one_of(MODULATIONS), metavar="NAME", help=f"of self-attention: {', '.join(MODULATIONS)}"),
    "--backend": dict(type=one_of(BACKENDS), metavar="NAME", help=f"of attention: {', '.join(BACKENDS)}"),
    "--dtype": dict(
        type=one_of(DTYPES), metavar="NAME", help=f"{', '.join(DTYPES)}; if not given, float16 on cuda, else float32"
    ),
    "--device": dict(metavar="NAME", help=f"torch device; if not given, {_DEFAULT_DEVICE}"),
}


def add(parser: argparse._ActionsContainer, name: str, help: str | None = None, **options: Any) -> None:
    """Add a flag with the type, placeholder and help text that it has in every command.

    Args:
        parser: a parser or a group of one.
        name: the flag with its dashes.
        help: replaces the shared help text; must be given for a flag that has none.
        options: further keyword arguments of `add_argument`; they replace the shared ones.
    """
    shared = _SHARED.get(name, {})
    parser.add_argument(name, **{**shared, "help": help or shared["help"], **options})


def add_frame_selection(parser: argparse._ActionsContainer, frames: int | None, size: str | None) -> None:
    """Add --frames, --stride and --size, which select and crop frames of a video, with these defaults."""
    every = "" if frames else "; all if not given"
    add(parser, "--frames", f"number of frames to read, from the start{every}", default=frames)
    add(parser, "--stride", "read every Nth frame", default=1)
    add(parser, "--size", "crop and resize to HEIGHTxWIDTH pixels, or to a square", default=size)

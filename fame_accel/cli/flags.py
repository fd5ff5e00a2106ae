"""Flags that several commands share: type, range and placeholder of each are written here, once.

A type raises argparse.ArgumentTypeError with a message that reads on from the flag's name: "must be ..., got ...".
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from typing import Any

from fame_accel.core.limits import (
    AUTO,
    AUTO_FPS,
    BACKENDS,
    COUNT,
    DTYPES,
    FITS,
    FPS,
    FRACTION,
    NOT_NEGATIVE,
    SEED,
    SIDE,
    STEPS,
    STRENGTH,
    Range,
    check_size,
)
from fame_accel.core.presets import MODULATIONS

_START = "seconds of the video before the first frame that is taken"
_STRIDE = f"take every Nth frame; {AUTO}: those that play about {AUTO_FPS:.0f} times a second"
_FPS = "frames per second of the video; if not given, its own time stamps, or 8 for a folder"
_FIT = "to the aspect ratio of the size: crop around the center, pad with black, or stretch"
OWN_ASPECT = "the video's aspect ratio, with about the area of 512x512"
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
    """The type of (height, width) in pixels: "WIDTHxHEIGHT", or one number for both."""
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.isdecimal() for side in sides):
        raise argparse.ArgumentTypeError(f"must be WIDTHxHEIGHT or one number, got {text!r}")
    return int(sides[-1]), int(sides[0])


def size_for_vae(text: str) -> tuple[int, int]:
    """The type of (height, width) in pixels that Stable Diffusion's VAE takes: positive multiples of 8."""
    sides = size(text)
    try:
        check_size("", sides)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error).strip()) from error
    return sides


def stride(text: str) -> int | str:
    """The type of the distance between frames: a number, or "auto"."""
    if text != AUTO and not text.lstrip("-").isdecimal():
        raise argparse.ArgumentTypeError(f"must be a whole number or {AUTO}, got {text!r}")
    return text if text == AUTO else int(number(COUNT)(text))


_SHARED: dict[str, dict[str, Any]] = {
    "--frames": dict(type=number(COUNT), metavar="N"),
    "--start": dict(type=number(NOT_NEGATIVE), metavar="SECONDS", help=_START),
    "--stride": dict(type=stride, metavar=f"N|{AUTO}", help=_STRIDE),
    "--size": dict(type=size_for_vae, metavar="WxH"),
    "--width": dict(type=number(SIDE), metavar="PIXELS"),
    "--height": dict(type=number(SIDE), metavar="PIXELS"),
    "--fit": dict(type=one_of(FITS), metavar="NAME", help=_FIT),
    "--fps": dict(type=number(FPS), help=_FPS),
    "--steps": dict(type=number(STEPS), metavar="N"),
    "--guidance": dict(type=number(NOT_NEGATIVE), metavar="SCALE"),
    "--eta": dict(type=number(FRACTION), metavar="STRENGTH"),
    "--strength": dict(type=number(STRENGTH), metavar="SHARE"),
    "--source-guidance": dict(type=number(NOT_NEGATIVE), metavar="SCALE"),
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


def shared_help(name: str) -> str:
    """The help text that a flag has in every command."""
    return str(_SHARED[name]["help"])


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


def add_frame_selection(parser: argparse._ActionsContainer, frames: int | None, size: str) -> None:
    """Add the flags that select frames of a video and bring them to a size.

    Args:
        parser: a parser or a group of one.
        frames: default of --frames; None takes all.
        size: what is done without --size.
    """
    every = "" if frames else "; all if not given"
    add(parser, "--frames", f"number of frames to read{every}", default=frames)
    add(parser, "--start", default=0.0)
    add(parser, "--stride", default=1)
    add(parser, "--size", f"WIDTHxHEIGHT in pixels, or a square; multiples of 8; if not given, {size}")
    add(parser, "--fit", default="crop")
    add(parser, "--fps")

"""What `fame_accel.tools.tune` runs a kernel on: small cases that are judged, and realistic ones that are timed."""

from __future__ import annotations

import torch

from fame_accel.core.modulation import Modulation
from fame_accel.tools.parity_cases import ParityCase, ParityCaseMaker, Size

KERNELS = ("tiled", "one_pass", "two_pass", "few_keys", "streamed_keys")
# Text keys of the last two: those timed, and others that they must be right on.
_KEYS = {"few_keys": 77, "streamed_keys": 512}
_OTHER_KEYS = {"few_keys": 96, "streamed_keys": 130}

TIMED = Size(8, 32, 2, 8)
JUDGED = Size(4, 24, 2, 2)  # regions of several tiles, full and short
TOY, TOY_KEYS = Size(2, 6, 1, 1), 130  # at most, for the interpreter


def timed_cases(
    kernel: str, head_dim: int, dtype: torch.dtype, device: torch.device, size: Size = TIMED
) -> list[ParityCase]:
    """The calls that an edit spends its time in. Of size JUDGED they are small enough for the reference."""
    make = _maker(size, head_dim, dtype, device)
    return _text(make, _KEYS[kernel]) if kernel in _KEYS else [_video(make, kernel)]


def other_cases(kernel: str, head_dim: int, dtype: torch.dtype, device: torch.device) -> list[ParityCase]:
    """Calls that reach the other kernels of the entry, which it must fit as well."""
    make = _maker(JUDGED, head_dim, dtype, device)
    if kernel in _KEYS:
        return _text(make, _OTHER_KEYS[kernel])
    frames = make.size.frames
    return {
        "tiled": [make.case("the first frame alone", Modulation.frames(frames, "first"))],
        "one_pass": [make.case("fame, faster decay", Modulation.fame(frames, decay=1.0))],
        "two_pass": [make.case("fame, keys weighted", Modulation.fame(frames), weighted=True)],
    }[kernel]


def _maker(size: Size, head_dim: int, dtype: torch.dtype, device: torch.device) -> ParityCaseMaker:
    return ParityCaseMaker.of_regions(size if device.type == "cuda" else TOY, head_dim, dtype, device)


def _video(make: ParityCaseMaker, kernel: str) -> ParityCase:
    """The hard mask with time decay, FAME's default modulation, and that with the decay on the strength."""
    frames = make.size.frames
    return {
        "tiled": make.case("region mask", Modulation.region_mask(frames, decay=0.1)),
        "one_pass": make.case("fame", Modulation.fame(frames)),
        "two_pass": make.case("fame, decay on the strength", Modulation.fame(frames, decay_on="strength")),
    }[kernel]


def _text(make: ParityCaseMaker, keys: int) -> list[ParityCase]:
    """Cross-attention, plain and modulated."""
    words = make.words(keys if make.layout.device.type == "cuda" else min(keys, TOY_KEYS))
    pulled = Modulation.videograin(make.size.frames, 1)
    return [
        make.case(f"{keys} text keys", None, words),
        make.case(f"{keys} text keys, modulated", pulled, words, weighted=True),
    ]

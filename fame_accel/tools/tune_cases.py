"""What `fame_accel.tools.tune` runs a kernel on: small cases that are judged, and realistic ones that are timed."""

from __future__ import annotations

import torch

from fame_accel.core.modulation import Modulation
from fame_accel.tools.parity_cases import ParityCase, ParityCaseMaker, Size

# Text keys of the kernels for few of them: those timed, and others that they must be right on.
_KEYS = {"few_keys": 77, "streamed_keys": 512}
_OTHER_KEYS = {"few_keys": 96, "streamed_keys": 130}

TIMED = Size(8, 32, 2, 8)
JUDGED = Size(4, 24, 2, 2)  # regions of several tiles, full and short
TOY, TOY_KEYS = Size(2, 6, 1, 1), 130  # at most, for the interpreter


def timed_cases(
    kernel: str, head_dim: int, dtype: torch.dtype, device: torch.device, size: Size = TIMED
) -> list[ParityCase]:
    """The calls that an edit spends its time in. With size JUDGED they are small enough for the reference.

    On a CPU, in the interpreter, the size is TOY whatever is asked for.
    """
    make = _maker(size, head_dim, dtype, device)
    frames = make.size.frames
    match kernel:
        case "tiled":
            return [make.case("region mask", Modulation.region_mask(frames, decay=0.1))]
        case "one_pass":
            return [make.case("fame", Modulation.fame(frames))]
        case "two_pass":
            return [make.case("fame, decay on the strength", Modulation.fame(frames, decay_on="strength"))]
    return _text_cases(make, _KEYS[kernel])


def other_cases(kernel: str, head_dim: int, dtype: torch.dtype, device: torch.device) -> list[ParityCase]:
    """Calls that reach the other kernels of the entry, which it must fit as well."""
    make = _maker(JUDGED, head_dim, dtype, device)
    frames = make.size.frames
    match kernel:
        case "tiled":
            return [make.case("the first frame alone", Modulation.frames(frames, "first"))]
        case "one_pass":
            return [make.case("fame, faster decay", Modulation.fame(frames, decay=1.0))]
        case "two_pass":
            return [make.case("fame, keys weighted", Modulation.fame(frames), weighted=True)]
    return _text_cases(make, _OTHER_KEYS[kernel])


def _maker(size: Size, head_dim: int, dtype: torch.dtype, device: torch.device) -> ParityCaseMaker:
    return ParityCaseMaker.of_regions(size if device.type == "cuda" else TOY, head_dim, dtype, device)


def _text_cases(make: ParityCaseMaker, keys: int) -> list[ParityCase]:
    """Cross-attention, plain and modulated."""
    words = make.words(keys if make.layout.device.type == "cuda" else min(keys, TOY_KEYS))
    modulation = Modulation.videograin(make.size.frames, 1)
    return [
        make.case(f"{keys} text keys", None, words),
        make.case(f"{keys} text keys, modulated", modulation, words, weighted=True),
    ]

"""The parity self-test: a handful of operations on each backend, held against the reference in float64."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from fame_accel.core.layout import TokenLayout
from fame_accel.core.modulation import Modulation
from fame_accel.tools.doctor.backends import Backend, dtype_name
from fame_accel.tools.doctor.machine import interpreted, one_thread
from fame_accel.tools.parity_cases import ParityCase, ParityCaseMaker, Size

HEAD_DIM = 40  # of Stable Diffusion 1.5, which the kernels split
TEXT_KEYS = 77
PIXELS = Size(frames=8, side=1, batch=6, heads=2)  # short sequences, as in motion modules
# Several tiles a region on a GPU; more keys than sdpa takes without a plan; what the interpreter does in a second.
GPU, CPU, INTERPRETER = Size(4, 24, 1, 2), Size(3, 16, 1, 2), Size(2, 6, 1, 1)


@dataclass(frozen=True)
class Result:
    """ratio: the error as a share of what is allowed, None where there is none or it is not finite. mistake: what went
    wrong, None where the operation passed."""

    device: str
    backend: str
    dtype: str
    operation: str
    ratio: float | None
    mistake: str | None

    @property
    def passed(self) -> bool:
        return self.mistake is None


def run_self_test(backend: Backend, device: torch.device) -> Iterator[Result]:
    """In each dtype that the backend runs in. What an operation raises is its result."""
    for dtype in (getattr(torch, name) for name in backend.dtypes):
        where = (str(device), backend.name, dtype_name(dtype))
        try:
            made = cases(dtype, device, _size(backend.name, device))
        except Exception as error:  # a device that is lost, or out of memory
            yield Result(*where, "making the inputs", None, _said(error))
            continue
        for case in made:
            with one_thread():
                outcome = _outcome(case, backend.name)
            yield Result(*where, case.name, *outcome)


def cases(dtype: torch.dtype, device: torch.device, size: Size) -> list[ParityCase]:
    make, frames = ParityCaseMaker.of_regions(size, HEAD_DIM, dtype, device), size.frames
    words = make.words(TEXT_KEYS)
    fame = Modulation.fame(frames)
    return [
        make.case("plain", None),
        make.case("region mask, decay", Modulation.region_mask(frames, decay=0.1)),
        make.case("videograin", Modulation.videograin(frames)),
        make.case("fame", fame),
        make.case("fame, decay on strength", Modulation.fame(frames, decay_on="strength")),
        make.case("text keys, weighted", Modulation.videograin(frames, 1), words, weighted=True),
        _pixels(dtype, device).case("short sequences", Modulation.fame(PIXELS.frames)),
    ]


def _pixels(dtype: torch.dtype, device: torch.device) -> ParityCaseMaker:
    """Each sequence is the frames of a pixel, which lies in a region or not."""
    generator = torch.Generator(device).manual_seed(0)
    shape = (PIXELS.batch, PIXELS.frames)
    region = torch.randint(2, shape, generator=generator, device=device)
    layout = TokenLayout(region, torch.arange(PIXELS.frames, device=device).expand(shape), PIXELS.frames)
    return ParityCaseMaker(PIXELS, HEAD_DIM, dtype, layout, generator)


def _size(backend: str, device: torch.device) -> Size:
    if backend == "triton" and (device.type == "cpu" or interpreted()):
        return INTERPRETER
    return GPU if device.type == "cuda" else CPU


def _outcome(case: ParityCase, backend: str) -> tuple[float | None, str | None]:
    """(ratio, mistake)."""
    try:
        verdict = case.judge(backend)
    except Exception as error:
        return None, _said(error)
    ratio = round(verdict.ratio, 3) if math.isfinite(verdict.ratio) else None
    if verdict.passed:
        return ratio, None
    told = "error max {:.1e} mean {:.1e}, eager {:.1e} {:.1e}".format(*verdict.errors, *verdict.eager)
    return ratio, f"wrong result: {told}"


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".partition("\n")[0]

"""The parity self-test: a few operations on each backend, compared with the reference in float64."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from fame_accel.core.layout import TokenLayout
from fame_accel.core.modulation import Modulation
from fame_accel.tools.doctor.backends import Backend
from fame_accel.tools.doctor.machine import interpreted, one_thread
from fame_accel.tools.parity_cases import ParityCase, ParityCaseMaker, Size

HEAD_DIM = 40  # of Stable Diffusion 1.5, which the kernels split
TEXT_KEYS = 77
SHORT = Size(frames=8, side=1, batch=6, heads=2)  # short sequences, as in motion modules
# Several tiles a region on a GPU; more keys than sdpa takes without a plan; what the interpreter runs in a second.
GPU, CPU, INTERPRETER = Size(4, 24, 1, 2), Size(3, 16, 1, 2), Size(2, 6, 1, 1)


@dataclass(frozen=True)
class Result:
    """One operation of the self-test.

    ratio: the error as a share of what is allowed; None where there is none, or it is not finite.
    mistake: what is wrong; None where the operation passed.
    """

    device: str
    backend: str
    dtype: str
    operation: str
    ratio: float | None
    mistake: str | None

    @property
    def passed(self) -> bool:
        """Whether its result is right."""
        return self.mistake is None


def run_self_test(backend: Backend, device: torch.device) -> Iterator[Result]:
    """Test each operation in each dtype that the backend runs in; what one raises is its mistake."""
    for name in backend.dtypes:
        dtype = getattr(torch, name)
        try:
            made = cases(dtype, device, _size(backend.name, device))
        except Exception as error:  # a device that is lost, or out of memory
            yield Result(str(device), backend.name, name, "making the inputs", None, _first_line(error))
            continue
        for case in made:
            with one_thread():
                ratio, mistake = _judge(case, backend.name)
            yield Result(str(device), backend.name, name, case.name, ratio, mistake)


def cases(dtype: torch.dtype, device: torch.device, size: Size) -> list[ParityCase]:
    """The operations, with inputs of their own."""
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
        _pixel_cases(dtype, device).case("short sequences", Modulation.fame(SHORT.frames)),
    ]


def _pixel_cases(dtype: torch.dtype, device: torch.device) -> ParityCaseMaker:
    """Makes cases of short sequences: the frames of a pixel, each in the region or not."""
    generator = torch.Generator(device).manual_seed(0)
    shape = (SHORT.batch, SHORT.frames)
    region = torch.randint(2, shape, generator=generator, device=device)
    layout = TokenLayout(region, torch.arange(SHORT.frames, device=device).expand(shape), SHORT.frames)
    return ParityCaseMaker(SHORT, HEAD_DIM, dtype, layout, generator)


def _size(backend: str, device: torch.device) -> Size:
    if backend == "triton" and (device.type == "cpu" or interpreted()):
        return INTERPRETER
    return GPU if device.type == "cuda" else CPU


def _judge(case: ParityCase, backend: str) -> tuple[float | None, str | None]:
    """(ratio, mistake) of Result."""
    try:
        verdict = case.judge(backend)
    except Exception as error:
        return None, _first_line(error)
    ratio = round(verdict.ratio, 3) if math.isfinite(verdict.ratio) else None
    if verdict.passed:
        return ratio, None
    errors = "error max {:.1e} mean {:.1e}, eager {:.1e} {:.1e}".format(*verdict.errors, *verdict.eager)
    return ratio, f"wrong result: {errors}"


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".partition("\n")[0]

"""Peak memory of one call: on a GPU by torch's allocator, on a CPU as resident memory of a process made for it."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager

import torch

from fame_accel.bench.cases import Operation, Shape
from fame_accel.bench.inputs import make_inputs
from fame_accel.bench.providers import COMPILED_ON_CPU, Provider
from fame_accel.tools.measure import give_back, peak_bytes, reset_peak

MIB = 2**20


# freed memory goes back at once, so that none hides
_GIVING_BACK = {"MALLOC_MMAP_THRESHOLD_": str(128 << 10), "MALLOC_TRIM_THRESHOLD_": str(128 << 10)}


class ProcessDied(RuntimeError):
    """The process that measured was killed, most likely for its memory."""


def peak_mib(call: Callable[[], object], device: torch.device) -> float | None:
    """Peak memory of one call above the level before it; None where the system does not tell."""
    base = reset_peak(device)
    call()
    peak = peak_bytes(device)
    return None if base is None or peak is None else (peak - base) / MIB


def peak_in_process(
    shape: Shape, operation: Operation, provider: Provider, dtype: torch.dtype, threads: int
) -> float | None:
    """peak_mib on a CPU of making a provider's plan and of its call, in a process of its own.

    Raises ProcessDied where the system ended it.
    """
    give_back()  # the process needs what this one keeps
    # forked from a server that has imported torch and run nothing
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    try:
        with _environment(_GIVING_BACK), ProcessPoolExecutor(1, mp_context=context) as pool:
            return pool.submit(_measure, shape, operation, provider, dtype, threads).result()
    except BrokenProcessPool as error:
        raise ProcessDied("its process was ended, most likely for its memory") from error


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@torch.no_grad()
def _measure(
    shape: Shape, operation: Operation, provider: Provider, dtype: torch.dtype, threads: int
) -> float | None:
    torch.set_num_threads(threads)
    device = torch.device("cpu")
    inputs = make_inputs(shape, operation, device, dtype)
    small = torch.ones(1, 1, 64, shape.head_dim)
    torch.nn.functional.scaled_dot_product_attention(small, small @ small.mT @ small, small)  # libraries are loaded
    if provider in COMPILED_ON_CPU:
        provider(inputs).call()  # compiling takes memory of its own
    return peak_mib(lambda: provider(inputs).call(), device)

"""Peak memory of one call: on a GPU by torch's allocator, on a CPU as the resident memory of a process of its own."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager

import torch

from fame_accel.bench.inputs import make_inputs
from fame_accel.bench.prepared import Provider
from fame_accel.bench.workload import AttentionOperation, LayerShape
from fame_accel.tools.measure import peak_bytes, reset_peak, return_freed_memory

# for glibc: freed memory goes back at once, so that no later allocation hides in it
_RETURN_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(128 << 10), "MALLOC_TRIM_THRESHOLD_": str(128 << 10)}


class ProcessDied(RuntimeError):
    """The process that measured was ended by the system."""


def peak_mib(call: Callable[[], object], device: torch.device) -> float | None:
    """Peak memory of one call above the level before it, in MiB; None where the system does not tell."""
    base = reset_peak(device)
    call()
    peak = peak_bytes(device)
    return None if base is None or peak is None else (peak - base) / 2**20


def peak_in_process(
    shape: LayerShape, operation: AttentionOperation, provider: Provider, dtype: torch.dtype, warm_up: bool = False
) -> float | None:
    """Peak memory on a CPU of a provider's plan and call, measured in a new process with as many threads as this one.

    Args:
        shape: of the call.
        operation: of the call.
        provider: a function at the top of a module.
        dtype: of the call.
        warm_up: whether to call once before, for what the first call compiles.

    Returns:
        MiB, or None where the system does not tell.

    Raises:
        ProcessDied: the system ended the process.
    """
    return_freed_memory()  # the process needs what this one keeps
    context = multiprocessing.get_context("forkserver")  # its server has imported torch and run nothing
    context.set_forkserver_preload([__name__])
    arguments = (shape, operation, provider, dtype, torch.get_num_threads(), warm_up)
    try:
        with _environment(_RETURN_MEMORY), ProcessPoolExecutor(1, mp_context=context) as pool:
            return pool.submit(_measure, *arguments).result()
    except BrokenProcessPool as error:
        raise ProcessDied("its process was ended, most likely for its memory") from error


@contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    """Set environment variables within the context."""
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@torch.no_grad()
def _measure(
    shape: LayerShape,
    operation: AttentionOperation,
    provider: Provider,
    dtype: torch.dtype,
    threads: int,
    warm_up: bool,
) -> float | None:
    torch.set_num_threads(threads)
    device = torch.device("cpu")
    inputs = make_inputs(shape, operation, device, dtype)
    small = torch.ones(1, 1, 64, shape.head_dim)
    torch.nn.functional.scaled_dot_product_attention(small, small @ small.mT @ small, small)  # libraries are loaded
    if warm_up:
        provider(inputs).call()
    return peak_mib(lambda: provider(inputs).call(), device)

"""The devices of this machine, as torch sees them and as nvidia-smi does."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch.nn.functional import scaled_dot_product_attention

_SMI = ("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader")
_SMI_SECONDS = 15


@dataclass(frozen=True)
class Cpu:
    """The processor.

    threads: that torch uses.
    cpus: that this process may use.
    capability: the vector instructions that torch uses.
    half_slowdown: the time of attention in float16 as a multiple of that in float32.
    """

    threads: int
    cpus: int
    capability: str
    half_slowdown: float


@dataclass(frozen=True)
class Gpu:
    """A cuda device of torch. error: why it cannot be used; the other fields are then empty."""

    device: str
    name: str = ""
    capability: str = ""
    memory_gib: float = 0.0
    error: str | None = None


@dataclass(frozen=True)
class Machine:
    """The devices. nvidia_gpus, nvidia_driver: as nvidia-smi lists them, empty and None where there is none."""

    cpu: Cpu
    gpus: list[Gpu] = field(default_factory=list)
    nvidia_gpus: list[str] = field(default_factory=list)
    nvidia_driver: str | None = None

    @property
    def devices(self) -> list[torch.device]:
        """Those that tests can run on."""
        return [torch.device("cpu"), *(torch.device(gpu.device) for gpu in self.gpus if gpu.error is None)]


def find_machine() -> Machine:
    """The devices of this machine."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return Machine(_cpu(), [_gpu(index) for index in range(count)], *_nvidia_smi())


def interpreted() -> bool:
    """Whether Triton is asked to interpret kernels."""
    return os.environ.get("TRITON_INTERPRET") == "1"


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch use one thread: for small tensors, waking more costs more than it saves."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _cpu() -> Cpu:
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with one_thread():
        slowdown = _attention_seconds(torch.float16) / _attention_seconds(torch.float32)
    return Cpu(torch.get_num_threads(), cpus, torch.backends.cpu.get_cpu_capability(), round(slowdown, 1))


def _gpu(index: int) -> Gpu:
    name = f"cuda:{index}"
    try:
        properties = torch.cuda.get_device_properties(index)
        torch.zeros(1, device=name).item()
    except RuntimeError as error:  # lost, in exclusive use, or of an architecture that torch was not built for
        return Gpu(name, error=str(error).partition("\n")[0])
    arch = properties.gcnArchName if torch.version.hip else f"sm_{properties.major}{properties.minor}"
    return Gpu(name, properties.name, arch, round(properties.total_memory / 2**30, 1))


def _nvidia_smi() -> tuple[list[str], str | None]:
    """Names of the GPUs and the driver's version."""
    try:
        result = subprocess.run(
            _SMI, capture_output=True, text=True, errors="replace", timeout=_SMI_SECONDS, check=True
        )
    except (OSError, subprocess.SubprocessError):  # not installed, or it failed
        return [], None
    rows = [[part.strip() for part in line.rsplit(",", 1)] for line in result.stdout.splitlines() if "," in line]
    return [name for name, _ in rows], rows[0][1] if rows else None


def _attention_seconds(dtype: torch.dtype) -> float:
    """Shortest of nine times of a short attention on the CPU, so that other processes disturb it less."""
    x = torch.ones(1, 4, 512, 40, dtype=dtype)
    scaled_dot_product_attention(x, x, x)
    times = []
    for _ in range(9):
        start = time.perf_counter()
        scaled_dot_product_attention(x, x, x)
        times.append(time.perf_counter() - start)
    return min(times)

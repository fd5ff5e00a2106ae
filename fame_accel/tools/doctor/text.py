"""The report as text, at most 96 columns wide."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence

from fame_accel.tools.doctor.backends import Backend, Launches, LaunchFile
from fame_accel.tools.doctor.machine import Machine
from fame_accel.tools.doctor.packages import Package
from fame_accel.tools.doctor.problems import Problem
from fame_accel.tools.doctor.self_test import Result

WIDTH = 96


def versions_text(builds: dict[str, str | None], packages: Iterable[Package]) -> str:
    rows = [(name, version or "none") for name, version in builds.items()]
    for package in packages:
        state = package.version or "not installed"
        if package.file is False:
            state += ", without its file"
        rows.append((package.name, state if not package.missing else f"{state}: for {package.purpose}"))
    return "\n".join(["Versions", *_pairs(rows)])


def devices_text(machine: Machine) -> str:
    cpu = machine.cpu
    told = (
        f"{cpu.threads} threads of torch on {cpu.cpus} CPUs, {cpu.capability}; "
        f"attention in float16 takes {cpu.half_slowdown:g} times as long as in float32"
    )
    rows = [("cpu", told)]
    for gpu in machine.gpus:
        told = gpu.error or f"{gpu.name}, {gpu.capability}, {gpu.memory_gib:g} GiB"
        rows.append((gpu.device, told))
    if machine.nvidia_gpus:
        rows.append(("nvidia-smi", f"{', '.join(machine.nvidia_gpus)}; driver {machine.nvidia_driver}"))
    return "\n".join(["Devices", *_pairs(rows)])


def backends_text(backends: Iterable[Backend]) -> str:
    rows = []
    for backend in backends:
        told = [", ".join(backend.dtypes)] if backend.dtypes else []
        for reason in dict.fromkeys(reason for reason in backend.reasons.values() if reason is not None):
            without = [dtype for dtype, why in backend.reasons.items() if why == reason]
            told.append(f"not {', '.join(without) if backend.dtypes else 'here'}: {reason}")
        rows.append((f"{backend.device} {backend.name}", "; ".join(told)))
    return "\n".join(["Backends", *_pairs(rows)])


def launches_text(file: LaunchFile | None, launches: Iterable[Launches]) -> str:
    lines = ["Launches of the kernels"]
    if file is not None:
        state = f"{file.entries} launches" if file.error is None else "does not load"
        lines += _pairs([("FAME_ACCEL_LAUNCHES", f"{file.path}: {state}")])
    for found in launches:
        lines.append(f"  {found.device}, {found.family}{'' if found.known else ', not in the table'}")
        for kernel, sizes in found.entries.items():
            for size, row in sizes.items():
                alike: dict[str, list[str]] = {}
                for head_dim, launch in row.items():
                    alike.setdefault(launch, []).append(str(head_dim))
                told = [f"head_dim {', '.join(dims)}: {launch}" for launch, dims in alike.items()]
                lines += [
                    f"    {kernel + ', ' + size if place == 0 else '':24}{line}" for place, line in enumerate(told)
                ]
    return "\n".join(lines)


def results_text(results: Sequence[Result]) -> str:
    """A table of one backend on one device: an operation a row, a dtype a column."""
    dtypes = list(dict.fromkeys(result.dtype for result in results))
    cells = {(result.operation, result.dtype): _cell(result) for result in results}
    lines = [f"  {f'{results[0].backend} on {results[0].device}':28}" + "".join(f"{dtype:16}" for dtype in dtypes)]
    for operation in dict.fromkeys(result.operation for result in results):
        lines.append(f"    {operation:26}" + "".join(f"{cells.get((operation, dtype), ''):16}" for dtype in dtypes))
    lines = [line.rstrip() for line in lines]
    alike: dict[str, list[str]] = {}
    for result in results:
        if result.mistake is not None:
            alike.setdefault(result.mistake, []).append(f"{result.operation} in {result.dtype}")
    for mistake, where in alike.items():
        others = f" and {len(where) - 1} more" if len(where) > 1 else ""
        lines += _wrapped("    ", f"{where[0]}{others}: {mistake}")
    return "\n".join(lines)


def problems_text(problems: Sequence[Problem]) -> str:
    if not problems:
        return "Nothing amiss."
    lines = ["What is amiss, and what to do"]
    for problem in problems:
        lines += _wrapped("  - ", problem.problem) + _wrapped("    -> ", problem.suggestion)
    return "\n".join(lines)


def _cell(result: Result) -> str:
    ratio = result.ratio
    told = "" if ratio is None else f"{ratio:.2f} " if ratio < 1000 else f"{ratio:.0e} "
    return f"{told}{'passed' if result.passed else 'FAILED'}"


def _pairs(rows: Sequence[tuple[str, str]]) -> list[str]:
    width = max(len(name) for name, _ in rows) + 2
    return [line for name, told in rows for line in _wrapped(f"  {name:{width}}", told)]


def _wrapped(start: str, text: str) -> list[str]:
    options = dict(break_long_words=False, break_on_hyphens=False)  # so that commands and paths can be copied
    return textwrap.wrap(text, WIDTH, initial_indent=start, subsequent_indent=" " * len(start), **options)

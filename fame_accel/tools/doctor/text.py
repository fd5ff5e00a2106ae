"""The report as text, at most 96 columns wide."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence

from fame_accel.kernels.launch_table import VARIABLE
from fame_accel.tools.doctor.backends import Backend, Launches, LaunchFile
from fame_accel.tools.doctor.machine import Machine
from fame_accel.tools.doctor.packages import Package
from fame_accel.tools.doctor.problems import Problem
from fame_accel.tools.doctor.self_test import Result

WIDTH = 96


def versions_text(builds: dict[str, str | None], packages: Iterable[Package]) -> str:
    """The section of versions; a missing package has its purpose beside it."""
    rows = [(name, version or "none") for name, version in builds.items()]
    for package in packages:
        state = package.version or "not installed"
        if package.file is False:
            state += ", without its file"
        rows.append((package.name, f"{state}: for {package.purpose}" if package.missing else state))
    return _section("Versions", rows)


def devices_text(machine: Machine) -> str:
    """The section of devices."""
    cpu = machine.cpu
    state = (
        f"{cpu.threads} threads of torch on {cpu.cpus} CPUs, {cpu.capability}; "
        f"attention in float16 takes {cpu.half_slowdown:g} times as long as in float32"
    )
    rows = [("cpu", state)]
    rows += [(gpu.device, gpu.error or f"{gpu.name}, {gpu.capability}, {gpu.memory_gib:g} GiB") for gpu in machine.gpus]
    if machine.nvidia_gpus:
        rows.append(("nvidia-smi", f"{', '.join(machine.nvidia_gpus)}; driver {machine.nvidia_driver}"))
    return _section("Devices", rows)


def backends_text(backends: Iterable[Backend]) -> str:
    """The section of backends: the dtypes that each runs in, and why not in the others."""
    rows = []
    for backend in backends:
        parts = [", ".join(backend.dtypes)] if backend.dtypes else []
        for reason, dtypes in _grouped((reason, dtype) for dtype, reason in backend.reasons.items() if reason):
            parts.append(f"not {', '.join(dtypes) if backend.dtypes else 'here'}: {reason}")
        rows.append((f"{backend.device} {backend.name}", "; ".join(parts)))
    return _section("Backends", rows)


def launches_text(file: LaunchFile | None, launches: Iterable[Launches]) -> str:
    """The section of launches: head dimensions with the same launch share a line."""
    lines = ["Launches of the kernels"]
    if file is not None:
        state = f"{file.entries} launches" if file.error is None else "does not load"
        lines += _wrapped(f"  {VARIABLE}  ", f"{file.path}: {state}")
    for table in launches:
        lines.append(f"  {table.device}, {table.family}{'' if table.known else ', not in the table'}")
        for kernel, sizes in table.entries.items():
            for size, row in sizes.items():
                label = f"{kernel}, {size}"
                for launch, head_dims in _grouped((launch, str(head_dim)) for head_dim, launch in row.items()):
                    lines.append(f"    {label:24}head_dim {', '.join(head_dims)}: {launch}")
                    label = ""
    return "\n".join(lines)


def results_text(results: Sequence[Result]) -> str:
    """A table of one backend on one device: an operation a row, a dtype a column; then each mistake once."""
    dtypes = list(dict.fromkeys(result.dtype for result in results))
    cells = {(result.operation, result.dtype): _cell(result) for result in results}
    lines = [f"  {f'{results[0].backend} on {results[0].device}':28}" + "".join(f"{dtype:16}" for dtype in dtypes)]
    for operation in dict.fromkeys(result.operation for result in results):
        lines.append(f"    {operation:26}" + "".join(f"{cells.get((operation, dtype), ''):16}" for dtype in dtypes))
    lines = [line.rstrip() for line in lines]
    failures = ((result.mistake, f"{result.operation} in {result.dtype}") for result in results if result.mistake)
    for mistake, operations in _grouped(failures):
        others = f" and {len(operations) - 1} more" if len(operations) > 1 else ""
        lines += _wrapped("    ", f"{operations[0]}{others}: {mistake}")
    return "\n".join(lines)


def problems_text(problems: Sequence[Problem]) -> str:
    """The last section: each problem with what to do about it."""
    if not problems:
        return "No problems."
    lines = ["Problems, and what to do"]
    for problem in problems:
        lines += _wrapped("  - ", problem.problem) + _wrapped("    -> ", problem.suggestion)
    return "\n".join(lines)


def _cell(result: Result) -> str:
    ratio = result.ratio
    share = "" if ratio is None else f"{ratio:.2f} " if ratio < 1000 else f"{ratio:.0e} "
    return f"{share}{'passed' if result.passed else 'FAILED'}"


def _grouped(pairs: Iterable[tuple[str, str]]) -> Iterable[tuple[str, list[str]]]:
    """(key, values) of (key, value), keys in the order in which they first occur."""
    groups: dict[str, list[str]] = {}
    for key, value in pairs:
        groups.setdefault(key, []).append(value)
    return groups.items()


def _section(title: str, rows: Sequence[tuple[str, str]]) -> str:
    """A title, then names and values in two columns."""
    width = max(len(name) for name, _ in rows) + 2
    return "\n".join([title, *(line for name, value in rows for line in _wrapped(f"  {name:{width}}", value))])


def _wrapped(start: str, text: str) -> list[str]:
    """Lines of the report; commands and paths stay whole, so that they can be copied."""
    indent = " " * len(start)
    return textwrap.wrap(
        text, WIDTH, initial_indent=start, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )

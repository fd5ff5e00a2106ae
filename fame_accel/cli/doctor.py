"""Say what this machine can run of the library, test each backend against the reference, and what to do where
something is amiss."""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fame_accel.media.files import atomic_write
from fame_accel.tools.doctor import problems, text
from fame_accel.tools.doctor.backends import find_backends, find_launch_file, find_launches
from fame_accel.tools.doctor.machine import find_machine
from fame_accel.tools.doctor.packages import find_builds, find_packages
from fame_accel.tools.doctor.self_test import Result, run_self_test


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", metavar="FILE", help="JSON file to write the report to")


def command(json: str | None = None) -> int:
    return 0 if run_doctor(json)["passed"] else 1


def run_doctor(out: str | None = None) -> dict[str, Any]:
    """Print the report section by section, write it to the JSON file ``out`` if given, and return it.

    The reference backend is what the others are judged by, so no test of it is made. ``passed``: whether every
    operation of the self-test did; other problems are reported and leave it as it is.

    Raises:
        ValueError: ``out`` is a folder, or in none.
    """
    if out is not None and (Path(out).is_dir() or not Path(out).absolute().parent.is_dir()):
        raise ValueError(f"--json {out} must be a file in a folder that exists")
    builds, packages = find_builds(), find_packages()
    _section(text.versions_text(builds, packages))
    machine = find_machine()
    _section(text.devices_text(machine))
    backends = [backend for device in machine.devices for backend in find_backends(device)]
    _section(text.backends_text(backends))
    file = find_launch_file()
    launches = [found for device in machine.devices if (found := find_launches(device)) is not None]
    if file is not None or launches:
        _section(text.launches_text(file, launches))

    print("Self-test: error against the reference in float64, as a share of what is allowed", flush=True)
    start, results = time.perf_counter(), []
    for device in machine.devices:
        for backend in backends:
            if backend.device == str(device) and backend.name != "reference" and backend.dtypes:
                found = list(run_self_test(backend, device))
                print(text.results_text(found), flush=True)
                results += found
    _section(_summary(results, time.perf_counter() - start))

    amiss = [
        *problems.gpu_problems(machine),  # causes first
        *problems.backend_problems(machine),
        *problems.launch_problems(file, launches),
        *problems.parity_problems(results),
        *problems.cpu_problems(machine),
        *problems.package_problems(packages),
    ]
    print(text.problems_text(amiss))
    report = {
        "versions": builds,
        "packages": [asdict(package) for package in packages],
        "machine": asdict(machine),
        "backends": [asdict(backend) for backend in backends],
        "launch_file": None if file is None else asdict(file),
        "launches": [asdict(found) for found in launches],
        "self_test": [asdict(result) | {"passed": result.passed} for result in results],
        "problems": [asdict(problem) for problem in amiss],
        "passed": all(result.passed for result in results),
    }
    if out is not None:
        with atomic_write(out) as temporary:
            temporary.write_text(json.dumps(report, indent=2, allow_nan=False) + "\n", encoding="utf-8")
        print(f"\nWrote {out}")
    return report


def _section(told: str) -> None:
    print(told, end="\n\n", flush=True)


def _summary(results: list[Result], seconds: float) -> str:
    failed = sum(not result.passed for result in results)
    return f"  {len(results)} operations in {seconds:.1f} s, {f'{failed} FAILED' if failed else 'all passed'}"

"""The doctor's report: printed section by section, and as JSON."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from typing import Any

from fame_accel.media.outputs import atomic_write, check_output_file
from fame_accel.tools.doctor import problems, text
from fame_accel.tools.doctor.backends import find_backends, find_launch_file, find_launches
from fame_accel.tools.doctor.machine import find_machine
from fame_accel.tools.doctor.packages import find_builds, find_packages
from fame_accel.tools.doctor.self_test import Result, run_self_test


def run_doctor(out: str | None = None) -> dict[str, Any]:
    """Print the report section by section, write it to the JSON file `out` if given, and return it.

    The reference backend judges the others, so it is not tested. The report's "passed" says whether every operation of
    the self-test did; other problems do not change it.

    Raises:
        ValueError: `out` is a folder, or lies in a folder that does not exist.
    """
    if out is not None:
        check_output_file("--json", out)
    builds, packages = find_builds(), find_packages()
    _print(text.versions_text(builds, packages))
    machine = find_machine()
    _print(text.devices_text(machine))
    backends = {device: find_backends(device) for device in machine.devices}
    _print(text.backends_text(backend for group in backends.values() for backend in group))
    file = find_launch_file()
    launches = [table for device in machine.devices if (table := find_launches(device)) is not None]
    if file is not None or launches:
        _print(text.launches_text(file, launches))

    print("Self-test: error against the reference in float64, as a share of what is allowed", flush=True)
    start = time.perf_counter()
    results: list[Result] = []
    for device, group in backends.items():
        for backend in group:
            if backend.name != "reference" and backend.dtypes:
                tested = list(run_self_test(backend, device))
                print(text.results_text(tested), flush=True)
                results += tested
    failed = sum(not result.passed for result in results)
    outcome = f"{failed} FAILED" if failed else "all passed"
    _print(f"  {len(results)} operations in {time.perf_counter() - start:.1f} s, {outcome}")

    all_problems = [
        *problems.gpu_problems(machine),  # causes first
        *problems.backend_problems(machine),
        *problems.launch_problems(file, launches),
        *problems.parity_problems(results),
        *problems.cpu_problems(machine),
        *problems.package_problems(packages),
    ]
    print(text.problems_text(all_problems))
    report = {
        "versions": builds,
        "packages": [asdict(package) for package in packages],
        "machine": asdict(machine),
        "backends": [asdict(backend) for group in backends.values() for backend in group],
        "launch_file": None if file is None else asdict(file),
        "launches": [asdict(table) for table in launches],
        "self_test": [asdict(result) | {"passed": result.passed} for result in results],
        "problems": [asdict(problem) for problem in all_problems],
        "passed": not failed,
    }
    if out is not None:
        with atomic_write(out) as temporary:
            temporary.write_text(json.dumps(report, indent=2, allow_nan=False) + "\n", encoding="utf-8")
        print(f"\nWrote {out}")
    return report


def _print(section: str) -> None:
    print(section, end="\n\n", flush=True)

"""The JSON of pytest-benchmark names the chip of a machine, and not the machine."""

from __future__ import annotations

from typing import Any


def pytest_benchmark_update_machine_info(machine_info: dict[str, Any]) -> None:
    machine_info.pop("node", None)
    machine_info["cpu"] = {name: machine_info["cpu"].get(name) for name in ("brand_raw", "arch", "count")}

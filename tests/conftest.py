"""What all tests share: Triton's interpreter where there is no GPU, a seed, memory that starts as NaN."""

import copy
import os
from collections.abc import Iterator
from types import ModuleType

import pytest
import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read by Triton when fame_accel.kernels is imported

torch.set_num_threads(1)  # inputs are small: waking threads costs more than it saves

pytest.register_assert_rewrite("cases")


NO_GPU = "needs a CUDA device"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason=NO_GPU))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    skipped = sum(NO_GPU in str(report.longrepr) for report in terminalreporter.stats.get("skipped", []))
    if skipped:
        terminalreporter.write_line(f"{skipped} tests marked gpu did not run: no CUDA device")


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def poisoned_memory() -> Iterator[None]:
    """torch.empty and its kind return NaN (integers: their largest), so that a row nobody wrote shows."""
    fill = torch.utils.deterministic.fill_uninitialized_memory
    enabled, warn_only = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    torch.utils.deterministic.fill_uninitialized_memory = True
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(enabled, warn_only=warn_only)
    torch.utils.deterministic.fill_uninitialized_memory = fill


@pytest.fixture
def launch_table(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """fame_accel.kernels.launch_table as built in; what a test does to it ends with the test."""
    from fame_accel.kernels import launch_table

    monkeypatch.delenv(launch_table.VARIABLE, raising=False)
    monkeypatch.setattr(launch_table, "_TABLE", copy.deepcopy(launch_table._TABLE))
    monkeypatch.setattr(launch_table, "_from_variable", [])
    monkeypatch.setattr(launch_table, "_unknown_logged", set())
    return launch_table

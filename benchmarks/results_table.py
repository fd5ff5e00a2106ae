"""Reading measured.csv: the newest rows of a case, and tables of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache

from benchmarks.measure import RESULTS
from fame_accel.bench.rows import read

CPU_SELF, CPU_TEXT = "sd15-32x32-f8", "sd15-{0}x{0}-f8-text{1}"
NETWORK = "sd15-32x32-f8"
GPU_SELF = {
    "sd15-64x64-f8": "SD 1.5, 8 frames of 64x64, 8 heads of 40",
    "sd15-32x32-f8": "SD 1.5, 8 frames of 32x32, 8 heads of 80",
    "sdxl-64x64-f8": "SDXL, 8 frames of 64x64, 10 heads of 64",
    "wan-32x32-f21": "21 frames of 32x32, 12 heads of 128",
}
FRAMES = (2, 4, 8, 16, 32, 64)
# Processors of one name, of which the second is Zen 4 and the first was not recorded further.
CPUS = ("AMD EPYC CPU", "AMD EPYC (family 25, model 17) CPU")


@cache
def _rows() -> tuple[dict[str, str], ...]:
    return tuple(read(RESULTS))


def newest(
    shape: str, operation: str, holding: str = "ours_sdpa", kept: bool = True, device: str = "CPU"
) -> dict[str, dict[str, str]]:
    """The newest rows of a case.

    Args:
        shape: its name.
        operation: its name.
        holding: a provider that the run must have measured.
        kept: whether freed memory was kept, or returned to the system as C libraries do by default (a GPU keeps it).
        device: part of the device's name.

    Returns:
        The rows of the last such run by provider; none without one.
    """
    wanted = (shape, operation, kept)
    there = [row for row in _rows() if device in row["device"]]
    matching = [r for r in there if (r["shape"], r["operation"], _keeps(r["device"])) == wanted]
    runs = [row["run"] for row in matching if row["provider"] == holding]
    return {row["provider"]: row for row in matching if row["run"] == runs[-1]} if runs else {}


def _keeps(device: str) -> bool:
    return "CPU" not in device or "freed memory kept" in device


def where(rows: Iterable[dict[str, str]]) -> str:
    """Device, versions, date and commit of some rows, without repetition."""
    rows = list(rows)
    parts = [dict.fromkeys(row[column] for row in rows) for column in ("device", "torch", "date", "commit")]
    device, torch, date, commit = (", ".join(part) for part in parts)
    return f"{device}, torch {torch}, {date}, at {commit}"


def time(row: dict[str, str] | None) -> str:
    """Median time with three digits."""
    if row is None or not row["p50_ms"]:
        return "-"
    ms = float(row["p50_ms"])
    return f"{ms / 1e3:.3g} s" if ms >= 1000 else f"{ms:.3g} ms"


def memory(row: dict[str, str] | None) -> str:
    """Peak memory in the unit that suits it."""
    if row is None or not row["peak_mib"]:
        return "-"
    mib = float(row["peak_mib"])
    return f"{mib / 1024:.3g} GiB" if mib >= 1000 else f"{mib:.0f} MiB"


def times(row: dict[str, str] | None, column: str = "eager_speedup") -> str:
    """A ratio, such as 12.6x."""
    if row is None or not row[column]:
        return "-"
    return f"{float(row[column]):.1f}x" if float(row[column]) < 100 else f"{float(row[column]):.0f}x"


def markdown(titles: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    rows = [titles, ["---"] * len(titles), *lines]
    return "".join("| " + " | ".join(row) + " |\n" for row in rows)

"""Write the README's table of measurements from the committed CSV.

python -m benchmarks.readme_table
"""

from __future__ import annotations

import csv
import re
from pathlib import Path

from benchmarks.compare import RESULTS

README = Path(__file__).parents[1] / "README.md"
_PART = re.compile(r"(<!-- compare -->\n).*(<!-- /compare -->)", re.DOTALL)


def table() -> str:
    """Markdown of the newest run in compare.csv: its last row of every operation."""
    with RESULTS.open(newline="") as file:
        rows = {row["operation"]: row for row in csv.DictReader(file)}.values()
    row = list(rows)[-1]
    lines = [
        f"{row['frames']} frames of {row['size']}x{row['size']} tokens, three regions, {row['heads']} heads, head_dim "
        f"{row['head_dim']}, {row['dtype']}; {row['device']}, torch {row['torch']}, {row['date']}; medians of one run, "
        "repeats interleaved (`python -m benchmarks.compare`):",
        "",
        "| operation | backend | time | eager | speed-up | peak memory | eager |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {r['operation']} | {r['backend']} | {float(r['ms']):.0f} ms | {float(r['baseline_ms']):.0f} ms "
        f"| {float(r['speedup']):.1f}x | {float(r['peak_mib']):.0f} MiB | {float(r['baseline_peak_mib']):.0f} MiB |"
        for r in rows
    ]
    return "\n".join(lines) + "\n"


def written() -> str:
    """What the README has between its marks."""
    return _PART.search(README.read_text())[0]


def main() -> None:
    README.write_text(_PART.sub(lambda match: match[1] + table() + match[2], README.read_text()))


if __name__ == "__main__":
    main()

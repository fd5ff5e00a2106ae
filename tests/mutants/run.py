"""Plants the faults of `faults.py` one at a time in a copy of the tree, and runs the tests that must fail there.

Exits with 1 if a fault survives, cannot be planted, or breaks more than a test (a file that cannot be imported is no
evidence). Writes `table.md`: every fault with the first test that failed.
"""

from __future__ import annotations

import argparse
import os
import queue
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from faults import FAULTS, Fault

ROOT = Path(__file__).resolve().parents[2]
TABLE = Path(__file__).with_name("table.md")
HEADING = """# Planted faults

What `make mutants` plants, one fault at a time, and the first test that fails with each. Written by
`tests/mutants/run.py`; do not edit.

| fault | file | killed by |
|---|---|---|
"""


def copy_tree(target: Path) -> Path:
    """The files that git knows, links kept as links, in the state they have in the working tree."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        if os.path.lexists(ROOT / name):
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name, follow_symlinks=False)
    return target


def run_tests(tree: Path, tests: tuple[str, ...]) -> tuple[int, str]:
    """(exit status, output) of pytest on these tests of the tree."""
    options = ["-x", "-q", "-rfEs", "--tb=line", "-p", "no:cacheprovider"]
    command = [sys.executable, "-B", "-m", "pytest", *options, *tests]
    environment = os.environ | {"PYTHONPATH": str(tree)}
    done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def plant(tree: Path, fault: Fault) -> str:
    """Put the fault into the tree; returns the file's text as it was."""
    text = (tree / fault.file).read_text(encoding="utf-8")
    if text.count(fault.old) != 1:
        raise ValueError(f"{fault.file} holds {text.count(fault.old)} times, and must hold once:\n{fault.old}")
    (tree / fault.file).write_text(text.replace(fault.old, fault.new), encoding="utf-8")
    return text


def first_failure(output: str) -> str | None:
    """The id of the first test that failed."""
    match = re.search(r"^FAILED (tests/\S+?::.*?)(?: - .*)?$", output, re.MULTILINE)
    return match and match[1]


def judge(tree: Path, fault: Fault) -> tuple[str | None, str]:
    """(id of the test that killed the fault, output); None where none did."""
    try:
        before = plant(tree, fault)
    except ValueError as error:
        return None, str(error)
    status, output = run_tests(tree, fault.tests)
    (tree / fault.file).write_text(before, encoding="utf-8")
    return (first_failure(output) if status == 1 else None), output


def main() -> int:
    """Judge the faults whose name holds --only, or all of them and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=2, help="copies of the tree that are tested at once")
    parser.add_argument("--only", default="", help="part of the names of the faults to plant")
    arguments = parser.parse_args()
    faults = [fault for fault in FAULTS if arguments.only in fault.name]
    with tempfile.TemporaryDirectory() as folder:
        trees: queue.Queue[Path] = queue.Queue()
        for number in range(arguments.workers):
            trees.put(copy_tree(Path(folder, str(number))))

        def in_free_tree(function, *rest):
            tree = trees.get()
            try:
                return function(tree, *rest)
            finally:
                trees.put(tree)

        with ThreadPoolExecutor(arguments.workers) as pool:
            for status, output in pool.map(lambda tests: in_free_tree(run_tests, tests), {f.tests for f in faults}):
                if status:
                    print(f"without a fault, the tests must pass:\n{output}")
                    pool.shutdown(cancel_futures=True)
                    return 1
            judged = [pool.submit(in_free_tree, judge, fault) for fault in faults]
            survivors, rows = 0, []
            for fault, future in zip(faults, judged, strict=True):
                killer, output = future.result()
                print(f"{'killed' if killer else 'SURVIVED'}: {fault.name}", flush=True)
                if killer is None:
                    survivors += 1
                    print(output)
                rows.append(f"| {fault.name} | {fault.file} | `{killer}` |\n")
    if not arguments.only and not survivors:
        TABLE.write_text(HEADING + "".join(rows), encoding="utf-8")
    print(f"{len(faults) - survivors} of {len(faults)} faults killed")
    return int(survivors > 0)


if __name__ == "__main__":
    sys.exit(main())

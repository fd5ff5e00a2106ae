"""`fame-accel` as a process: what it imports, interrupts, streams that are closed, broken or of another encoding."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support import ROOT

from fame_accel import __version__

# Runs the command with a module that sends SIGINT to its own process in place of torch, and goes on if nothing happens.
INTERRUPTED_IMPORT = """
import os, signal, sys
class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupting())
sys.argv[1:] = {arguments!r}
from fame_accel.__main__ import main
sys.exit(main())
"""


def run(arguments: list[str], **options: object) -> subprocess.CompletedProcess:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": ""} | options.pop("env", {})
    streams = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE) | options
    return subprocess.run([sys.executable, *arguments], env=environment, text=True, **streams)


def shell(line: str) -> subprocess.CompletedProcess:
    """A line of bash; {command} is the command."""
    return run(["-c", "import os, sys; os.execvp('bash', ['bash', '-c', sys.argv[1]])",
                line.format(command=f"{sys.executable} -m fame_accel")])  # fmt: skip


@pytest.mark.parametrize(
    "arguments, status",
    [(["--help"], 0), (["--version"], 0), ([], 2), (["paint"], 2), (["edit", "--help"], 0), (["edit", "--paint"], 2),
     (["edit"], 2), (["bench", "--paint"], 2), (["suite", "--paint"], 2), (["demo", "--paint"], 2)],
)  # fmt: skip
def test_help_and_wrong_flags_do_not_import_torch(arguments: list[str], status: int):
    done = run(["-X", "importtime", "-m", "fame_accel", *arguments])
    assert done.returncode == status
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "fame_accel.cli" in imported and not imported & {"torch", "numpy"}


def test_version():
    assert run(["-m", "fame_accel", "--version"]).stdout == f"fame-accel {__version__}\n"


@pytest.mark.parametrize(
    "module, arguments",
    [("argparse", ["--help"]), ("fame_accel.cli.plan", ["plan"]), ("torch", ["plan", "--frames", "1"])],
)
def test_an_interrupted_import_ends_in_one_line(module: str, arguments: list[str]):
    done = run(["-c", INTERRUPTED_IMPORT.format(module=module, arguments=arguments)])
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "fame-accel: interrupted\n")


NEEDED = {
    "edit": ["--model", "m", "--video", "v", "--masks", "k", "--prompt", "p", "--region", "a=p", "--out", "o.mp4"],
    "suite": ["--model", "m", "--video", "v", "--masks", "k", "--out", "o"],
    "evaluate": ["source", "edited"],
    "demo": [],
}


@pytest.mark.parametrize("command", NEEDED)
def test_something_is_printed_before_imports_that_take_seconds(command: str):
    """Torch's import, interrupted here, is the first of them."""
    done = run(["-c", INTERRUPTED_IMPORT.format(module="torch", arguments=[command, *NEEDED[command]])])
    assert (done.returncode, done.stderr) == (130, "fame-accel: interrupted\n")
    assert done.stdout.startswith("importing torch, ") and done.stdout.count("\n") == 1


def test_a_reader_that_went_before_gives_the_status_of_a_broken_pipe():
    reading, writing = os.pipe()
    os.close(reading)
    done = run(["-m", "fame_accel", "--help"], stdout=writing)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_a_full_disk_behind_stdout_ends_in_one_line():
    done = shell("{command} --help > /dev/full")
    assert done.returncode == 2
    assert done.stderr.startswith("fame-accel: stdout cannot be written: ") and done.stderr.count("\n") == 1


def test_streams_may_be_closed():
    done = shell("{command} --help >&-; echo $?; {command} paint 2>&-; echo $?; {command} paint >&- 2>&-; echo $?")
    assert done.stdout.split() == ["0", "2", "2"] and done.stderr == ""


PRINT = """
import sys, fame_accel.__main__, fame_accel.cli
fame_accel.cli.main = lambda: print("h\\xe9l\\xe8ne", chr(0x1F600), chr(0xDCFF)) or 0
sys.exit(fame_accel.__main__.main())
"""


@pytest.mark.parametrize("encoding", ["ascii", "latin-1:strict", "utf-8:strict"])
def test_names_are_printed_in_any_encoding(encoding: str):
    done = run(["-c", PRINT], env={"PYTHONIOENCODING": encoding}, errors="replace")
    assert (done.returncode, done.stderr) == (0, "") and "ne " in done.stdout and "\\udcff" in done.stdout

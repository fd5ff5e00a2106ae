"""The `fame-accel` command: a table of subcommands, one module each.

A subcommand's module has add_arguments(parser) and command(**arguments), which returns the exit status; its docstring
is the subcommand's description. Only the module of the subcommand that runs is imported, and it imports what does the
work inside command(), so that --help is quick and each subcommand needs no package but its own.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from importlib import import_module
from types import ModuleType
from typing import NoReturn

from fame_accel._version import __version__
from fame_accel.media.privacy import nothing_left_behind

# Each subcommand and its line in `fame-accel --help`.
COMMANDS = {
    "bench": "measure time, memory and parity of fused against eager attention on this machine",
    "demo": "edit a real clip with eager and with fused attention and compare the two",
    "doctor": "report versions, devices and backends, test each backend, suggest what to change",
    "edit": "edit a video with a local checkpoint of Stable Diffusion or Wan",
    "evaluate": "measure an edited clip: background, steadiness, perceived gender, fit to a prompt",
    "plan": "estimate memory, work and time of an edit's attention, and how many frames fit",
    "suite": "edit a clip into 40 professions, plain, as a woman and as a man, and measure the edits",
    "random-checkpoint": "save a small checkpoint with random weights, to try `edit` without a download",
    "tune": "time the kernels' launch options on this GPU and save the best for the library to load",
}


class Parser(argparse.ArgumentParser):
    """A parser that raises ValueError where argparse would print its usage and exit."""

    def error(self, message: str) -> NoReturn:
        message = re.sub("^argument ([^:]+): must", r"\1 must", message)  # reads on from the flag's name
        raise ValueError(f"{message} (see {self.prog} --help)")


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Appends the default to a help text where there is one to tell, and keeps the lines of an example."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return text if text.startswith("example:") else super()._fill_text(text, width, indent)

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default in (None, False) else super()._get_help_string(action)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand.

    Args:
        argv: arguments without the program's name; None takes those of the process.

    Returns:
        The subcommand's exit status; 2, with one line on stderr, for a bad argument or a missing package; 130 after
        an interrupt. --help and --version exit with SystemExit, as argparse has it.

    Raises:
        BrokenPipeError: the reader of stdout has gone.
    """
    arguments = sys.argv[1:] if argv is None else list(argv)
    try:
        with nothing_left_behind():
            return _run(arguments)
    except BrokenPipeError:  # the reader of stdout has gone
        raise
    except (ValueError, RuntimeError, ImportError, OSError, MemoryError) as error:
        message = " ".join(str(error).split()) or "out of memory"
        print(f"fame-accel: {message.encode('utf-8', 'backslashreplace').decode()}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as error:
        print(": ".join(filter(None, ("fame-accel: interrupted", str(error)))), file=sys.stderr)
        return 130  # 128 + SIGINT, the convention of shells


def _run(arguments: list[str]) -> int:
    parser = Parser(prog="fame-accel", description="Fused FAME attention for video editing.", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"fame-accel {__version__}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    module: ModuleType | None = None
    for name, help in COMMANDS.items():
        subparser = subparsers.add_parser(name, help=help, formatter_class=HelpFormatter, allow_abbrev=False)
        if arguments[:1] == [name]:
            module = _module(name)
            subparser.description = module.__doc__
            module.add_arguments(subparser)
    parsed = vars(parser.parse_args(arguments))
    if module is None:
        parser.error(f"the command must come first, got {arguments[0]!r}")
    del parsed["command"]
    return module.command(**parsed)


def _module(name: str) -> ModuleType:
    return import_module(f"{__name__}.{name.replace('-', '_')}")

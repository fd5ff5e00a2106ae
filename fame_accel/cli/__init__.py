"""The `fame-accel` command: a table of subcommands, each of which brings its own arguments."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import NoReturn

from fame_accel.cli import bench, demo, doctor, edit, evaluate, random_checkpoint, suite, tune
from fame_accel.cli import plan as planner

# A command is a module with HELP, add_arguments(parser) and command(**arguments), which returns the exit status. It
# imports optional packages in its command alone, so that each command needs no more than its own.
COMMANDS = {
    "bench": bench,
    "demo": demo,
    "doctor": doctor,
    "edit": edit,
    "evaluate": evaluate,
    "plan": planner,
    "suite": suite,
    "random-checkpoint": random_checkpoint,
    "tune": tune,
}


class Parser(argparse.ArgumentParser):
    """Ends in one line, as the commands do, where argparse would print the usage first."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; {self.prog} --help lists what it takes\n")


class Help(argparse.ArgumentDefaultsHelpFormatter):
    """Names the defaults, where there is one."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default is None or action.default is False else super()._get_help_string(action)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand; a bad argument or a missing package ends it with one line and exit status 2, Ctrl-C with
    one line and 130."""
    parser = Parser(prog="fame-accel", description="Fused FAME attention for video editing.")
    subparsers = parser.add_subparsers(dest="command", required=True)
    for name, module in COMMANDS.items():
        described = dict(help=module.HELP, description=module.__doc__)
        module.add_arguments(
            subparsers.add_parser(name, **described, formatter_class=Help, allow_abbrev=False)
        )
    arguments = vars(parser.parse_args(argv))
    try:
        return COMMANDS[arguments.pop("command")].command(**arguments)
    except (ValueError, RuntimeError, ImportError, OSError) as error:
        told = " ".join(str(error).split()).encode("utf-8", "backslashreplace").decode()  # bytes that are no text
        print(f"fame-accel: {told}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("fame-accel: interrupted", file=sys.stderr)
        return 130  # as shells have it


if __name__ == "__main__":
    sys.exit(main())

"""Say what the library can run on this machine, test each backend against the reference, and suggest how to fix what is
wrong."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `fame-accel doctor`."""
    parser.add_argument("--json", metavar="FILE", help="JSON file to write the report to")


def command(json: str | None = None) -> int:
    """Run `fame-accel doctor`: 1 where an operation of the self-test failed, else 0."""
    from fame_accel.tools.doctor.report import run_doctor

    return 0 if run_doctor(json)["passed"] else 1

"""Command-line arguments that mean the same in every command that reads videos."""

import argparse


def parse_size(text: str) -> tuple[int, int]:
    """(height, width) of "HEIGHTxWIDTH", or of one number for both; argparse.ArgumentTypeError for anything else."""
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.isdecimal() for side in sides):
        raise argparse.ArgumentTypeError(f"must be HEIGHTxWIDTH or one number, got {text!r}")
    return int(sides[0]), int(sides[-1])

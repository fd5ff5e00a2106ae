"""Command-line arguments shared by the commands that read videos."""

import argparse


def parse_size(text: str) -> tuple[int, int]:
    """Parse "HEIGHTxWIDTH", or one number for both, to (height, width); argparse.ArgumentTypeError otherwise."""
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.isdecimal() for side in sides):
        raise argparse.ArgumentTypeError(f"must be HEIGHTxWIDTH or one number, got {text!r}")
    return int(sides[0]), int(sides[-1])

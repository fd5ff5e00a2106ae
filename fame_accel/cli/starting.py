"""A sign of life before imports that take seconds."""

import sys


def starting(*packages: str) -> None:
    """Print which of these packages are imported now, unless they are all there."""
    if missing := [package for package in packages if package not in sys.modules]:
        print(f"importing {', '.join(missing)}", flush=True)

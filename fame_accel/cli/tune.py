"""Time launches of the kernels near those of the launch table on this GPU, and write the fastest to a JSON file.

The library loads the file that FAME_ACCEL_LAUNCHES names. A launch is timed only after its results passed the parity
test against the reference; one that is less than 2% faster than the table's is not taken.
"""

from __future__ import annotations

import argparse

from fame_accel.core.limits import DTYPES
from fame_accel.kernels.launch_table import HEAD_DIMS, KERNELS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `fame-accel tune`."""
    parser.add_argument("--out", metavar="FILE", default="launches.json", help="JSON file to write")
    parser.add_argument("--head-dims", nargs="+", type=int, default=list(HEAD_DIMS), metavar="D", help="1 to 256")
    dtypes = f"some of {', '.join(DTYPES)}; float16 and bfloat16 share their entries, so give one of the two"
    parser.add_argument("--dtypes", nargs="+", default=["float16"], metavar="NAME", help=dtypes)
    parser.add_argument("--kernels", nargs="+", default=list(KERNELS), metavar="NAME", help="some of the default")
    device = "torch device; if not given, cuda. cpu, with TRITON_INTERPRET=1, tries the command without a GPU"
    parser.add_argument("--device", metavar="NAME", help=device)


def command(out: str, head_dims: list[int], dtypes: list[str], kernels: list[str], device: str | None) -> int:
    """Run `fame-accel tune`: 1 where no candidate of a kernel gave right results, else 0."""
    from fame_accel.tools.tune import run_tune

    return 0 if run_tune(out, head_dims, dtypes, kernels, device) else 1

"""The `fame-accel` command."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand; a bad argument or a missing package ends it with one line and exit status 2."""
    parser = argparse.ArgumentParser(prog="fame-accel", description="Fused FAME attention for video editing.")
    commands = parser.add_subparsers(dest="command", required=True)
    demo = commands.add_parser(
        "demo",
        help="edit a real clip with eager and with fused attention and compare them",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    demo.add_argument("--frames", type=int, default=8, help="frames of the clip, 1 to 120")
    demo.add_argument("--size", type=int, default=256, help="pixels a side, a multiple of 64")
    demo.add_argument("--steps", type=int, default=4, help="denoising steps")
    demo.add_argument("--backend", default="auto", help="fused backend: auto, triton or sdpa")
    demo.add_argument("--out", default="demo_out", help="folder to write to")
    demo.add_argument("--model", help="local diffusers Stable Diffusion folder; random weights without it")
    demo.add_argument("--device", help="torch device; cuda where there is one, otherwise cpu")
    demo.add_argument("--seed", type=int, default=0, help="seed of the random weights")
    arguments = vars(parser.parse_args(argv))
    arguments.pop("command")
    try:
        from fame_accel.demo._packages import require

        for package in ("numpy", "diffusers", "transformers", "av", "PIL", "matplotlib", "tqdm", "cv2"):
            require(package)
        from fame_accel.demo.run import run_demo

        report = run_demo(**arguments)
    except (ValueError, RuntimeError, ImportError, OSError) as error:
        print(f"fame-accel: {error}", file=sys.stderr)
        return 2
    return 0 if all(row["passed"] for row in report["backends"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())

"""The `fame-accel` command."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from fame_accel.evaluate import command as evaluate_command
from fame_accel.evaluate.suite import command as suite_command


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
    tune = commands.add_parser(
        "tune",
        help="time launches of the kernels on this GPU and write the best to a file that the library loads",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    tune.add_argument("--out", default="launches.json", help="JSON file to write, for FAME_ACCEL_LAUNCHES")
    tune.add_argument("--head-dims", nargs="+", type=int, default=[40, 64, 80, 128, 160], metavar="D", help="1 to 256")
    tune.add_argument("--dtypes", nargs="+", default=["float16"], metavar="T", help="float16 or bfloat16, and float32")
    kernels = ["tiled", "few_keys", "streamed_keys"]
    tune.add_argument("--kernels", nargs="+", default=kernels, metavar="K", help="some of the default")
    tune.add_argument("--device", help="torch device; cuda if not given. cpu, under TRITON_INTERPRET=1, is for trying")
    evaluate = commands.add_parser(
        "evaluate",
        help="judge an edited clip: background, steadiness, perceived gender, fit to the prompt",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    evaluate_command.add_arguments(evaluate)
    suite = commands.add_parser(
        "suite",
        help="edit a clip into 40 professions, as a woman and as a man, and judge the edits",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    suite_command.add_arguments(suite)
    arguments = vars(parser.parse_args(argv))
    try:
        return {"demo": _demo, "tune": _tune, "evaluate": _evaluate, "suite": _suite}[arguments.pop("command")](
            **arguments
        )
    except (ValueError, RuntimeError, ImportError, OSError) as error:
        print(f"fame-accel: {error}", file=sys.stderr)
        return 2


def _demo(**arguments: object) -> int:
    from fame_accel.media.packages import require

    for package in ("numpy", "diffusers", "transformers", "av", "PIL", "matplotlib", "tqdm", "cv2"):
        require(package)
    from fame_accel.demo.run import run_demo

    report = run_demo(**arguments)
    return 0 if all(row["passed"] for row in report["backends"].values()) else 1


def _tune(**arguments: object) -> int:
    from fame_accel.tune import run_tune

    return 0 if run_tune(**arguments) else 1


def _evaluate(**arguments: object) -> int:
    evaluate_command.run(**arguments)
    return 0


def _suite(**arguments: object) -> int:
    suite_command.run(**arguments)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""A fused backend against the eager reference, side by side in one run, correctness first.

    python -m benchmarks.compare [--backend sdpa] [--frames 8] [--size 24] [--heads 8] [--head-dim 40] ...

For each modulation: the error of both against float64 by the 2x rule, then the medians of interleaved repeats, their
ratio, and the peak memory of one call each. Rows are appended to benchmarks/results/compare.csv.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import platform
import statistics
import subprocess
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

import fame_accel as fa
from fame_accel.demo.measure import now, peak_bytes, reset_peak
from fame_accel.parity_cases import three_regions

RESULTS = Path(__file__).parent / "results" / "compare.csv"


def modulations(frames: int) -> dict[str, fa.Modulation | None]:
    """The operations compared, by name."""
    return {
        "plain": None,
        "region_mask_decay": fa.Modulation.region_mask(frames, decay=0.1),
        "videograin": fa.Modulation.videograin(frames),
        "fame": fa.Modulation.fame(frames),
        "fame_strength": fa.Modulation.fame(frames, decay_on="strength"),
    }


def peak_mib(call: Callable[[], object], device: torch.device) -> float:
    """Peak memory of one call above the level before it, NaN where the system does not tell."""
    base = reset_peak(device)
    call()
    peak = peak_bytes(device)
    return float("nan") if base is None or peak is None else (peak - base) / 2**20


def interleaved(calls: list[Callable[[], object]], device: torch.device, repeats: int) -> list[list[float]]:
    """Seconds of each call in each repeat, the calls in turn, after one warm-up each."""
    for call in calls:
        call()
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(repeats):
        for call, taken in zip(calls, times, strict=True):
            start = now(device)
            call()
            taken.append(now(device) - start)
    return times


def error(out: Tensor, truth: Tensor) -> tuple[float, float]:
    """(max, mean) of |out - truth|."""
    apart = (out.double() - truth).abs()
    return apart.max().item(), apart.mean().item()


@torch.no_grad()
def compare(args: argparse.Namespace, name: str, modulation: fa.Modulation | None) -> dict[str, object]:
    """One row; raises AssertionError where the fused backend breaks the 2x rule."""
    device, dtype = torch.device(args.device), getattr(torch, args.dtype)
    torch.manual_seed(0)
    layout = three_regions(args.frames, args.size).tokens(args.size, args.size, device)
    shape = (1, args.heads, layout.num_tokens, args.head_dim)
    q, k, v = (torch.randn(shape, device=device).to(dtype) for _ in range(3))
    options = dict(modulation=modulation, row_strength=0.3 * layout.size_regularization())

    def fused() -> Tensor:
        return fa.layout_attention(q, k, v, layout, backend=args.backend, **options)

    def eager() -> Tensor:
        return fa.reference.layout_attention(q, k, v, layout, **options)

    few = slice(0, 1)  # one head is enough to judge by, and float64 fits
    truth = fa.reference.layout_attention(q[:, few].double(), k[:, few].double(), v[:, few].double(), layout, **options)
    ours, theirs = error(fused()[:, few], truth), error(eager()[:, few], truth)
    for mine, other in zip(ours, theirs, strict=True):
        assert mine <= 2 * other + 1e-5, f"{name}: error {ours} of {args.backend} against {theirs} of eager"
    memory = [peak_mib(call, device) for call in (fused, eager)]
    times = [statistics.median(t) for t in interleaved([fused, eager], device, args.repeats)]
    return {
        "date": datetime.date.today().isoformat(),
        "commit": _commit(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu(),
        "torch": torch.__version__,
        "operation": name,
        "backend": args.backend,
        "baseline": "reference",
        "frames": args.frames,
        "size": args.size,
        "heads": args.heads,
        "head_dim": args.head_dim,
        "dtype": args.dtype,
        "ms": round(1e3 * times[0], 3),
        "baseline_ms": round(1e3 * times[1], 3),
        "speedup": round(times[1] / times[0], 2),
        "peak_mib": round(memory[0], 1),
        "baseline_peak_mib": round(memory[1], 1),
        "max_error": f"{ours[0]:.2e}",
        "baseline_max_error": f"{theirs[0]:.2e}",
    }


def append(rows: list[dict[str, object]], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        if fresh:
            writer.writeheader()
        writer.writerows(rows)


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty"]
    result = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True)
    return result.stdout.strip() or "unknown"


def _cpu() -> str:
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--backend", default="sdpa", choices=["sdpa", "triton"])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--size", type=int, default=24, help="tokens a side")
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--head-dim", type=int, default=40)
    parser.add_argument("--dtype", default="float32", choices=["float16", "bfloat16", "float32"])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    rows = []
    for name, modulation in modulations(args.frames).items():
        row = compare(args, name, modulation)
        rows.append(row)
        print(
            f"{name:18} {row['ms']:10.1f} ms  eager {row['baseline_ms']:10.1f} ms  {row['speedup']:6.2f}x   "
            f"{row['peak_mib']:8.1f} MiB  eager {row['baseline_peak_mib']:8.1f} MiB   "
            f"error {row['max_error']}  eager {row['baseline_max_error']}",
            flush=True,
        )
    append(rows, args.out)


if __name__ == "__main__":
    main()

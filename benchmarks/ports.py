"""Three methods before and after their ports of examples/methods: time and peak memory on this CPU, side by side.

    python -m benchmarks.ports [--frames 8] [--side 24] [--threads 1]

Results are compared first. Then both forms are called in turn; memory that calls free is kept for the next ones. What a
method makes once for a clip, masks or layouts, is made before the calls and is no part of their time; the plan of a
layout is made by a first call. Both are part of the peaks. These are of processes of their own, where freed memory is
returned: what is kept would hide allocations. Rows go to benchmarks/results/ports.csv; the forms' code and a table of
the rows go to docs/porting.md.
"""

from __future__ import annotations

import argparse
import inspect
import multiprocessing
import os
import statistics
import textwrap
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from unittest import mock

import pandas
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention as sdpa

from fame_accel import Modulation, SpaceTimeLayout, TokenLayout, layout_attention
from fame_accel.bench.environment import environment
from fame_accel.bench.memory import peak_mib
from fame_accel.tools.measure import keep_freed_memory

RESULTS = Path(__file__).parent / "results/ports.csv"
PAGE, MARK, END = Path(__file__).parents[1] / "docs/porting.md", "<!-- ports -->", "<!-- /ports -->"
HEADS, HEAD_DIM, TEXT, REPEATS, MOST_DIFFERENCE = 8, 64, 64, 15, 1e-5
# for glibc, at the start of a process
RETURN_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(128 << 10), "MALLOC_TRIM_THRESHOLD_": str(128 << 10)}
Attend = Callable[[], Tensor]
Forms = dict[str, Callable[[], Attend]]  # each prepares, and returns the call that is timed


def fatezero(frames: int, side: int) -> Forms:
    """FateZero's keys of the frame before and of the first, its code's default."""
    pixels = side * side
    query, key, value = _inputs(frames * pixels)

    def before() -> Attend:
        previous = (torch.arange(frames) - 1).clip(0, frames - 1)

        def attend() -> Tensor:
            queries, keys, values = (
                one[0].unflatten(1, (frames, pixels)).transpose(0, 1) for one in (query, key, value)
            )
            keys, values = (torch.cat([one[previous], one[[0] * frames]], 2) for one in (keys, values))
            return sdpa(queries, keys, values).transpose(0, 1).flatten(1, 2)[None]

        return attend

    def after() -> Attend:
        everywhere = torch.ones(1, frames, side, side, dtype=torch.bool)
        layout = SpaceTimeLayout.from_masks(everywhere).tokens(side, side)
        modulation = Modulation.frames(frames, "first_previous")
        return lambda: layout_attention(query, key, value, layout, modulation=modulation)

    return {"before": before, "after": after}


def ditctrl(frames: int, side: int) -> Forms:
    """DiTCtrl's keys of text and video: the object sees the object, the background the background."""
    tokens = frames * side * side
    query, key, value = _inputs(TEXT + tokens)
    edit, source = torch.rand(2, tokens) > 0.5

    def before() -> Attend:
        masks = [torch.zeros(TEXT + tokens, TEXT + tokens) for _ in range(2)]
        masks[0][TEXT:, TEXT:].masked_fill_(~source, torch.finfo(torch.float32).min)
        masks[1][TEXT:, TEXT:].masked_fill_(source, torch.finfo(torch.float32).min)
        share = torch.cat([torch.zeros(TEXT), edit.float()])[:, None]

        def attend() -> Tensor:
            of_object, of_background = (sdpa(query, key, value, mask) for mask in masks)
            return of_object * share + of_background * (1 - share)

        return attend

    def after() -> Attend:
        is_video = (torch.arange(TEXT + tokens) >= TEXT).int()
        queries, keys = (
            TokenLayout(torch.nn.functional.pad(torch.where(mask, 1, 2), (TEXT, 0)), is_video, 2)
            for mask in (edit, source)
        )
        bias = torch.zeros(2, 2, 2)
        bias[0, 1, 1] = -torch.inf
        modulation = Modulation(bias_table=bias)
        return lambda: layout_attention(query, key, value, queries, keys, modulation)

    return {"before": before, "after": after}


def regional(frames: int, side: int) -> Forms:
    """Regional prompting with three prompts, whose regions take three quarters of the pixels."""
    pixels = frames * side * side
    masks = torch.zeros(3, pixels, dtype=torch.bool)
    for region, part in enumerate(torch.arange(pixels).chunk(4)[:3]):
        masks[region, part] = True
    total = 3 * TEXT
    query, key, value = _inputs(total + pixels)

    def before() -> Attend:
        mask = torch.zeros(total + pixels, total + pixels, dtype=torch.bool)
        touched = torch.zeros(pixels, pixels, dtype=torch.bool)
        for region, inside in enumerate(masks):
            prompt = slice(region * TEXT, (region + 1) * TEXT)
            mask[prompt, prompt] = True
            mask[prompt, total:] = inside
            mask[total:, prompt] = inside[:, None]
            mask[total:, total:] |= inside[:, None] & inside
            touched |= inside[:, None] | inside
        mask[total:, total:] |= ~touched
        return lambda: sdpa(query, key, value, mask)

    def after() -> Attend:
        bits = 1 << torch.arange(4)
        inside = (torch.cat([masks, ~masks.any(0, keepdim=True)]) * bits[:, None]).sum(0)
        region = torch.cat([bits[:3].repeat_interleave(TEXT), inside])
        layout = TokenLayout(region, torch.zeros_like(region), 1)
        modulation = Modulation.region_mask(1)
        return lambda: layout_attention(query, key, value, layout, modulation=modulation)

    return {"before": before, "after": after}


PORTS = {"FateZero's keys": fatezero, "DiTCtrl's sharing": ditctrl, "Regional prompting": regional}


def _inputs(tokens: int) -> tuple[Tensor, Tensor, Tensor]:
    query, key, value = (torch.randn(1, HEADS, tokens, HEAD_DIM) for _ in range(3))
    return query, key, value


@torch.no_grad()
def _peak(name: str, form: str, frames: int, side: int, threads: int) -> float | None:
    torch.set_num_threads(threads)
    PORTS[name](2, 4)[form]()()  # libraries are loaded
    torch.manual_seed(0)
    prepare = PORTS[name](frames, side)[form]
    return peak_mib(lambda: prepare()(), torch.device("cpu"))


def _lines(form: Callable[[], Attend]) -> list[str]:
    """The lines between a form's signature and its end."""
    return [line for line in inspect.getsource(form).splitlines()[1:] if line.strip()]


@torch.no_grad()
def measure(name: str, frames: int, side: int) -> dict[str, object]:
    """One row: lines, milliseconds and MiB of both forms.

    Raises:
        RuntimeError: the port's result is not the method's.
    """
    torch.manual_seed(0)
    forms = PORTS[name](frames, side)
    calls = {form: prepare() for form, prepare in forms.items()}
    results = {form: call() for form, call in calls.items()}
    difference = (results["before"] - results["after"]).abs().max().item()
    if not difference < MOST_DIFFERENCE:
        raise RuntimeError(f"{name}: the port differs from the method by {difference:.1e}, allowed {MOST_DIFFERENCE}")
    seconds: dict[str, list[float]] = {form: [] for form in forms}
    for _ in range(REPEATS):
        for form, call in calls.items():
            start = time.perf_counter()
            call()
            seconds[form].append(time.perf_counter() - start)
    milliseconds = {form: 1e3 * statistics.median(values) for form, values in seconds.items()}
    ratios = sorted(after / before for before, after in zip(seconds["before"], seconds["after"], strict=True))
    arguments = frames, side, torch.get_num_threads()
    peaks = {}
    context = multiprocessing.get_context("spawn")
    for form in forms:  # a new process each
        with mock.patch.dict(os.environ, RETURN_MEMORY), ProcessPoolExecutor(1, mp_context=context) as pool:
            peaks[form] = pool.submit(_peak, name, form, *arguments).result()
    return {
        "method": name, "frames": frames, "side": side, "tokens": results["after"].shape[2],
        "difference": f"{difference:.1e}",
        "lines_before": len(_lines(forms["before"])), "lines_after": len(_lines(forms["after"])),
        "ms_before": round(milliseconds["before"], 1), "ms_after": round(milliseconds["after"], 1),
        "ratio": round(statistics.median(ratios), 2),
        "ratio_low": round(ratios[len(ratios) // 4], 2), "ratio_high": round(ratios[-1 - len(ratios) // 4], 2),
        "mib_before": _rounded(peaks["before"]), "mib_after": _rounded(peaks["after"]),
        **environment(torch.device("cpu")),
    }  # fmt: skip


def section(rows: pandas.DataFrame) -> str:
    """The rows as a table, and the forms' code, for docs/porting.md."""
    lines = [
        "| Method | tokens | lines before, after | time before, after | ratio (quartiles) | peak before, after |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows.to_dict("records"):
        lines.append(
            f"| {row['method']} | {row['tokens']:,} | {row['lines_before']}, {row['lines_after']} "
            f"| {row['ms_before']} ms, {row['ms_after']} ms "
            f"| {row['ratio']} ({row['ratio_low']} to {row['ratio_high']}) "
            f"| {row['mib_before']} MiB, {row['mib_after']} MiB |"
        )
    first = rows.iloc[0]
    lines += [
        "",
        f"{first['frames']} frames of {first['side']}x{first['side']} tokens, {HEADS} heads of {HEAD_DIM}; "
        f"{first['device']}, float32, torch {first['torch']}, {first['date']}, at {first['commit']}.",
    ]
    for name, port in PORTS.items():
        lines += ["", f"### {name}"]
        for form, prepare in port(2, 4).items():
            code = textwrap.dedent("\n".join(_lines(prepare)))
            lines += ["", f"{form.capitalize()}:", "", "```py", code, "```"]
    return "\n".join(lines)


def _rounded(mib: float | None) -> float | None:
    return None if mib is None else round(mib, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--side", type=int, default=24)
    parser.add_argument("--threads", type=int, default=1, help="one is steadier where others share the cores")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    rows = pandas.DataFrame([measure(name, options.frames, options.side) for name in PORTS])
    rows.to_csv(RESULTS, index=False)
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(MARK)
    after = rest.partition(END)[2]
    PAGE.write_text(f"{before}{MARK}\n{section(rows)}\n{END}{after}", encoding="utf-8")
    print(rows.to_string(index=False))


if __name__ == "__main__":
    main()

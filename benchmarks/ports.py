"""Three methods before and after their ports of examples/methods: time and peak memory on this CPU, side by side.

    python -m benchmarks.ports [--frames 16] [--side 32] [--threads 1]

Both forms run in turn, after their results have been compared. Peaks are those of processes of their own. Rows go to
benchmarks/results/ports.csv, and a table of them to docs/porting.md.
"""

from __future__ import annotations

import argparse
import inspect
import multiprocessing
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pandas
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention as sdpa

from fame_accel import Modulation, SpaceTimeLayout, TokenLayout, layout_attention
from fame_accel.bench.environment import environment
from fame_accel.bench.memory import peak_mib

RESULTS = Path(__file__).parent / "results/ports.csv"
PAGE, MARK, END = Path(__file__).parents[1] / "docs/porting.md", "<!-- ports -->", "<!-- /ports -->"
HEADS, HEAD_DIM, TEXT, REPEATS = 8, 64, 64, 7
Forms = dict[str, Callable[[], Tensor]]


def fatezero(frames: int, side: int) -> Forms:
    """The keys of the frame itself, the one before and the first."""
    pixels = side * side
    query, key, value = _inputs(frames * pixels)
    layout = SpaceTimeLayout.from_masks(torch.ones(1, frames, side, side, dtype=torch.bool)).tokens(side, side)

    def before() -> Tensor:
        queries, keys, values = (one.unflatten(2, (frames, pixels)) for one in (query, key, value))
        outs = []
        for frame in range(frames):
            named = [frame, max(frame - 1, 0), 0]
            outs.append(sdpa(queries[:, :, frame], *(one[:, :, named].flatten(2, 3) for one in (keys, values))))
        return torch.cat(outs, 2)

    def after() -> Tensor:
        modulation = Modulation.frames(frames, "self_previous_first")
        return layout_attention(query, key, value, layout, modulation=modulation)

    return {"before": before, "after": after}


def ditctrl(frames: int, side: int) -> Forms:
    """Text and video: the object sees the object, the background the background."""
    tokens = frames * side * side
    query, key, value = _inputs(TEXT + tokens)
    text_mask, video_mask = torch.rand(TEXT) > 0.8, torch.rand(tokens) > 0.5

    def before() -> Tensor:
        everyone = torch.ones(TEXT, dtype=torch.bool)
        of_object, of_background = (torch.cat([everyone, seen])[None] for seen in (video_mask, ~video_mask))
        rows = torch.cat([text_mask, video_mask])[:, None]
        return torch.where(rows, sdpa(query, key, value, of_object), sdpa(query, key, value, of_background))

    def after() -> Tensor:
        is_video = torch.cat([torch.zeros(TEXT), torch.ones(tokens)]).int()
        layout = TokenLayout(torch.where(torch.cat([text_mask, video_mask]), 1, 2), is_video, 2)
        bias = torch.zeros(2, 2, 2)
        bias[0, :, 1] = -torch.inf
        return layout_attention(query, key, value, layout, modulation=Modulation(bias_table=bias))

    return {"before": before, "after": after}


def regional(frames: int, side: int) -> Forms:
    """A base prompt and three regions, by an N x N mask and by a layout."""
    tokens, counts = frames * side * side, [TEXT] * 4
    masks = torch.zeros(3, tokens, dtype=torch.bool)
    for region, part in enumerate(torch.arange(tokens).chunk(4)[:3]):
        masks[region, part] = True
    query, key, value = _inputs(sum(counts) + tokens)

    def before() -> Tensor:
        start, total = 0, sum(counts)
        mask = torch.zeros(total + tokens, total + tokens, dtype=torch.bool)
        for count, pixels in zip(counts, [torch.ones(tokens, dtype=torch.bool), *masks], strict=True):
            prompt = slice(start, start + count)
            start += count
            mask[prompt, prompt] = True
            mask[prompt, total:] = pixels
            mask[total:, prompt] = pixels[:, None]
        for pixels in (*masks, ~masks.any(0)):
            mask[total:, total:] |= pixels[:, None] & pixels[None, :]
        return sdpa(query, key, value, mask)

    def after() -> Tensor:
        regions = torch.where(masks.any(0), (masks.int() << torch.arange(3)[:, None]).sum(0), 8)
        prompts = [torch.full((TEXT,), 16), *(torch.full((TEXT,), 1 << region) for region in range(3))]
        frame = torch.arange(5).repeat_interleave(torch.tensor([*counts, tokens]))
        bias = torch.full((2, 5, 5), -torch.inf)
        bias[:, range(4), range(4)] = bias[:, 0, 4] = bias[:, 4, 0] = 0
        bias[1, 1:, 4] = bias[1, 4, 1:] = 0
        layout = TokenLayout(torch.cat([*prompts, regions]).int(), frame, 5)
        return layout_attention(query, key, value, layout, modulation=Modulation(bias_table=bias))

    return {"before": before, "after": after}


PORTS = {"FateZero's keys": fatezero, "DiTCtrl's sharing": ditctrl, "regional prompting": regional}


def _inputs(tokens: int) -> tuple[Tensor, Tensor, Tensor]:
    query, key, value = (torch.randn(1, HEADS, tokens, HEAD_DIM) for _ in range(3))
    return query, key, value


@torch.no_grad()
def _peak(name: str, form: str, frames: int, side: int) -> float | None:
    torch.manual_seed(0)
    call = PORTS[name](frames, side)[form]
    return peak_mib(call, torch.device("cpu"))


@torch.no_grad()
def measure(name: str, frames: int, side: int) -> dict[str, object]:
    """One row: lines, milliseconds and MiB of both forms."""
    torch.manual_seed(0)
    forms = PORTS[name](frames, side)
    results = {form: call() for form, call in forms.items()}
    difference = (results["before"] - results["after"]).abs().max().item()
    if not difference < 1e-4:
        raise RuntimeError(f"{name}: the port differs from the method by {difference:.1e}")
    seconds: dict[str, list[float]] = {form: [] for form in forms}
    for _ in range(REPEATS):
        for form, call in forms.items():
            start = time.perf_counter()
            call()
            seconds[form].append(time.perf_counter() - start)
    medians = {form: statistics.median(values) for form, values in seconds.items()}
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"), max_tasks_per_child=1) as pool:
        peaks = {form: pool.submit(_peak, name, form, frames, side).result() for form in forms}
    lines = {form: len(inspect.getsource(call).splitlines()) - 1 for form, call in forms.items()}
    return {
        "method": name, "tokens": results["after"].shape[2], "difference": f"{difference:.1e}",
        "lines_before": lines["before"], "lines_after": lines["after"],
        "ms_before": round(1e3 * medians["before"], 1), "ms_after": round(1e3 * medians["after"], 1),
        "ratio": round(medians["after"] / medians["before"], 2),
        "mib_before": _rounded(peaks["before"]), "mib_after": _rounded(peaks["after"]),
        **environment(torch.device("cpu")),
    }  # fmt: skip


def table(rows: pandas.DataFrame) -> str:
    """The rows as a table of docs/porting.md."""
    lines = [
        "| Method | tokens | lines before, after | time before, after (ratio) | peak before, after |",
        "|---|---|---|---|---|",
    ]
    for row in rows.to_dict("records"):
        lines.append(
            f"| {row['method']} | {row['tokens']:,} | {row['lines_before']}, {row['lines_after']} "
            f"| {row['ms_before']} ms, {row['ms_after']} ms ({row['ratio']}) "
            f"| {row['mib_before']} MiB, {row['mib_after']} MiB |"
        )
    first = rows.iloc[0]
    return "\n".join([*lines, "", f"{first['device']}, float32, torch {first['torch']}, {first['date']}."])


def _rounded(mib: float | None) -> float | None:
    return None if mib is None else round(mib, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--threads", type=int, default=1, help="one is steadier where others share the cores")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = pandas.DataFrame([measure(name, options.frames, options.side) for name in PORTS])
    rows.to_csv(RESULTS, index=False)
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(MARK)
    after = rest.partition(END)[2]
    PAGE.write_text(f"{before}{MARK}\n{table(rows)}\n{END}{after}", encoding="utf-8")
    print(rows.to_string(index=False))


if __name__ == "__main__":
    main()

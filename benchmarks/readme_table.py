"""Write the README's tables from the committed results.

python -m benchmarks.readme_table
"""

from __future__ import annotations

import contextlib
import csv
import io
import re
from collections.abc import Callable, Iterable
from pathlib import Path

from benchmarks.budget import BUDGETS, HEAD_DIMS, TARGETS, read_counts
from benchmarks.fairness import PAIRS, PROMPTS, read_runs, summary
from benchmarks.results_table import (
    CPU_SELF,
    CPU_TEXT,
    CPUS,
    FRAMES,
    GPU_SELF,
    NETWORK,
    markdown,
    memory,
    newest,
    time,
    times,
    where,
)
from fame_accel.bench.workload import FAME, REGION_MASK, SELF_ATTENTION
from fame_accel.cli import main as fame_accel_command
from fame_accel.tools.planner.table import COUNTED, LEGEND, PREDICTED, WHOLE
from fame_accel.tools.planner.video_plan import ULYSSES, VIDEO

README = Path(__file__).parents[1] / "README.md"
RESULTS = Path(__file__).parent / "results"
PREDICTIONS = RESULTS / "predictions.csv"
EDITS = RESULTS / "edit_parity.csv"


OTHERS = {
    "sdpa_plain": "plain",
    "ours_sdpa": "fame-accel",
    "sdpa_bias": "dense bias",
    "sdpa_low_rank": "low-rank bias",
    "flex": "FlexAttention",
    "flex_sorted": "FlexAttention, sorted",
    "flex_three_pass": "FlexAttention, 3 passes",
}


RETURNED = ("eager, returned", "fame-accel", "x eager")  # freed memory is returned to the system, the default


def _returned(shape: str, operation: str, device: str = CPUS[0]) -> list[str]:
    """The cells below RETURNED."""
    result = newest(shape, operation, holding="eager", kept=False, device=device)
    return [time(result.get("eager")), time(result.get("ours_sdpa")), times(result.get("ours_sdpa"))]


def _commits(shape: str, operations: Iterable[str], device: str = CPUS[0]) -> str:
    """The commits of the rows behind RETURNED."""
    returned = (newest(shape, operation, holding="eager", kept=False, device=device) for operation in operations)
    return ", ".join(dict.fromkeys(row["commit"] for result in returned for row in result.values()))


def compared() -> str:
    """Self-attention on two CPUs, beside eager."""
    return "\n".join(map(_compared, CPUS))


def _compared(device: str) -> str:
    titles = ["operation", "eager", "fame-accel", "x eager", "x plain", "peak", "eager's", *RETURNED]
    lines, used = [], []
    for operation in SELF_ATTENTION[1:]:  # of what modulates
        result = newest(CPU_SELF, operation.name, holding="eager", device=device)
        used += result.values()
        ours, eager = result.get("ours_sdpa"), result.get("eager")
        ratios = [times(ours), times(ours, "floor_ratio")]
        cells = [time(eager), time(ours), *ratios, memory(ours), memory(eager)]
        lines.append([operation.name, *cells, *_returned(CPU_SELF, operation.name, device)])
    row = used[0]
    commits = _commits(CPU_SELF, [operation.name for operation in SELF_ATTENTION[1:]], device)
    about = (
        f"8 frames of 32x32 tokens ({row['keys']} keys), three regions, {row['heads']} heads, head_dim "
        f"{row['head_dim']}, {row['dtype']}; {where(used)}; medians of one run, calls in turn "
        f"(`python -m benchmarks.measure cpu`; the last columns with `--return-memory`, at {commits}):"
    )
    return f"{about}\n\n{markdown(titles, lines)}"


def others() -> str:
    """The same by other implementations, of the newest run of them on each CPU."""
    return "\n".join(map(_others, CPUS))


def _others(device: str) -> str:
    lines, used = [], []
    for operation in SELF_ATTENTION:
        result = newest(CPU_SELF, operation.name, holding="flex", device=device)
        used += result.values()
        lines.append([operation.name, *(time(result.get(name)) for name in OTHERS)])
    return f"The same; {where(used)}:\n\n{markdown(['operation', *OTHERS.values()], lines)}"


def crossed() -> str:
    """Cross-attention on a CPU."""
    titles = ["tokens a frame", "text keys", "eager", "fame-accel", "x eager", "x plain", "peak", "eager's", *RETURNED]
    lines, used = [], []
    for side in (32, 64):
        for text in (77, 226, 512):
            case = CPU_TEXT.format(side, text), f"cross_{text}"
            result = newest(*case, holding="eager", device=CPUS[0])
            used += result.values()
            ours, eager = result.get("ours_sdpa"), result.get("eager")
            ratios = [times(ours), times(ours, "floor_ratio")]
            cells = [time(eager), time(ours), *ratios, memory(ours), memory(eager)]
            lines.append([f"{side}x{side}", str(text), *cells, *_returned(*case)])
    return f"{where(used)}:\n\n{markdown(titles, lines)}"


def headline() -> str:
    """FAME's self-attention at the finest level, on a GPU and on a CPU."""
    gpu = newest(next(iter(GPU_SELF)), FAME.name, "ours_triton", device="H100")
    cpu = newest(CPU_SELF, FAME.name, holding="eager", device=CPUS[1])
    eager, plain, ours = (gpu[name] for name in ("eager", "sdpa_plain", "ours_triton"))
    there, here = cpu["eager"], cpu["ours_sdpa"]
    return (
        "FAME's self-attention at Stable Diffusion 1.5's finest level, 8 frames of 512x512 in float16 on an H100, "
        f"takes {time(ours)} and {memory(ours)} where the eager formula takes {time(eager)} and {memory(eager)} "
        f"({times(ours)}), and attention without any modulation {time(plain)}. On two cores of a CPU, 8 frames of "
        f"256x256 in float32: {time(here)} and {memory(here)}, eager {time(there)} and {memory(there)}.\n"
    )


def on_gpu() -> str:
    """Self-attention on an H100, beside eager."""
    providers = ("eager", "sdpa_bias", "sdpa_plain", "ours_triton")
    titles = ["tokens", "operation", "eager", "dense bias", "plain", "fame-accel", "x eager", "x plain"]
    titles += ["predicted", "peak", "eager's"]
    lines, used = [], []
    for shape, name in GPU_SELF.items():
        for operation in SELF_ATTENTION:
            result = newest(shape, operation.name, "ours_triton", device="H100")
            if not result:  # the round ended before it
                continue
            used += result.values()
            ours, eager = result["ours_triton"], result["eager"]
            cells = [time(result.get(provider)) for provider in providers]
            cells += [times(ours), times(ours, "floor_ratio"), f"{float(ours['predicted_ms']):.3g} ms"]
            lines.append([name, operation.name, *cells, memory(ours), memory(eager)])
    about = (
        f"Batches of 2, {used[0]['dtype']}, three regions; {where(used)}, Triton {used[0]['triton']}; medians of one "
        "run, calls in turn:"
    )
    return f"{about}\n\n{markdown(titles, lines)}"


def stepped() -> str:
    """A UNet's block and step on a CPU."""
    what = "Stable Diffusion 1.5's UNet, 8 frames of 256x256"
    titles = [what, "eager", "fame-accel", "x eager", "x plain", *RETURNED]
    names = {"unet_block": "its first block", "denoising_step": "a whole denoising step, unguided"}
    lines, used = [], []
    for operation, name in names.items():
        result = newest(NETWORK, operation, holding="eager", device=CPUS[0])
        used += result.values()
        ours, eager = result["ours_sdpa"], result["eager"]
        cells = [time(eager), time(ours), times(ours), times(ours, "floor_ratio")]
        lines.append([name, *cells, *_returned(NETWORK, operation)])
    about = (
        f"{where(used)}; random weights, float32 (`python -m benchmarks.measure network`; the last columns with "
        f"`--return-memory`, at {_commits(NETWORK, names)}):"
    )
    return f"{about}\n\n{markdown(titles, lines)}"


def scaled() -> str:
    """Time and memory over frames on a CPU."""
    titles = ["frames of 32x32 tokens", *map(str, FRAMES)]
    lines, used = [], []
    for operation in (FAME, REGION_MASK):
        by_frames = [newest(f"sd15-32x32-f{number}", operation.name, "eager", device=CPUS[1]) for number in FRAMES]
        used += [row for result in by_frames for row in result.values()]
        for provider, name in (("eager", "eager"), ("ours_sdpa", "fame-accel")):
            rows = [result.get(provider) for result in by_frames]
            ended = ["out of memory" if row and row["note"].startswith("out of memory") else time(row) for row in rows]
            lines.append([f"{operation.name}, {name}, time", *ended])
            lines.append([f"{operation.name}, {name}, peak", *map(memory, rows)])
    return f"{where(used)}:\n\n{markdown(titles, lines)}"


def counted() -> str:
    """Main-loop instructions against plain flash attention, from static.json."""
    counts = read_counts()
    columns = [(target, dim) for target in TARGETS for dim in HEAD_DIMS]
    lines = [
        "| main loop against plain flash attention | at most | " + " | ".join(f"{t} {d}" for t, d in columns) + " |",
        "|---|---|" + "---|" * len(columns),
    ]
    lines += [
        f"| {budget.label} | {budget.most:.2f} | "
        + " | ".join(f"{budget.ratio(counts, target, dim):.2f}" for target, dim in columns)
        + " |"
        for budget in BUDGETS
    ]
    return "\n".join(lines) + "\n"


def predicted() -> str:
    """The predictions for Stable Diffusion 1.5 at 512 x 512 with 8 frames, from predictions.csv."""
    with PREDICTIONS.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if (row["frames"], row["heads"]) == ("8", "8")]
    shown = [("64", "32768"), ("32", "8192"), ("64", "77")]
    lines = [
        "| PREDICTED, not measured (ms; bound) | "
        + " | ".join(f"{size}x{size} tokens, {keys} keys" for size, keys in shown)
        + " |",
        "|---|" + "---|" * len(shown),
    ]
    for chip in ("H100", "A100"):
        for operation in ("plain", "region_mask_decay", "fame", "videograin", "fame_strength", "cross_77"):
            cells = []
            for size, keys in shown:
                wanted = (chip, operation, size, keys)
                result = [r for r in rows if (r["chip"], r["operation"], r["size"], r["keys"]) == wanted]
                cells += [f"{float(r['predicted_ms']):.2f}; {r['bound']}" for r in result] or ["-"]
            lines.append(f"| {chip} {operation} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def levelled() -> str:
    """The mean gaps of 40 professions before and after an injection, from fairness.csv."""
    shown = [(0, PAIRS[0]), (0, PAIRS[1]), (0, PAIRS[2]), (1, PAIRS[1]), (2, PAIRS[1])]
    prompts = [prompt.format("...") for prompt in PROMPTS[:2]] + ["the word alone"]
    lines = [
        "| mean gap of 40 professions | "
        + " | ".join(f"{prompts[prompt]}: {'/'.join(pair)}" for prompt, pair in shown)
        + " | cosine to the plain prompt, at least |",
        "|---|" + "---|" * (len(shown) + 1),
    ]
    runs = read_runs()
    plain = [f"{summary(next(iter(runs.values())), *column)['before']:.4f}" for column in shown]
    lines.append(f"| plain | {' | '.join(plain)} | 1 |")
    for (method, eta), rows in runs.items():
        cells = [f"{s['after']:.4f}; {s['shrinking']}" for s in (summary(rows, *column) for column in shown)]
        least = min(summary(rows, prompt, PAIRS[0])["least_cosine"] for prompt in range(len(PROMPTS)))
        lines.append(f"| {method}, eta {eta:g} | {' | '.join(cells)} | {least:.3f} |")
    return "\n".join(lines) + "\n"


def same_edit() -> str:
    """The newest four rows of edit_parity.csv."""
    with EDITS.open(newline="") as file:
        rows = list(csv.DictReader(file))[-4:]
    first = rows[0]
    lines = [
        f"{first['frames']} frames of {first['size']}x{first['size']} pixels, {first['steps']} steps of inversion and "
        f"{first['steps']} of denoising, float32, backend {first['backend']}; {first['device']}, torch "
        f"{first['torch']}, {first['date']} (`python -m benchmarks.edit_parity`):",
        "",
        "| whole edit | guidance | eager, latents off by (max; mean) | fused, latents off by | pixels within 1/255 |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['network']} | {float(row['guidance']):g} | {row['eager_max']}; {row['eager_mean']} "
        f"| {row['fused_max']}; {row['fused_mean']} | {100 * float(row['values_within_1']):.2f}% |"
        for row in rows
    ]
    return "\n".join(lines) + "\n"


def planned(arguments: str = "--model sd15 --frames 16 --modulation fame --memory 24") -> str:
    """What `fame-accel plan` prints for an example, without the notes below its table."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        fame_accel_command(["plan", *arguments.split()])
    notes = (f"* {PREDICTED}", LEGEND, COUNTED, WHOLE, VIDEO, ULYSSES)
    lines = [line for line in output.getvalue().splitlines() if not line.startswith(notes)]
    text = re.sub(r"\n{3,}", "\n\n", "\n".join(lines))
    return f"```\nfame-accel plan {arguments}\n\n{text}\n```\n"


def ranked() -> str:
    """The same of a video transformer on several GPUs."""
    return planned("--model wan-14b --frames 81 --width 1280 --height 720 --memory 80 --gpus 1 4 8 64")


TABLES: dict[str, Callable[[], str]] = {
    "headline": headline,
    "gpu": on_gpu,
    "compare": compared,
    "others": others,
    "cross": crossed,
    "step": stepped,
    "scaling": scaled,
    "static": counted,
    "predicted": predicted,
    "fairness": levelled,
    "edit": same_edit,
    "plan": planned,
    "ranks": ranked,
}


def _part(name: str) -> re.Pattern[str]:
    return re.compile(rf"(<!-- {name} -->\n).*(<!-- /{name} -->)", re.DOTALL)


def written(name: str) -> str:
    """What the README has between the marks of a table."""
    return _part(name).search(README.read_text())[0]


def main() -> None:
    text = README.read_text()
    for name, table in TABLES.items():
        text = _part(name).sub(lambda match, table=table: match[1] + table() + match[2], text)
    README.write_text(text)


if __name__ == "__main__":
    main()

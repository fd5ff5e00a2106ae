"""A small matrix of calls of the Triton kernels, to run under compute-sanitizer.

    compute-sanitizer --tool memcheck python -m benchmarks.sanitize

It has full and short tiles, numbers of rows that are no multiple of a tile, head dimensions of one and of two blocks,
few keys, streamed keys, and the short sequences of a motion module. Each result is judged by the parity rule with the
reference on the CPU, so that nearly everything that runs on the device is what is to be checked.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import fields

import torch

import fame_accel as fa
from fame_accel.bench.inputs import AttentionInputs, make_inputs
from fame_accel.bench.judge import Judge
from fame_accel.bench.workload import PLAIN, LayerShape, operations


def cases(device: torch.device) -> Iterator[tuple[LayerShape, torch.dtype]]:
    """Shapes and dtypes; small ones for Triton's interpreter on a CPU."""
    if device.type != "cuda":
        yield LayerShape("self", 2, 3, 3, 1, 40), torch.float32
        yield LayerShape("text9", 2, 3, 3, 1, 16, text=9), torch.float32
        yield LayerShape("motion", 3, 2, 2, 2, 16, motion=True), torch.float32
        return
    for head_dim, dtype in (
        (40, torch.float16),
        (64, torch.bfloat16),
        (80, torch.float16),
        (128, torch.float16),
        (160, torch.bfloat16),
    ):
        yield LayerShape("self", 2, 23, 23, 2, head_dim, batch=2), dtype
        yield LayerShape("text77", 2, 9, 9, 2, head_dim, text=77, batch=2), dtype
    yield LayerShape("text512", 2, 9, 9, 2, 128, text=512, batch=2), torch.float16
    for frames, head_dim in ((16, 40), (32, 80), (24, 160)):
        yield LayerShape("motion", frames, 9, 9, 2, head_dim, motion=True), torch.float16


def check(inputs: AttentionInputs) -> str:
    """What is wrong with the result of the kernels; empty where it is right."""
    out = fa.layout_attention(
        inputs.query, inputs.key, inputs.value, inputs.query_layout, inputs.key_layout, backend="triton",
        **inputs.options,
    )  # fmt: skip
    verdict = Judge(on_cpu(inputs)).verdict(out.cpu())
    return "" if verdict.passed else f"error {verdict.errors} against {verdict.eager} of eager"


def on_cpu(inputs: AttentionInputs) -> AttentionInputs:
    """The same case on the CPU."""

    def moved(item: object) -> object:
        return item.to("cpu") if isinstance(item, torch.Tensor | fa.TokenLayout) else item

    return AttentionInputs(**{field.name: moved(getattr(inputs, field.name)) for field in fields(inputs)})


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    device, wrong, count = torch.device(args.device), 0, 0
    for shape, dtype in cases(device):
        for operation in operations(shape):
            if operation == PLAIN and shape.name == "self" and device.type != "cuda":
                continue  # the few-keys kernel again, as in the case after it
            count += 1
            trouble = check(make_inputs(shape, operation, device, dtype))
            if trouble:
                wrong += 1
                print(f"WRONG {shape.name} {operation.name} head_dim {shape.head_dim} {dtype}: {trouble}", flush=True)
    print(f"{count} calls, {wrong} wrong")
    sys.exit(min(wrong, 1))


if __name__ == "__main__":
    main()

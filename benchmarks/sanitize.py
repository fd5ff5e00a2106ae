"""A small matrix of calls of the Triton kernels, to be run under compute-sanitizer.

    compute-sanitizer --tool memcheck python -m benchmarks.sanitize

Full tiles and short ones, rows that are no multiple of a tile, head dimensions of one and of two blocks, few keys,
streamed keys, and short sequences as a motion module has them. Each result is held against the 2x rule with the
reference on the CPU, so that nearly all that runs on the device is what is to be checked.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import fields

import torch

import fame_accel as fa
from benchmarks.compare import error
from benchmarks.inputs import Inputs, make_inputs
from benchmarks.shapes import PLAIN, SELF, Operation, Shape, operations


def cases(device: torch.device) -> Iterator[tuple[Shape, torch.dtype]]:
    if device.type != "cuda":
        yield Shape("self", 2, 3, 1, 40, batch=1), torch.float32
        yield Shape("text9", 2, 3, 1, 16, text=9, batch=1), torch.float32
        return
    for head_dim, dtype in (
        (40, torch.float16),
        (64, torch.bfloat16),
        (80, torch.float16),
        (128, torch.float16),
        (160, torch.bfloat16),
    ):
        yield Shape("self", 2, 23, 2, head_dim), dtype
        yield Shape("text77", 2, 9, 2, head_dim, text=77), dtype
    yield Shape("text512", 2, 9, 2, 128, text=512), torch.float16


def pixels(shape: Shape, operation: Operation, device: torch.device, dtype: torch.dtype) -> Inputs:
    """A motion module's attention over `shape.frames` frames of shape.size squared pixels."""
    count, frames = shape.size**2, shape.frames
    tensors = (
        torch.randn(count, frames, shape.heads, shape.head_dim, device=device, dtype=dtype).transpose(1, 2)
        for _ in range(3)
    )
    region = torch.randint(4, (count, frames), device=device, dtype=torch.int32)
    layout = fa.TokenLayout(region, torch.arange(frames, device=device).expand(count, -1), frames)
    strength = torch.rand(count, frames, device=device) if operation.pulled else None
    return Inputs(shape, operation, *tensors, layout, layout, operation.modulation(frames, frames), strength, None)


def motion_error(inputs: Inputs) -> str:
    """As `check`, against the whole reference: the sequences are short."""
    out = fa.layout_attention(
        inputs.query, inputs.key, inputs.value, inputs.query_layout, backend="triton", **inputs.options
    )
    moved = on_cpu(inputs)
    parts = (moved.query, moved.key, moved.value)
    truth = fa.reference.layout_attention(*(x.double() for x in parts), moved.query_layout, **moved.options)
    ours, eager = (
        error(out.cpu(), truth),
        error(fa.reference.layout_attention(*parts, moved.query_layout, **moved.options), truth),
    )
    good = all(mine <= 2 * other + 1e-5 for mine, other in zip(ours, eager, strict=True))
    return "" if good else f"error {ours} against {eager} of eager"


def check(inputs: Inputs) -> str:
    """What is wrong with our result, nothing where it is right."""
    out = fa.layout_attention(
        inputs.query, inputs.key, inputs.value, inputs.query_layout, inputs.key_layout, backend="triton",
        **inputs.options,
    )  # fmt: skip
    reference = on_cpu(inputs)
    errors = reference.judge.errors(out.cpu())
    if reference.judge.passes(errors):
        return ""
    return f"error {errors} against {reference.judge.eager_errors} of eager"


def on_cpu(inputs: Inputs) -> Inputs:
    """The same case on the CPU."""

    def moved(item: object) -> object:
        return item.to("cpu") if isinstance(item, torch.Tensor | fa.TokenLayout) else item

    return Inputs(**{field.name: moved(getattr(inputs, field.name)) for field in fields(inputs)})


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    device, wrong, count = torch.device(args.device), 0, 0
    for shape, dtype in cases(device):
        for operation in operations(shape):
            if operation == PLAIN and shape.text is None and device.type != "cuda":
                continue  # the few-keys kernel again, as in the case after it
            count += 1
            trouble = check(make_inputs(shape, operation, device, dtype))
            if trouble:
                wrong += 1
                print(f"WRONG {shape.name} {operation.name} head_dim {shape.head_dim} {dtype}: {trouble}", flush=True)
    small = device.type != "cuda"
    for frames, head_dim in ((3, 16),) if small else ((16, 40), (32, 80), (24, 160)):
        for operation in SELF:
            count += 1
            shape = Shape("motion", frames, 2 if small else 9, 2, head_dim)
            trouble = motion_error(pixels(shape, operation, device, torch.float32 if small else torch.float16))
            if trouble:
                wrong += 1
                print(f"WRONG motion {operation.name} {frames} frames head_dim {head_dim}: {trouble}", flush=True)
    print(f"{count} calls, {wrong} wrong")
    sys.exit(min(wrong, 1))


if __name__ == "__main__":
    main()

"""Compile the kernels for GPUs that are not here, exactly as they would be launched, and read what they use.

    python -m benchmarks.ahead_of_time [--targets sm_80 sm_90 ...] [--head-dims 40 64 ...] [--dtypes float16 ...]

prints one JSON row per kernel, target, head_dim and dtype. Needs no GPU; must run without TRITON_INTERPRET.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from fame_accel.kernels.attention import attention_call
from fame_accel.kernels.extremes import extremes_call
from fame_accel.kernels.few_keys import few_keys_call
from fame_accel.kernels.launch import Call, split_head_dim
from fame_accel.kernels.launch_table import FEW_KEYS, HEAD_DIMS, choose_launch, short_sequences_launch
from fame_accel.kernels.modulated import modulated_call
from fame_accel.kernels.one_pass import one_pass_call
from fame_accel.kernels.pack import pack_call
from fame_accel.kernels.short_sequences import short_sequences_call
from fame_accel.kernels.streamed_keys import streamed_keys_call

# target -> (launch table family, shared memory of one block in bytes)
TARGETS = {
    "sm_80": ("sm80", 163 << 10),
    "sm_89": ("sm86", 99 << 10),
    "sm_90": ("sm90", 227 << 10),
    "sm_100": ("sm100", 227 << 10),
    "gfx942": ("cdna", 64 << 10),
}
_POINTERS = {
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
    torch.float32: "*fp32",
    torch.int32: "*i32",
}


def gpu_target(name: str) -> GPUTarget:
    """Triton's name of sm_90, gfx942 and the like."""
    return GPUTarget("cuda", int(name[3:]), 32) if name.startswith("sm_") else GPUTarget("hip", name, 64)


def compile_call(call: Call, target: str) -> Any:
    """The compiled kernel of a launch, specialized as Triton's launcher does.

    1 and None are constants; pointers and multiples of 16 are marked as divisible by 16.
    """
    signature: dict[str, str] = {}
    constants: dict[tuple[int], Any] = {}
    attributes: dict[tuple[int], list[list[Any]]] = {}
    for index, parameter in enumerate(call.kernel.params):
        value, position = call.arguments[parameter.name], (index,)
        if parameter.is_constexpr or value is None or (type(value) is int and value == 1):
            signature[parameter.name] = "constexpr"
            constants[position] = value
        elif isinstance(value, torch.Tensor):
            signature[parameter.name] = _POINTERS[value.dtype]
            attributes[position] = [["tt.divisibility", 16]]
        elif isinstance(value, float):
            signature[parameter.name] = "fp32"
        else:
            signature[parameter.name] = "i32" if abs(value) < 2**31 else "i64"
            if value % 16 == 0:
                attributes[position] = [["tt.divisibility", 16]]
    source = ASTSource(call.kernel, signature, constants, attributes)
    return triton.compile(source, target=gpu_target(target), options=dict(call.options))


def calls(target: str, head_dim: int, dtype: torch.dtype) -> Iterator[tuple[str, Call]]:
    """Every kernel variant an edit launches, for 8 frames of 64 x 64 tokens and 8 heads, on meta tensors."""
    meta: dict[str, Any] = dict(device="meta")
    family = TARGETS[target][0]
    kernels = ("tiled", "one_pass", "two_pass")
    tiled, one_pass, two_pass = (choose_launch(kernel, family, head_dim, dtype.itemsize) for kernel in kernels)
    tokens = 8 * 64 * 64
    q, k, v, out = (torch.empty(2, tokens, 8, head_dim, dtype=dtype, **meta).transpose(1, 2) for _ in range(4))
    lse, high, low = (torch.empty(2, 8, tokens, **meta) for _ in range(3))
    width = sum(split_head_dim(head_dim))
    packed_k, packed_v = (torch.empty(2, 8, tokens, width, dtype=dtype, **meta) for _ in range(2))
    order = torch.empty(1, tokens, dtype=torch.int32, **meta)
    span = torch.empty(4096, 2, dtype=torch.int32, **meta)
    value = torch.empty(4096, 2, **meta)
    plan = (order, torch.empty(1, 520, 7, dtype=torch.int32, **meta), span, value)
    strength, weight = (torch.empty(1, tokens, **meta) for _ in range(2))
    parked = torch.empty(2, 8, tokens, width, **meta)
    again = torch.empty(2 * 8 * 520, dtype=torch.int32, **meta)
    packed = (q, packed_k, packed_v, out, lse)
    yield "pack", pack_call(k, v, packed_k, packed_v, order)
    yield "attention", attention_call(*packed, *plan, 0.125, "ieee", tiled, False)
    for name, last in (("one_pass_same", False), ("one_pass_other", True)):
        factors = (high, low, parked, high, strength)
        yield name, one_pass_call(*packed, *factors, *plan, 1.0, 0.5, 0.125, "ieee", last, one_pass, False)
    yield "extremes", extremes_call(q, packed_k, high, low, *plan[:3], "ieee", two_pass)
    for name, g, pinned in (
        ("modulated", None, True),
        ("modulated_again", None, False),
        ("modulated_weighted", weight, True),
    ):
        factors = (high, low, strength, g, again)
        yield name, modulated_call(*packed, *factors, *plan, 0.0, 0.125, "ieee", pinned, two_pass, False)
    for keys in (77, 96, 512):
        kt, vt = (torch.empty(2, keys, 8, head_dim, dtype=dtype, **meta).transpose(1, 2) for _ in range(2))
        bits, table = torch.empty(1, keys, dtype=torch.int32, **meta), torch.empty(2, 8, **meta)
        g = torch.empty(1, keys, **meta)
        tensors = (q, kt, vt, out, lse, order, order, bits, table, None, strength, g, 0.125, "ieee")
        few = choose_launch("few_keys", family, head_dim, dtype.itemsize) if keys <= FEW_KEYS else None
        if few is None:
            few = choose_launch("streamed_keys", family, head_dim, dtype.itemsize)
            yield f"streamed_keys_{keys}", streamed_keys_call(*tensors, few)
        else:
            yield f"few_keys_{keys}", few_keys_call(*tensors, 528, few)
    for frames in (16, 32):
        yield f"short_sequences_{frames}", short_call(target, frames, head_dim, dtype)


def short_call(target: str, frames: int, head_dim: int, dtype: torch.dtype, tables: bool = True) -> Call:
    """A motion module's attention over the frames of 2 x 64 x 64 pixels, with all tables and factors, or plain."""
    meta: dict[str, Any] = dict(device="meta")
    pixels, heads = 2 * 64 * 64, 8
    q, k, v, out = (torch.empty(pixels, frames, heads, head_dim, dtype=dtype, **meta).transpose(1, 2) for _ in range(4))
    lse, table = torch.empty(pixels, heads, frames, **meta), torch.empty(2, frames, frames, **meta)
    region, frame = (torch.empty(items, frames, dtype=torch.int32, **meta) for items in (pixels, 1))
    factor = torch.empty(pixels, frames, **meta)
    modulation = (table, table, factor, factor) if tables else (None,) * 4
    launch = short_sequences_launch(TARGETS[target][0], frames, frames, head_dim, dtype.itemsize)
    return short_sequences_call(
        q, k, v, out, lse, region, frame, region, frame, *modulation, 0.125, "ieee", 2112, launch
    )


def resources(compiled: Any, target: str) -> dict[str, int]:
    """Registers, spill_bytes (the stack included) and shared_bytes of a compiled kernel."""
    usage = {"shared_bytes": compiled.metadata.shared}
    if target.startswith("sm_"):
        text = _cuobjdump(compiled.asm["cubin"])
        usage["registers"] = _number(r"REG:(\d+)", text)
        usage["spill_bytes"] = _number(r"STACK:(\d+)", text) + _number(r"LOCAL:(\d+)", text)
    else:
        text = compiled.asm["amdgcn"]
        usage["registers"] = _number(r"\.vgpr_count:\s+(\d+)", text)
        usage["spill_bytes"] = 4 * _number(r"\.vgpr_spill_count:\s+(\d+)", text)
    return usage


def _number(pattern: str, text: str) -> int:
    match = re.search(pattern, text)
    if match is None:
        raise RuntimeError(f"the compiler's report has no {pattern}")
    return int(match[1])


def _cuobjdump(cubin: bytes) -> str:
    tool = triton.knobs.nvidia.cuobjdump.path
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        return subprocess.run(
            [tool, "--dump-resource-usage", file.name], check=True, capture_output=True, text=True
        ).stdout


def refuse_interpreter(parser: argparse.ArgumentParser) -> None:
    """End the command where kernels would not be compiled."""
    if os.environ.get("TRITON_INTERPRET") == "1":
        parser.error("TRITON_INTERPRET=1 is set: kernels would be interpreted, not compiled; unset it")


def main() -> None:
    """Print a row for each kernel."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--targets", nargs="+", default=list(TARGETS), choices=TARGETS)
    parser.add_argument("--head-dims", nargs="+", type=int, default=list(HEAD_DIMS))
    parser.add_argument("--dtypes", nargs="+", default=["float16"], choices=["float16", "bfloat16", "float32"])
    args = parser.parse_args()
    refuse_interpreter(parser)
    for target in args.targets:
        for head_dim in args.head_dims:
            for dtype in args.dtypes:
                for name, call in calls(target, head_dim, getattr(torch, dtype)):
                    row = dict(kernel=name, target=target, head_dim=head_dim, dtype=dtype)
                    usage = resources(compile_call(call, target), target)
                    print(json.dumps(row | usage | {"shared_limit": TARGETS[target][1]}), flush=True)


if __name__ == "__main__":
    main()

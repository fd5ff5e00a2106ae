"""More than 2**31 elements: shapes without memory, and strides past 2**31 over memory never touched."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from cases import FRAMES, GPU, MODULATIONS, SDPA, TRITON, Case, Target, assert_parity, layout
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from fame_accel import bindings

FAR = 2**31


@pytest.fixture(autouse=True)
def poisoned_memory() -> None:
    """In place of the poison, which would fill the gigabytes that these tests reserve and never touch."""


def _operator_arguments(name: str, query: Tensor) -> tuple:
    tokens = query.shape[2]
    ints, floats = (query.new_empty((1, tokens), dtype=dtype) for dtype in (torch.int32, torch.float32))
    tiles, spans, values = (
        query.new_empty(shape, dtype=dtype)
        for shape, dtype in (((1, 9, 7), torch.int32), ((9, 2), torch.int32), ((9, 2), torch.float32))
    )
    table, runs = query.new_empty((2, 3, 3), dtype=torch.float32), query.new_empty((4, 5), dtype=torch.int64)
    qkv = (query, query, query)
    return {
        "tile_attention": (
            *qkv, ints, ints, tiles, spans, values, floats, None, 0.125, True, True, 0.5, 1.0, 0.0, 128, 64, True,
        ),
        "few_keys_attention": (*qkv, ints, ints, ints, table[..., 0], table[..., 0], floats, None, 0.125),
        "short_sequences_attention": (*qkv, ints, ints, ints, ints, table, table, floats, None, 0.125),
        "sdpa_attention": (
            *qkv, ints, ints, ints, ints, table, table, ints, ints, runs, runs, table, table, floats, None, 0.125, True,
        ),
    }[name]  # fmt: skip


@pytest.mark.parametrize("how", ["meta", "fake"])
@pytest.mark.parametrize(
    "name",
    ["tile_attention", "few_keys_attention", "short_sequences_attention", "sdpa_attention"],
)
def test_shapes_beyond_31_bits(name: str, how: str):
    shape = (2, 8, 2**21, 80)
    if how == "meta":
        query = torch.empty(shape, dtype=torch.float16, device="meta")
        out, lse = getattr(bindings, name)(*_operator_arguments(name, query))
    else:
        with FakeTensorMode():
            query = torch.empty(shape, dtype=torch.float16)
            out, lse = getattr(bindings, name)(*_operator_arguments(name, query))
    assert query.numel() > FAR
    assert (out.shape, out.dtype, out.stride()) == (shape, torch.float16, query.stride())
    assert (lse.shape, lse.dtype, lse.is_contiguous()) == (shape[:3], torch.float32, True)


def _resident_bytes() -> int:
    status = Path("/proc/self/status")
    if not status.exists():
        pytest.skip("needs /proc/self/status to see resident memory")
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmRSS"))
    return 1024 * int(line.split()[1])


HALF = [target for target in (*SDPA, *TRITON, *GPU) if target.dtype == torch.float16]
# (shape, axis, its stride): the last index along the axis lies 2**31 elements from the first. Strides below
# 2**31 reach the kernels as 32-bit integers, those from 2**31 as 64-bit ones.
FAR_AXES = {
    "batch": ((3, 1, 3, 16), 0, FAR // 2),
    "head": ((1, 3, 3, 16), 1, FAR // 2),
    "token": ((1, 1, 3, 16), 2, FAR // 2),
    "token within": ((1, 1, 3, 16), 2, FAR // 2 - 8),  # the last offset that 32 bits hold
    "token64": ((1, 1, 2, 16), 2, FAR),
    "channel": ((1, 1, 3, 17), 3, FAR // 16),
    # Batches that the short-sequences kernel takes: in one of its programs, and where a later one starts.
    "short batch": ((4, 1, 3, 16), 0, FAR // 3 + 1),
    "short batches": ((5, 1, 3, 16), 0, FAR // 4),
    "short head": ((4, 3, 3, 16), 1, FAR // 2),
    "short token": ((4, 1, 3, 16), 2, FAR // 2),
    "short token of 32": ((4, 1, 32, 16), 2, FAR // 31 + 1),
    "short channel": ((4, 1, 3, 17), 3, FAR // 16),
}


@pytest.mark.parametrize("target", [target.param() for target in HALF])
@pytest.mark.parametrize("shape, axis, stride", FAR_AXES.values(), ids=FAR_AXES)
@pytest.mark.parametrize("name", ["plain", "videograin", "fame"])
def test_strides_beyond_31_bits(target: Target, shape: tuple[int, ...], axis: int, stride: int, name: str):
    before = _resident_bytes()
    strides = [200, 100, 20, 1]
    if axis == 3:
        strides[2] = 1
    strides[axis] = stride
    try:
        # On a CPU committed page by page, as it is written.
        memory = torch.empty(2 * FAR + 4096, dtype=target.dtype, device=target.device)
    except RuntimeError as error:
        pytest.skip(f"cannot reserve 8 GiB: {error}")
    # In the middle, so that an offset wrapped to 32 bits reads zeros and not memory of others.
    query, key, value = (memory.as_strided(shape, strides, FAR + 1000 * position) for position in range(3))
    for x in (query, key, value):
        x.copy_(torch.randn(shape))
    tokens = layout(shape[2], kind="two", device=target.device)
    case = Case(query, key, value, tokens, modulation=MODULATIONS[name](FRAMES))
    out, lse = case.run(target.backend)
    grown = _resident_bytes() - before
    assert target.device == "cuda" or grown < 2**28, "the untouched part of the storage was committed"
    near = {part: getattr(case, part).contiguous() for part in ("query", "key", "value")}
    assert_parity(out, lse, replace(case, **near))

"""Bytes that one call of self-attention holds at its peak, beside its query, key and value, by backend.

The operators are called on fake or meta tensors, which hold no data, and the storages that they make are counted. The
kernels of `triton` allocate nothing, so there the operator's buffers are made, and the plan's lists are added. Layouts,
and what libraries take inside a matrix product, are left out: they are small.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from fame_accel.bindings.pairwise import attend_pairwise
from fame_accel.bindings.run_attention import attend_runs
from fame_accel.bindings.tile_ops import allocate_buffers
from fame_accel.core.planning import UNTILED_KEYS
from fame_accel.core.presets import make_modulation
from fame_accel.core.reference import evaluate
from fame_accel.core.runs import is_coarse
from fame_accel.core.tables import merge_frames
from fame_accel.core.tiles import MAX_PAIRS
from fame_accel.kernels.launch import split_head_dim
from fame_accel.tools.planner.pairs import RunCounts
from fame_accel.tools.planner.tracker import MemoryTracker

MOST_SDPA_FRAMES = 2048  # tables [2, F, F] are made to plan them
_FAKE = FakeTensorMode(allow_non_fake_inputs=True)  # the tables are real
_FRAME_CLASSES = 4  # for which runs are listed; the classes of more frames are merged


@dataclass(frozen=True)
class CallShape:
    """The shape of query, key and value.

    heads: of all batch items together.
    tokens: of all frames.
    """

    heads: int
    tokens: int
    head_dim: int
    dtype: torch.dtype

    @property
    def tensor(self) -> int:
        """Bytes of one of query, key, value and out."""
        return self.heads * self.tokens * self.head_dim * self.dtype.itemsize

    @property
    def row(self) -> int:
        """Bytes of a float32 number for each query row, such as lse."""
        return self.heads * self.tokens * 4

    def empty(self, device: str) -> Tensor:
        """An uninitialized tensor of this shape, [1, H, N, D]."""
        return torch.empty(1, self.heads, self.tokens, self.head_dim, dtype=self.dtype, device=device)


def reference_bytes(shape: CallShape, runs: RunCounts, frames: int) -> int:
    """Bytes of the eager reference."""
    tensor = shape.empty("meta")  # for each of query, key and value
    region = torch.empty(1, shape.tokens, dtype=torch.int32, device="meta")
    table = torch.empty(2, frames, frames, device="meta")
    strength, bias = (table if used else None for used in (runs.kind.modulated, runs.kind.biased))
    factor = torch.empty(1, shape.tokens, device="meta") if runs.kind.modulated else None
    return _peak(
        lambda: evaluate(
            tensor, tensor, tensor, region, region, region, region, strength, bias, factor, None, scale=1.0
        )
    )


def sdpa_bytes(shape: CallShape, runs: RunCounts, modulation: str, frames: int) -> int:
    """Bytes of torch's own attention, as on a CPU."""
    kind = runs.kind
    with _FAKE:
        tensor = shape.empty("cpu")
        region = torch.empty(1, shape.tokens, dtype=torch.int32, device="cpu")
        factor = torch.empty(1, shape.tokens, device="cpu") if kind.modulated else None
    by_runs = not kind.modulated or shape.tokens > UNTILED_KEYS
    if not by_runs or not is_coarse(runs.number, shape.tokens, kind.modulated, not kind.one_pass):
        tables = make_modulation(modulation, frames)
        strength, bias = tables.strength_table, tables.bias_table
        return _peak(
            lambda: attend_pairwise(
                tensor, tensor, tensor, region, region, region, region, strength, bias, factor, None, 1.0, False
            )
        )
    classes = min(len(runs.tokens), _FRAME_CLASSES)
    merged = merge_frames(make_modulation(modulation, classes), classes, classes)
    rows = _rows(runs, classes)
    peak = _peak(
        lambda: attend_runs(
            tensor, tensor, tensor, region, region, rows, rows, merged.strength, merged.bias, factor, 1.0, False
        )
    )
    # the other classes of query frames have a bias for each key, too
    return peak + ((len(runs.tokens) - classes) * shape.tokens * 4 if kind.biased else 0)


def _rows(runs: RunCounts, classes: int) -> list[list[int]]:
    """Runs as the operator takes them, their classes of frames merged into a few."""
    lengths = torch.stack([part.sum(0) for part in runs.tokens.tensor_split(classes)])
    rows, start = [], 0
    for bitset, of_classes in zip(runs.bitsets.tolist(), lengths.T.tolist(), strict=True):
        for index, length in enumerate(of_classes):
            if length:
                rows.append([0, start, start + length, bitset, index])
            start += length
    return rows


def triton_bytes(shape: CallShape, runs: RunCounts, block_q: int, block_k: int) -> int:
    """Bytes of the Triton kernels with tiles of block_q queries and block_k keys, the plan's lists included."""
    if not runs.planned:
        return shape.tensor + shape.row
    tiles = runs.cut(block_q, block_k)
    query = shape.empty("meta")
    buffers = allocate_buffers(query, query, tiles.query_tiles, runs.kind.modulated, runs.kind.one_pass)
    return plan_bytes(runs, block_q, block_k) + sum(buffer.nbytes for buffer in buffers if buffer is not None)


def plan_bytes(runs: RunCounts, block_q: int, block_k: int) -> int:
    """Bytes of a plan's lists, which all heads and layers share."""
    tiles = runs.cut(block_q, block_k)
    # int32: two orders, seven numbers a tile, two a pair; float32: two a pair
    return 4 * (2 * int(runs.tokens.sum()) + 7 * tiles.query_tiles + 4 * tiles.listed)


def triton_refuses(shape: CallShape, runs: RunCounts, block_q: int, block_k: int) -> str | None:
    """Why the kernels, or their plan, do not take a call whatever the memory; None where they do."""
    if not runs.planned:
        return None
    width = sum(split_head_dim(shape.head_dim))
    if shape.tokens * width >= 2**31:
        return f"the kernels take fewer than {2**31 // width} keys of head_dim {shape.head_dim}"
    if runs.cut(block_q, block_k).examined > MAX_PAIRS:
        return f"a plan would look at more than {MAX_PAIRS} pairs of a run of tokens and a tile"
    return None


def _peak(call: Callable[[], object]) -> int:
    """The most bytes that a call on fake tensors holds at once, its results included."""
    tracker = MemoryTracker(_FAKE)
    with tracker, tracker.few_chunks():
        call()
    return tracker.peak

"""Bytes that one call of attention holds at its peak, beside its query, key and value: backend by backend.

Each follows its backend's code, tensor by tensor: `reference.py`, `bindings/tile_ops.py`, `bindings/grouped_ops.py` and
`bindings/chunked_ops.py`; a test holds them against what these allocate. Layouts, per-row factors, and what libraries
take inside a matrix product are left out: they are small.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

from fame_accel.bindings.products import Chunk
from fame_accel.bindings.torch_attention import takes_chunks
from fame_accel.core.attention import UNPLANNED_KEYS
from fame_accel.core.planning import MOST_PAIRS, is_coarse
from fame_accel.kernels.launch import split_head_dim
from fame_accel.tools.planner.pairs import RunCounts

_FLOAT, _LONG, _INT = 4, 8, 4
_CPU = torch.device("cpu")


@dataclass(frozen=True)
class CallShape:
    """heads: of all batch items of the call together; tokens: of all frames; element: bytes of the dtype."""

    heads: int
    tokens: int
    head_dim: int
    element: int

    @property
    def tensor(self) -> int:
        """Bytes of one of query, key, value and out."""
        return self.heads * self.tokens * self.head_dim * self.element

    @property
    def row(self) -> int:
        """Bytes of a float32 number per query row, such as lse."""
        return self.heads * self.tokens * _FLOAT


def reference_bytes(shape: CallShape, runs: RunCounts) -> int:
    """Of the eager reference: N x N tensors, `wide` where each head has its own, `pairs` where heads share one."""
    kind = runs.kind
    pairs = shape.tokens**2
    wide = shape.heads * pairs * shape.element
    same, looked_up = pairs, pairs * _LONG
    tables = pairs * shape.element * (kind.modulated + kind.biased)
    held = same + tables
    moments = [
        2 * wide,  # q @ k, and its product with the scale
        wide + same + pairs * _INT,  # region & region
        wide + held + (looked_up if tables else 0),
    ]
    kept = wide
    if kind.modulated:
        moments.append(wide + held + pairs * shape.element)  # the strength times that of its row
        held += pairs  # which pairs are seen
        moments.append(3 * wide + held)  # logits, extreme - logits, and their product or sum
        kept += wide  # the pulled logits stay as long as the call
    if kind.biased:
        moments.append(kept + wide + held)
    above_float = 0 if shape.element >= _FLOAT else shape.heads * pairs * _FLOAT
    moments.append(kept + held + above_float + shape.heads * pairs * max(_FLOAT, shape.element))  # exp for the lse
    moments.append(kept + held + 2 * wide + shape.row)  # softmax, then zero where all keys are excluded
    moments.append(kept + held + wide + shape.row + shape.tensor)
    return max(moments)


def triton_bytes(shape: CallShape, runs: RunCounts, block_q: int, block_k: int) -> int:
    """Of the Triton kernels with tiles of block_q queries and block_k keys, the plan's lists included."""
    outputs = shape.tensor + shape.row
    if not runs.planned:
        return outputs
    kind, tiles = runs.kind, runs.cut(block_q, block_k)
    width = sum(split_head_dim(shape.head_dim))
    packed = 2 * shape.heads * shape.tokens * width * shape.element
    plan = _INT * (2 * shape.tokens + 7 * tiles.query_tiles + 2 * tiles.listed) + _FLOAT * 2 * tiles.listed
    extra = 0
    if kind.modulated:
        extra = 2 * shape.row  # extremes
        if kind.one_pass:
            extra += shape.row * (width + 1)  # the first group's result, in float32, and its lse
        else:
            extra += _INT * shape.heads * tiles.query_tiles  # which tiles to do again
    return outputs + packed + plan + extra


def triton_refuses(shape: CallShape, runs: RunCounts, block_q: int, block_k: int) -> str | None:
    """Why the kernels, or their plan, do not take a call whatever the memory; None where they do."""
    if not runs.planned:
        return None
    width = sum(split_head_dim(shape.head_dim))
    if shape.tokens * width >= 2**31:
        return f"the kernels take fewer than {2**31 // width} keys of head_dim {shape.head_dim}"
    if runs.cut(block_q, block_k).examined > MOST_PAIRS:
        return f"a plan would look at more than {MOST_PAIRS} pairs of a run of tokens and a tile"
    return None


def sdpa_bytes(shape: CallShape, runs: RunCounts) -> int:
    """Of torch's own attention over the runs, as on a CPU."""
    kind = runs.kind
    grouped = not kind.modulated or shape.tokens > UNPLANNED_KEYS
    grouped = grouped and is_coarse(runs.number, shape.tokens, kind.modulated, not kind.one_pass)
    return _grouped_bytes(shape, runs) if grouped else _chunked_bytes(shape, runs)


def _grouped_bytes(shape: CallShape, runs: RunCounts) -> int:
    """Ordered q, k, v and out, and the block that takes the most; then the order in which out is put back."""
    order = 2 * _INT * shape.tokens
    standing = order + 5 * shape.tensor + 2 * shape.row
    return int(standing + max(_LONG * shape.tokens, *(_block_bytes(shape, runs, block) for block in _blocks(runs))))


def _blocks(runs: RunCounts) -> list[Tensor]:
    """bool [S]: the region sets of each block, side by side and of the same keys."""
    there = (runs.tokens > 0).any(0)
    seen = runs.attended & there
    blocks: list[Tensor] = []
    for _, alike in groupby(there.nonzero().flatten().tolist(), lambda place: seen[place].tolist()):
        block = torch.zeros_like(there)
        block[list(alike)] = True
        blocks.append(block)
    return blocks


def _block_bytes(shape: CallShape, runs: RunCounts, block: Tensor) -> float:
    """Keys and values copied where they do not lie side by side, and what attention of them takes."""
    seen = runs.attended[block][0] & (runs.tokens > 0).any(0)
    tokens = runs.tokens.sum(0)
    rows, keys = int(tokens[block].sum()), int(tokens[seen].sum())
    edges = seen.int().diff().abs().sum() + seen[0] + seen[-1]
    copied = 2 * shape.tensor * keys / shape.tokens if edges > 2 else 0
    chunk = Chunk.of(_CPU, 1, shape.heads, rows, keys, shape.head_dim, pairwise=False)
    dtype = torch.float32 if shape.element == _FLOAT else torch.float16
    if not runs.kind.modulated and not takes_chunks(_CPU, dtype, rows, keys, shape.head_dim):
        longest = int(runs.tokens[:, block].max())
        result = longest * (shape.tensor + shape.row) / shape.tokens
        return copied + result + _flash_bytes(longest, keys, shape.head_dim)
    return copied + _chunk_bytes(shape, chunk, keys)


def _chunk_bytes(shape: CallShape, chunk: Chunk, keys: int) -> float:
    """In each thread a chunk's logits, with the queries or the result of its products."""
    rows = chunk.heads * chunk.rows * shape.head_dim
    own = chunk.pairs * _FLOAT + rows * (_FLOAT if chunk.onednn else shape.element)
    shared = 0.0
    if shape.element < _FLOAT:  # keys and queries in float32, weights in the values' dtype
        shared = shape.tensor * _FLOAT / shape.element * keys / shape.tokens
        own += rows * _FLOAT + chunk.pairs * shape.element
    elif chunk.onednn:  # a head's values less their mean
        own += keys * shape.head_dim * _FLOAT
    return shared + chunk.threads * own


def _flash_bytes(rows: int, keys: int, head_dim: int) -> int:
    """What torch's kernel for CPUs takes: in each thread a block of queries with 512 keys, and its sums."""
    queries = min(rows, 256 if rows >= 768 else 64)
    return torch.get_num_threads() * queries * (min(keys, 512) + 2 + head_dim) * _FLOAT


def _chunked_bytes(shape: CallShape, runs: RunCounts) -> int:
    """In each thread a chunk's float32 logits, what its pairs of tokens are given, and a head's centred values."""
    kind = runs.kind
    chunk = Chunk.of(_CPU, 1, shape.heads, shape.tokens, shape.tokens, shape.head_dim, pairwise=True)
    pairs = chunk.rows * shape.tokens
    excluded = kind.biased and not all(kind.attended)  # then the bias differs by region, too
    at_keys = runs.tokens.shape[0] * shape.tokens * _FLOAT * (kind.modulated + kind.biased * (1 + excluded))
    keys = shape.tensor * _FLOAT // shape.element if shape.element < _FLOAT else 0
    standing = shape.tensor + shape.row + keys + at_keys * kind.by_frame
    centred = shape.tokens * shape.head_dim * _FLOAT if chunk.onednn and shape.element == _FLOAT else 0
    kept = pairs * _FLOAT * (2 * kind.modulated + kind.biased + excluded)
    made = pairs * (1 + _FLOAT * max(1, 3 * kind.modulated, 3 * excluded))
    rows = chunk.heads * chunk.rows * shape.head_dim
    logits = chunk.pairs * _FLOAT
    used = kept + rows * (_FLOAT if chunk.onednn else shape.element)
    if shape.element < _FLOAT:
        used += rows * _FLOAT + chunk.pairs * shape.element  # queries in float32, weights in the values' dtype
    made += 0 if chunk.onednn else logits
    return standing + chunk.threads * (centred + max(made, logits + used))

"""Plain attention with its logsumexp on whatever torch has for the device, in O(N) extra memory."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor
from torch.nn.functional import pad

CHUNK_BYTES = 8 << 20  # logits of one chunk: small enough to stay in a CPU's last-level cache


def attend(query: Tensor, key: Tensor, value: Tensor, key_bias: Tensor | None, scale: float) -> tuple[Tensor, Tensor]:
    """softmax(scale * q @ k^T + key_bias) @ v and its lse.

    query [B, H, Nq, D], key and value [B, H, Nk, D] with Nk >= 1; key_bias [Nk] float32, finite, or None. Returns
    out [B, H, Nq, D] in the query's dtype and lse [B, H, Nq] float32.
    """
    if query.device.type == "cpu":
        # the kernel reads rows as if their numbers lay side by side
        query, key, value = (x if x.stride(-1) == 1 else x.contiguous() for x in (query, key, value))
        mask = None if key_bias is None else key_bias[None, None, None]
        return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            query, key, value, attn_mask=mask, scale=scale
        )
    if query.device.type == "cuda":
        return _attend_cuda(query, key, value, key_bias, scale)
    return _attend_chunked(query, key, value, key_bias, scale)


@dataclass(frozen=True)
class Chunk:
    """Batch items, heads and query rows whose logits are worked on at once; pairs: the logits of a whole chunk.

    Measured on CPUs: few keys go best a head at a time; with more, products of fewer than 128 rows, or of a single
    head, cost more than a larger chunk does.
    """

    items: int
    heads: int
    rows: int
    pairs: int

    @classmethod
    def of(cls, batch: int, heads: int, queries: int, keys: int) -> Chunk:
        good, most = CHUNK_BYTES // 8, 2 * CHUNK_BYTES  # float32 logits
        if heads * queries * keys <= good:
            items = min(batch, max(1, good // max(heads * queries * keys, 1)))
            return cls(items, heads, queries, items * heads * queries * keys)
        if good // keys >= 1024:
            rows = _even(queries, good // keys)
            return cls(1, 1, rows, rows * keys)
        rows = min(queries, max(128, good // (heads * keys)))
        heads = min(heads, max(2, 2 * good // (rows * keys)))
        rows = _even(queries, min(rows, max(16, most // (heads * keys))))
        return cls(1, heads, rows, heads * rows * keys)

    def places(self, batch: int, heads: int, queries: int) -> Iterator[tuple[slice, slice, slice]]:
        """Every chunk: items, heads and rows."""
        for item, row, head in product(
            range(0, batch, self.items), range(0, queries, self.rows), range(0, heads, self.heads)
        ):
            yield slice(item, item + self.items), slice(head, head + self.heads), slice(row, row + self.rows)


def _even(queries: int, most: int) -> int:
    """Rows a chunk, at most `most`, such that the last chunk is hardly shorter."""
    return math.ceil(queries / math.ceil(queries / most))


def logits_into(memory: Tensor, query: Tensor, key: Tensor, scale: float) -> Tensor:
    """scale * q @ k^T [B, H, rows, Nk] in the first of `memory`; query of any dtype, key and memory float32."""
    size = (*query.shape[:3], key.shape[2])
    logits = memory[: math.prod(size)].view(math.prod(size[:2]), *size[2:])
    sides = query.float().flatten(0, 1), key.flatten(0, 1).transpose(1, 2)
    if query.device.type not in ("cpu", "cuda"):  # elsewhere what the memory held may be read for all that
        return torch.bmm(sides[0] * scale, sides[1], out=logits).view(size)
    return torch.baddbmm(logits, *sides, beta=0, alpha=scale, out=logits).view(size)


def softmax(logits: Tensor, with_highest: bool) -> tuple[Tensor, Tensor | None]:
    """Weights over the last dimension and, if asked for, the largest logit of each row: as the largest weight is
    1 / sum exp(logits - highest), the two give lse. On a CPU the weights take the logits' place, which is in the cache.
    """
    highest = logits.amax(-1) if with_highest else None
    return torch.softmax(logits, -1, out=logits if logits.device.type == "cpu" else None), highest


def row_chunks(batch_heads: int, num_queries: int, num_keys: int) -> range:
    """Starts of row chunks whose float32 logits take about CHUNK_BYTES; the step is the chunk's length."""
    rows = CHUNK_BYTES // (4 * max(batch_heads * num_keys, 1))
    return range(0, num_queries, max(16, rows))


def _attend_cuda(
    query: Tensor, key: Tensor, value: Tensor, key_bias: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
    """The memory-efficient kernel: any dtype, a bias broadcast over rows. It wants aligned rows, hence the padding."""
    batch, heads, num_queries, head_dim = query.shape
    num_keys = key.shape[2]
    if head_dim % 8:
        query, key, value = (pad(x, (0, -head_dim % 8)) for x in (query, key, value))
    bias, top = None, 0.0
    if key_bias is not None:  # in the query's dtype, whose range it may pass: counted from its maximum
        top = key_bias.max()
        bias = (key_bias - top).clamp(min=torch.finfo(query.dtype).min).to(query.dtype)
        bias = pad(bias, (0, -num_keys % 16))[:num_keys].expand(batch, heads, num_queries, num_keys)
    out, lse, *_ = torch.ops.aten._scaled_dot_product_efficient_attention(query, key, value, bias, True, scale=scale)
    return out[..., :head_dim], lse[..., :num_queries].float() + top


def _attend_chunked(
    query: Tensor, key: Tensor, value: Tensor, key_bias: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
    batch, heads, num_queries, _ = query.shape
    out, lse = torch.empty_like(query), query.new_empty(query.shape[:3], dtype=torch.float32)
    chunks = row_chunks(batch * heads, num_queries, key.shape[2])
    for start in chunks:
        rows = slice(start, start + chunks.step)
        logits = (query[:, :, rows].float() @ key.transpose(-1, -2).float()).mul_(scale)
        if key_bias is not None:
            logits += key_bias
        lse[:, :, rows] = logits.logsumexp(-1)
        out[:, :, rows] = logits.softmax(-1).to(value.dtype) @ value
    return out, lse

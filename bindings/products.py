"""Attention from two matrix products, in chunks whose logits stay in the cache.

On x86 with AVX-512, float32 products go to oneDNN, one head at a time: MKL, which torch takes otherwise, was half as
fast on an AMD processor. In large calls each thread then has chunks of its own.
"""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import groupby, product

import torch
from torch import Tensor

from .strides import with_supported_strides
from .threads import run_in_threads

CHUNK_BYTES = 8 << 20  # logits of one chunk: small enough to stay in a CPU's last-level cache
ONEDNN_WORK = 1 << 23  # multiplications of one product from which on calling oneDNN pays
# multiplications of a call from which on each thread has chunks of its own: a shorter call ends before the threads that
# split operators stop spinning and leave their cores
THREADED_WORK = 1 << 32
ChunkIndex = tuple[slice, slice, slice]  # items, heads and rows of a chunk


@dataclass(frozen=True)
class Chunk:
    """The size of a chunk: how many batch items, heads and query rows have their logits worked on at once.

    Measured on CPUs: with torch's batched product, few keys go best one head at a time; with more keys, products of
    fewer than 128 rows, or of a single head, cost more than a larger chunk does.

    Attributes:
        items, heads, rows: of a whole chunk.
        pairs: logits of a whole chunk.
        pairwise: whether tensors over its pairs of tokens share the cache with the logits.
        onednn: whether its products go to oneDNN.
        threads: how many threads have chunks of their own; 1 where operators are split over threads.
    """

    items: int
    heads: int
    rows: int
    pairs: int
    pairwise: bool
    onednn: bool = False
    threads: int = 1

    @classmethod
    def of(
        cls, device: torch.device, batch: int, heads: int, queries: int, keys: int, head_dim: int, pairwise: bool
    ) -> Chunk:
        good, most = CHUNK_BYTES // 8, 2 * CHUNK_BYTES  # float32 logits
        if onednn_pays(device, queries, keys, head_dim):
            work = batch * heads * queries * keys * head_dim
            threads = torch.get_num_threads() if work >= THREADED_WORK else 1
            room = CHUNK_BYTES // (2 if pairwise else 1) // (2 if threads > 1 else 1)
            share = batch * queries * (1 if pairwise else heads) // (2 * threads)  # enough chunks for all threads
            rows = _even(queries, max(64, min(room // 4 // keys, share)))
            return cls(1, 1, rows, rows * keys, pairwise, True, threads)
        if heads * queries * keys <= good:
            items = min(batch, max(1, good // max(heads * queries * keys, 1)))
            return cls(items, heads, queries, items * heads * queries * keys, pairwise)
        if good // keys >= 1024:
            rows = _even(queries, good // keys)
            return cls(1, 1, rows, rows * keys, pairwise)
        rows = min(queries, max(128, good // (heads * keys)))
        heads = min(heads, max(2, 2 * good // (rows * keys)))
        rows = _even(queries, min(rows, max(16, most // (heads * keys))))
        return cls(1, heads, rows, heads * rows * keys, pairwise)

    def chunks(self, batch: int, heads: int, queries: int) -> Iterator[ChunkIndex]:
        """All chunks: where pairwise, the heads of the same rows in turn, otherwise the rows of a head in turn."""
        items = range(0, batch, self.items)
        starts = range(0, heads, self.heads), range(0, queries, self.rows)
        for item, first, second in product(items, *(reversed(starts) if self.pairwise else starts)):
            head, row = (second, first) if self.pairwise else (first, second)
            yield slice(item, item + self.items), slice(head, head + self.heads), slice(row, row + self.rows)


class ChunkedAttention:
    """softmax(z) @ v, chunk by chunk: `logits`, then whatever turns them into z in place, then `finish`.

    Args:
        query, key, value: [B, H, Nq, D], and twice [B, H, Nk, D].
        scale: of the logits.
        out: like the query; `finish` writes to it.
        lse: float32 [B, H, Nq], or None where it is not wanted.
        pairwise: as in `Chunk`.
    """

    def __init__(
        self, query: Tensor, key: Tensor, value: Tensor, scale: float, out: Tensor, lse: Tensor | None,
        pairwise: bool = False,
    ) -> None:  # fmt: skip
        if query.device.type == "cuda":
            query, key, value = map(with_supported_strides, (query, key, value))
        self._query, self._scale, self._out, self._lse = query, scale, out, lse
        self._of_thread = threading.local()
        batch, heads, num_queries, head_dim = query.shape
        self.chunk = Chunk.of(query.device, batch, heads, num_queries, key.shape[2], head_dim, pairwise)
        self._key, self._value = key.float(), value  # logits may pass float16's range
        if self.chunk.onednn:  # slow where the rows of a head do not lie side by side
            self._key, self._value = (x if x[0, 0].is_contiguous() else x.contiguous() for x in (self._key, value))
        else:
            self._memory = self._key.new_empty(self.chunk.pairs)  # one for all chunks

    def chunks(self) -> Iterator[ChunkIndex]:
        """All chunks, in the order of `Chunk.chunks`."""
        return self.chunk.chunks(*self._query.shape[:3])

    def run(self, task: Callable[[list[ChunkIndex]], None]) -> None:
        """Call `task` with lists of chunks, all chunks in all, perhaps in threads.

        Where pairwise, a list holds the heads of the same items and rows.
        """
        chunks = list(self.chunks())
        if self.chunk.pairwise:
            lists = [list(alike) for _, alike in groupby(chunks, lambda chunk: (chunk[0], chunk[2]))]
        else:
            number = min(len(chunks), 4 * self.chunk.threads)
            ends = [part * len(chunks) // number for part in range(number + 1)]
            lists = [chunks[start:stop] for start, stop in itertools.pairwise(ends)]
        if self.chunk.threads > 1:
            run_in_threads(task, lists, self.chunk.threads)
        else:
            for part in lists:
                task(part)

    def logits(self, chunk: ChunkIndex) -> Tensor:
        """scale * q @ k^T [B, H, rows, Nk] of a chunk, float32."""
        items, heads, _ = chunk
        query, key = self._query[chunk].float(), self._key[items, heads]
        if self.chunk.onednn:
            return _onednn_product((query[0, 0] * self._scale).contiguous(), key[0, 0])[None, None]
        size = (*query.shape[:3], key.shape[2])
        logits = self._memory[: math.prod(size)].view(math.prod(size[:2]), *size[2:])
        sides = query.flatten(0, 1), key.flatten(0, 1).transpose(1, 2)
        if query.device.type not in ("cpu", "cuda"):  # elsewhere beta=0 may not keep NaN of the memory out
            return torch.bmm(sides[0] * self._scale, sides[1], out=logits).view(size)
        return torch.baddbmm(logits, *sides, beta=0, alpha=self._scale, out=logits).view(size)

    def finish(self, logits: Tensor, chunk: ChunkIndex) -> None:
        """Write out and lse of a chunk; its logits are overwritten."""
        highest = logits.amax(-1) if self._lse is not None else logits
        # on a CPU the weights take the logits' place, which is in the cache
        weights = torch.softmax(logits, -1, out=logits if logits.device.type == "cpu" else None)
        value = self._value[chunk[:2]]
        if self.chunk.onednn and value.dtype == torch.float32:
            centered, mean = self._centered(value[0, 0], chunk[:2])
            self._out[chunk] = _onednn_product(weights[0, 0], centered.T).add_(mean)
        else:
            self._out[chunk] = weights.to(value.dtype) @ value
        if self._lse is not None:  # the largest weight is 1 / sum exp(logits - highest)
            self._lse[chunk] = highest - weights.amax(-1).log()

    def _centered(self, value: Tensor, head: tuple[slice, slice]) -> tuple[Tensor, Tensor]:
        """Values [Nk, D] less their mean, and the mean.

        oneDNN adds key by key, so that its rounding errors add up where weights and values are alike.
        """
        kept = self._of_thread.__dict__
        if kept.get("head") != head:
            kept.clear()  # its memory is free for the next
            mean = value.mean(0)
            kept.update(head=head, centered=value - mean, mean=mean)
        return kept["centered"], kept["mean"]


def onednn_pays(device: torch.device, queries: int, keys: int, head_dim: int) -> bool:
    """Whether oneDNN is there, is faster than MKL, and the products of one head are large enough for it."""
    if device.type != "cpu" or queries * keys * head_dim < ONEDNN_WORK:
        return False
    return bool(torch.backends.mkldnn.enabled) and _has_avx512()


@cache
def _has_avx512() -> bool:
    has_onednn = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    return has_onednn and torch.backends.cpu.get_cpu_capability() == "AVX512"


def _onednn_product(left: Tensor, right: Tensor) -> Tensor:
    """left @ right^T of float32 matrices; left contiguous, right or its transpose contiguous."""
    return torch.ops.mkldnn._linear_pointwise(left, right, None, "none", [], "")


def _even(queries: int, most: int) -> int:
    """Rows of a chunk, at most `most`, such that the last chunk is hardly shorter."""
    return math.ceil(queries / math.ceil(queries / most))

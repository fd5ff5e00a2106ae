"""Peak memory of operators that do not run: called on fake tensors, they make storages whose bytes are counted."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fame_accel.bindings.products import ChunkedAttention, ChunkIndex


class MemoryTracker(TorchDispatchMode):
    """Counts the bytes of the storages that operators make, for as long as these live.

    Args:
        fake: makes the fake tensors that operators are called on; None for meta tensors.

    Attributes:
        live: bytes now.
        peak: the most bytes at once.
    """

    def __init__(self, fake: FakeTensorMode | None = None) -> None:
        super().__init__()
        self._fake = fake
        self.live = self.peak = 0
        self._counted: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.ops.aten.repeat_interleave.Tensor and self._fake is not None:
            # of a few real numbers, as many as there are keys
            total = int(args[0].sum())
            with self._fake:
                result = torch.empty(total, dtype=torch.int64, device="cpu")
        else:
            result = func(*args, **kwargs or {})
        given = {id(leaf.untyped_storage()) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                storage = leaf.untyped_storage()
                if id(storage) not in given | self._counted:
                    self._counted.add(id(storage))
                    self.live += storage.nbytes()
                    weakref.finalize(storage, self._freed, id(storage), storage.nbytes())
        self.peak = max(self.peak, self.live + _scratch(func, args))
        return result

    def _freed(self, key: int, nbytes: int) -> None:
        self._counted.remove(key)
        self.live -= nbytes

    @contextmanager
    def few_chunks(self) -> Iterator[None]:
        """Let ChunkedAttention run a few chunks in place of all, and count their bytes for each of its threads."""

        def run(chunked: ChunkedAttention, task: Callable[[list[ChunkIndex]], None]) -> None:
            standing, peak = self.live, self.peak
            self.peak = standing
            first, *others = islice(chunked.chunks(), 2)
            if chunked.chunk.pairwise:  # a task has the heads of the same items and rows
                task([first])  # what a thread keeps of it is there for the next task
                others = [other for other in others if (other[0], other[2]) == (first[0], first[2])]
            task([first, *others])
            self.peak = max(peak, standing + chunked.chunk.threads * (self.peak - standing))

        with patch.object(ChunkedAttention, "run", run):
            yield


def _scratch(func: Any, args: tuple[Any, ...]) -> int:
    """Bytes that an operator allocates inside and frees at its end."""
    if func is torch.ops.aten.logsumexp.default:  # the exponentials
        return args[0].nbytes
    if func is torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default:
        # in each thread the logits of a block of queries with 512 keys, in float32 and in the dtype, and its sums
        query, keys = args[0], min(args[1].shape[2], 512)
        rows, head_dim = query.shape[2:]
        block = min(rows, 256 if rows >= 768 else 64 if rows >= 192 else 32)
        in_dtype = keys * query.itemsize if query.dtype != torch.float32 else 0
        return torch.get_num_threads() * block * ((keys + 2 + head_dim) * 4 + in_dtype)
    return 0

"""Launch table: tile sizes, warps and pipeline stages per architecture family, head_dim and element size.

Chosen by ahead-of-time compilation, not yet by measurement: shared memory within the chip's limit and, for float16 in
the tiled kernels on sm_80 and sm_90, no spills at head_dim 40, 64, 80, 128 and 160. float32 spills at large head_dim.
"""

import logging
from typing import Any, NamedTuple

log = logging.getLogger("fame_accel")


class Launch(NamedTuple):
    """block_q query rows and block_k keys per tile, num_warps, num_stages of the key loop."""

    block_q: int
    block_k: int
    num_warps: int
    num_stages: int


class ShortLaunch(NamedTuple):
    """Batch items a program of the short-sequences kernel holds, num_warps, num_stages of its loop over heads."""

    items: int
    num_warps: int
    num_stages: int


class Call(NamedTuple):
    """One kernel launch, built apart from its execution so that it can be compiled ahead of time as launched."""

    kernel: Any
    grid: tuple[int]
    arguments: dict[str, Any]
    options: dict[str, int]


def strides(tensor: Any, letter: str) -> dict[str, int]:
    """The four strides of a [B, H, N, D] tensor under the names the kernels use."""
    return {f"stride_{letter}{axis}": step for axis, step in zip("bhnd", tensor.stride(), strict=True)}


def item_stride(tensor: Any) -> int:
    """Stride over batch items of a [P, ...] plan tensor; 0 where one item serves the whole batch."""
    return tensor.stride(0) if tensor.shape[0] > 1 else 0


def row_alignment(*tensors: Any) -> int:
    """Elements of which every row address of these [B, H, N, D] tensors is a multiple: 16 bytes' worth where strides
    and pointers allow it, so that rows move in wide loads, otherwise 1."""
    wide = 16 // tensors[0].element_size()
    aligned = all(
        t.stride(3) == 1 and t.data_ptr() % 16 == 0 and all(step % wide == 0 for step in t.stride()[:3])
        for t in tensors
    )
    return wide if aligned else 1


def past_int32(*tensors: Any) -> bool:
    """Whether an offset within one head of these [B, H, N, D] tensors passes 2**31 elements."""
    return any((t.shape[2] - 1) * t.stride(2) + (t.shape[3] - 1) * t.stride(3) >= 2**31 for t in tensors)


def options(num_warps: int, num_stages: int) -> dict[str, int]:
    """Compile options; fusion into multiply-adds is pinned, as Triton 3.10 turns its default off."""
    return dict(num_warps=num_warps, num_stages=num_stages, enable_fp_fusion=True)


def split_head_dim(head_dim: int) -> tuple[int, int]:
    """Power-of-two blocks (head, tail) that cover head_dim with the least padding; tail 0 where one block does.

    40 -> (32, 16), 80 -> (64, 16), 160 -> (128, 32): matrix units want powers of two and padding 40 to 64 would
    waste 37% of their work.
    """
    padded = max(16, 1 << (head_dim - 1).bit_length())
    head = padded // 2
    tail = max(16, 1 << max(head_dim - head - 1, 0).bit_length())
    return (head, tail) if head >= 16 and head + tail < padded else (padded, 0)


# (largest head_dim, element size) -> Launch. Families: sm80 (A100), sm86 (100 KiB of shared memory: sm_86, 89, 120),
# sm90, sm100, cdna (gfx9), rdna (gfx11, gfx12).
_TABLE = {
    "sm80": {
        (64, 2): Launch(128, 64, 4, 3),
        (128, 2): Launch(128, 32, 8, 3),
        (256, 2): Launch(64, 32, 4, 2),
        (64, 4): Launch(64, 32, 4, 2),
        (256, 4): Launch(32, 32, 4, 2),
    },
    "sm86": {
        (64, 2): Launch(128, 64, 4, 2),
        (128, 2): Launch(64, 32, 4, 2),
        (256, 2): Launch(64, 32, 4, 2),
        (64, 4): Launch(64, 32, 4, 2),
        (256, 4): Launch(32, 16, 4, 2),
    },
    "sm90": {
        (64, 2): Launch(128, 64, 4, 3),
        (128, 2): Launch(128, 64, 8, 3),
        (256, 2): Launch(128, 32, 8, 2),
        (64, 4): Launch(64, 32, 4, 2),
        (256, 4): Launch(32, 32, 4, 2),
    },
    "cdna": {
        (64, 2): Launch(128, 64, 4, 1),
        (128, 2): Launch(128, 32, 4, 1),
        (256, 2): Launch(64, 32, 4, 1),
        (64, 4): Launch(64, 32, 4, 1),
        (256, 4): Launch(32, 16, 4, 1),
    },
    "rdna": {
        (64, 2): Launch(64, 32, 4, 1),
        (256, 2): Launch(32, 32, 4, 1),
        (64, 4): Launch(32, 32, 4, 1),
        (256, 4): Launch(32, 16, 4, 1),
    },
    "interpreter": {(256, 4): Launch(32, 32, 1, 1)},
}
_TABLE["sm100"] = _TABLE["sm90"]
_SAFE = Launch(32, 32, 4, 1)
_unknown_said: set[str] = set()


def choose_launch(family: str, head_dim: int, element_size: int) -> Launch:
    """The entry for a family; a small safe one, with one log line, for a family that is not in the table."""
    if family not in _TABLE:
        if family not in _unknown_said:
            _unknown_said.add(family)
            log.warning("no launch table for %s: using tiles of %d x %d", family, _SAFE.block_q, _SAFE.block_k)
        return _SAFE
    fits = [key for key in _TABLE[family] if head_dim <= key[0] and element_size <= key[1]]
    return _TABLE[family][min(fits, key=lambda key: (key[1], key[0]))]


def few_keys_launch(family: str, num_keys: int, head_dim: int, element_size: int) -> Launch:
    """Launch of the few-keys kernel: all keys in one tile where they and their rows are small enough for the shared
    memory of a known chip, else small tiles."""
    row_bytes = sum(split_head_dim(head_dim)) * element_size
    roomy = family in _TABLE and family != "rdna"
    if num_keys <= 128 and element_size <= 2 and row_bytes <= 256 and roomy:
        return Launch(32, max(16, 1 << (num_keys - 1).bit_length()), 4, 2)
    if element_size <= 2 and row_bytes <= 256 and roomy:
        return Launch(64, 32, 8, 2)
    return Launch(32, 32 if row_bytes <= 256 else 16, 4, 2 if roomy and family != "cdna" else 1)


def short_sequences_launch(
    family: str, num_queries: int, num_keys: int, head_dim: int, element_size: int
) -> ShortLaunch:
    """Launch of the short-sequences kernel: a warp for 16 rows of an item, and up to four items where they have no
    more. More warps for an item of wide rows, and in float32, which has no matrix units in full precision.

    A batched product of one item a warp takes half the instructions of one product over a block diagonal of items.
    """
    long = max(num_queries, num_keys) > 16
    if family == "interpreter":
        return ShortLaunch(1 if long else 4, 1, 1)
    stages = 2 if family in _TABLE and family not in ("cdna", "rdna") else 1
    if element_size > 2:
        return ShortLaunch(1, 8 if long or head_dim > 128 else 4, 1)
    if long or head_dim > 160:
        return ShortLaunch(1, 4 if head_dim > 128 else 2, stages)
    items = 4 if head_dim <= 80 else 2
    return ShortLaunch(items, items, stages)

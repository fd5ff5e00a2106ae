"""What a launch is made of, and the arguments that kernels share."""

from typing import Any, NamedTuple


class Launch(NamedTuple):
    """How a kernel is launched.

    Attributes:
        block_q, block_k: query rows and keys of a tile; block_k is 0 where a kernel holds all keys.
        num_warps, num_stages: warps of a program, stages of its loop.
        parts: of the row statistics (see `softmax`).
        registers: at most per thread (NVIDIA); 0 leaves them to the compiler. Fewer let a multiprocessor hold more
            programs, which hide each other's waits.
    """

    block_q: int
    block_k: int
    num_warps: int
    num_stages: int
    parts: int = 8
    registers: int = 0


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
    """The number of elements of which every row address of these [B, H, N, D] tensors is a multiple.

    It is 16 bytes' worth where strides and pointers allow it, so that rows move in wide loads, otherwise 1.
    """
    wide = 16 // tensors[0].element_size()
    aligned = all(
        t.stride(3) == 1 and t.data_ptr() % 16 == 0 and all(step % wide == 0 for step in t.stride()[:3])
        for t in tensors
    )
    return wide if aligned else 1


def options(num_warps: int, num_stages: int, registers: int = 0) -> dict[str, int]:
    """Compile options; fusion into multiply-adds is pinned, as Triton 3.10 turns its default off."""
    limit = {"maxnreg": registers} if registers else {}
    return dict(num_warps=num_warps, num_stages=num_stages, enable_fp_fusion=True, **limit)


def tiled_call(
    kernel: Any, q: Any, k: Any, out: Any, query_order: Any, tiles: Any, precision: str, launch: Launch,
    blocks: tuple[int, int] | None = None, **rest: Any,
) -> Call:  # fmt: skip
    """Launch of a kernel over the query tiles of a plan, one program per (batch, head, query tile).

    It takes what all of these kernels take, and `rest`. out is None for a kernel without one; blocks are those of the
    head dimension, where it is not split as usual.
    """
    batch, num_heads, num_queries, head_dim = q.shape
    num_tiles = tiles.shape[1]
    head, tail = blocks or split_head_dim(head_dim)
    outputs = {} if out is None else dict(out=out, **strides(out, "o"))
    arguments = dict(
        q=q, k=k, query_order=query_order, tiles=tiles, num_heads=num_heads, num_tiles=num_tiles,
        num_queries=num_queries, num_keys=k.shape[2], order_stride=item_stride(query_order),
        tiles_stride=item_stride(tiles), **strides(q, "q"), **outputs, **rest,
        BLOCK_Q=launch.block_q, BLOCK_K=launch.block_k, HEAD=head, TAIL=tail, D=head_dim, PARTS=launch.parts,
        ALIGN=row_alignment(q) if out is None else row_alignment(q, out), PRECISION=precision,
    )  # fmt: skip
    grid = (num_tiles * batch * num_heads,)
    return Call(kernel, grid, arguments, options(launch.num_warps, launch.num_stages, launch.registers))


def split_head_dim(head_dim: int) -> tuple[int, int]:
    """Power-of-two blocks (head, tail) that cover head_dim with the least padding; tail 0 where one block does.

    40 -> (32, 16), 80 -> (64, 16), 160 -> (128, 32): matrix units want powers of two and padding 40 to 64 would
    waste 37% of their work.
    """
    padded = max(16, 1 << (head_dim - 1).bit_length())
    head = padded // 2
    tail = max(16, 1 << max(head_dim - head - 1, 0).bit_length())
    return (head, tail) if head >= 16 and head + tail < padded else (padded, 0)

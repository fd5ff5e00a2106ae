"""Layout attention over several processes, each with its own part of the sequence.

Ulysses gives each process all tokens of some heads, which changes nothing of the operation. Where heads do not divide,
each process attends from its own queries to everyone's keys. Ring attention cannot serve: a row's extremes need all of
its keys at once.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from fame_accel.core.attention import layout_attention
from fame_accel.core.checks import check_choice, check_flag, shown
from fame_accel.core.layout import TokenLayout
from fame_accel.core.limits import BACKENDS
from fame_accel.core.modulation import Modulation
from fame_accel.core.validation import check_layouts, check_tensors


def ulysses_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    query_layout: TokenLayout,
    key_layout: TokenLayout | None = None,
    modulation: Modulation | None = None,
    *,
    group: Any = None,
    row_strength: Tensor | None = None,
    key_weight: Tensor | None = None,
    scale: float | None = None,
    return_lse: bool = False,
    backend: str = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """`layout_attention` of a sequence that is divided among the processes of a group, in the order of their ranks.

    Heads are divided in place of tokens for the time of the attention (Ulysses, arXiv 2309.14509): two exchanges of the
    size of the inputs and the output. The result is that of one process, bit for bit.

    Args:
        query: [B, H, Nq / ranks, D], this process's tokens.
        key, value: [B, H, Nk / ranks, D], likewise.
        query_layout, key_layout, row_strength, key_weight: of the whole sequence, the same in every process.
        modulation, scale, return_lse, backend: as in `layout_attention`.
        group: a torch.distributed process group; None is the default one.

    Returns:
        out [B, H, Nq / ranks, D] and, with `return_lse`, lse [B, H, Nq / ranks].

    Raises:
        TypeError, ValueError: as `layout_attention`; the heads do not divide among the ranks, or the layouts are not of
            the whole sequence.
        RuntimeError: there is no process group.
    """
    check_choice("backend", backend, BACKENDS)
    check_flag("return_lse", return_lse)
    check_tensors(query, key, value, doubles=backend == "reference")
    key_layout = query_layout if key_layout is None else key_layout
    check_layouts(query_layout, key_layout, Modulation() if modulation is None else modulation)
    ranks = group_size(group)
    heads = query.shape[1]
    if heads % ranks:
        divisors = [count for count in range(1, heads + 1) if heads % count == 0]
        raise ValueError(f"query has {heads} heads, which {ranks} ranks cannot divide: use one of {divisors} ranks")
    for name, layout, side in (("query_layout", query_layout, query), ("key_layout", key_layout, key)):
        if layout.num_tokens != side.shape[2] * ranks:
            raise ValueError(
                f"{name} must be of the whole sequence, {side.shape[2]} tokens on each of {ranks} ranks, "
                f"got {layout.num_tokens}"
            )
    query, key, value = (_exchange(side, group, 1, 2) for side in (query, key, value))
    out, lse = layout_attention(
        query, key, value, query_layout, key_layout, modulation, row_strength=row_strength,
        key_weight=key_weight, scale=scale, return_lse=True, backend=backend,
    )  # fmt: skip
    out = _exchange(out, group, 2, 1)
    return (out, _exchange(lse[..., None], group, 2, 1)[..., 0]) if return_lse else out


def gather_tokens(side: Tensor, group: Any = None) -> Tensor:
    """All processes' tokens of [B, H, N, D], joined in the order of their ranks: [B, H, N * ranks, D]."""
    parts = [torch.empty_like(side, memory_format=torch.contiguous_format) for _ in range(group_size(group))]
    dist.all_gather(parts, side.contiguous(), group=group)
    return torch.cat(parts, 2)


def group_size(group: Any = None) -> int:
    """The number of processes of a group; TypeError where it is none, RuntimeError where there is none."""
    if group is not None and not (dist.is_available() and isinstance(group, dist.ProcessGroup)):
        raise TypeError(f"group must be a torch.distributed process group or None, got {shown(group)}")
    if not dist.is_available() or not dist.is_initialized():
        raise RuntimeError("group needs torch.distributed: launch by torchrun and call init_process_group()")
    return dist.get_world_size(group)


def group_rank(group: Any = None) -> int:
    """The rank of this process in a group."""
    return dist.get_rank(group)


def _exchange(side: Tensor, group: Any, divided: int, joined: int) -> Tensor:
    """Divide one dimension among the ranks, and join another one from them."""
    parts = torch.stack(side.chunk(group_size(group), divided)).contiguous()
    received = torch.empty_like(parts)
    dist.all_to_all_single(received, parts, group=group)
    return torch.cat(received.unbind(0), joined)

"""What a provider makes of the inputs: a call that can be judged and timed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fame_accel.bench.inputs import AttentionInputs
from fame_accel.tools.measure import free_bytes


class CannotRun(Exception):
    """A provider does not do an operation, or cannot do it on this machine; the message says why."""


@dataclass(frozen=True)
class PreparedCall:
    """A provider's call on some inputs.

    Attributes:
        call: gives the result [B, H, Nq, D].
        replan: makes what is made once per edit anew (masks, orders, tables), or drops it so that the next call does.
        sort: the part of the call that orders tokens and puts them back.
        note: a remark for the row of results.
        judged: whether the result is the operation's, to be held against the parity rule.
    """

    call: Callable[[], Tensor]
    replan: Callable[[], object] | None = None
    sort: Callable[[], object] | None = None
    note: str = ""
    judged: bool = True


Provider = Callable[[AttentionInputs], PreparedCall]  # raises CannotRun


def require_memory(size: int, device: torch.device, what: str) -> None:
    """Raise CannotRun where `size` bytes are not free; `what` takes them."""
    free = free_bytes(device)
    if free is not None and size > free:
        raise CannotRun(f"out of memory: {what} take about {size / 2**30:.0f} GiB, {free / 2**30:.0f} are free")

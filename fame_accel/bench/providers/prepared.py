"""What a provider makes of a case."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from fame_accel.bench.inputs import Inputs


class CannotRun(Exception):
    """Why a provider does not do an operation, or cannot here."""


@dataclass(frozen=True)
class Prepared:
    """call: [B, H, Nq, D].

    replan: makes what is made once per edit anew (masks, orders, tables), or forgets it so that the next call does.
    sort: what of the call orders the tokens and puts them back, to be timed by itself. judged: whether the result is
    the operation's, to be held against the 2x rule.
    """

    call: Callable[[], Tensor]
    replan: Callable[[], object] | None = None
    sort: Callable[[], object] | None = None
    note: str = ""
    judged: bool = True


Provider = Callable[[Inputs], Prepared]  # raises CannotRun

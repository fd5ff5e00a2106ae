"""The operator of the sdpa backend: torch's own attention and matrix products, on any device, in O(N) extra memory."""

from __future__ import annotations

from torch import Tensor

from .library import declare
from .pairwise import attend_pairwise
from .run_attention import attend_runs


def _sdpa_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    query_region: Tensor,
    query_frame: Tensor,
    key_region: Tensor,
    key_frame: Tensor,
    strength: Tensor | None,
    bias: Tensor | None,
    query_order: Tensor | None,
    key_order: Tensor | None,
    query_runs: Tensor | None,
    key_runs: Tensor | None,
    strength_of_runs: Tensor | None,
    bias_of_runs: Tensor | None,
    row_strength: Tensor | None,
    key_weight: Tensor | None,
    scale: float,
    with_lse: bool,
) -> tuple[Tensor, Tensor]:
    """Layout attention run by run where the plan has runs of queries and no weight of a key stands in the way.

    Otherwise pair by pair. Arguments as in `attend_runs` (runs: int64 [runs, 5] on the CPU, rows of length 0 stand for
    nothing) and `attend_pairwise`.
    """
    if (
        (key_weight is None or strength is None)
        and (query_order is not None and key_order is not None)
        and (query_runs is not None and key_runs is not None)
    ):
        rows_q, rows_k = ([run for run in runs.tolist() if run[1] < run[2]] for runs in (query_runs, key_runs))
        if rows_q:
            return attend_runs(
                query, key, value, query_order, key_order, rows_q, rows_k, strength_of_runs, bias_of_runs,
                row_strength, scale, with_lse,
            )  # fmt: skip
    return attend_pairwise(
        query, key, value, query_region, query_frame, key_region, key_frame, strength, bias, row_strength, key_weight,
        scale, with_lse,
    )  # fmt: skip


sdpa_attention = declare(
    "sdpa_attention",
    "Tensor query, Tensor key, Tensor value, Tensor query_region, Tensor query_frame, Tensor key_region, "
    "Tensor key_frame, Tensor? strength, Tensor? bias, Tensor? query_order, Tensor? key_order, Tensor? query_runs, "
    "Tensor? key_runs, Tensor? strength_of_runs, Tensor? bias_of_runs, Tensor? row_strength, Tensor? key_weight, "
    "float scale, bool with_lse",
    _sdpa_attention,
    ("CompositeExplicitAutograd",),
)

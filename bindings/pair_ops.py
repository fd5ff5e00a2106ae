"""Operators on the Triton kernels that find regions and tables per pair of tokens: no tiles."""

from __future__ import annotations

from torch import Tensor

from .device import family, precision, programs, require, run
from .library import declare, empty_outputs


def _few_keys_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    query_region: Tensor,
    query_frame: Tensor,
    key_region: Tensor,
    strength: Tensor | None,
    bias: Tensor | None,
    row_strength: Tensor | None,
    key_weight: Tensor | None,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """Layout attention over few keys; see kernels/few_keys.py for shapes."""
    require(query)
    from fame_accel.kernels.few_keys import few_keys_call
    from fame_accel.kernels.launch_table import FEW_KEYS, choose_launch
    from fame_accel.kernels.streamed_keys import streamed_keys_call

    out, lse = empty_outputs(query)
    chip = (family(query.device), query.shape[-1], query.element_size())
    launch = choose_launch("few_keys", *chip) if key.shape[2] <= FEW_KEYS else None
    arguments = (
        query, key, value, out, lse, query_region, query_frame, key_region, strength, bias, row_strength, key_weight,
        scale, precision(query.dtype),
    )  # fmt: skip
    if launch is not None:
        run(few_keys_call(*arguments, programs(query.device), launch), query)
        return out, lse
    launch = choose_launch("streamed_keys", *chip)
    assert launch is not None  # only few_keys may have none
    run(streamed_keys_call(*arguments, launch), query)
    return out, lse


def _short_sequences_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    query_region: Tensor,
    query_frame: Tensor,
    key_region: Tensor,
    key_frame: Tensor,
    strength: Tensor | None,
    bias: Tensor | None,
    row_strength: Tensor | None,
    key_weight: Tensor | None,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """Layout attention over many sequences of up to 32 tokens; see kernels/short_sequences.py for shapes."""
    require(query)
    from fame_accel.kernels.launch_table import short_sequences_launch
    from fame_accel.kernels.short_sequences import short_sequences_call

    out, lse = empty_outputs(query)
    launch = short_sequences_launch(
        family(query.device), query.shape[2], key.shape[2], query.shape[-1], query.element_size()
    )
    enough = 4 * programs(query.device)  # several rounds of them, as the last may leave much of the chip idle
    run(short_sequences_call(
        query, key, value, out, lse, query_region, query_frame, key_region, key_frame, strength, bias, row_strength,
        key_weight, scale, precision(query.dtype), enough, launch,
    ), query)  # fmt: skip
    return out, lse


few_keys_attention = declare(
    "few_keys_attention",
    "Tensor query, Tensor key, Tensor value, Tensor query_region, Tensor query_frame, Tensor key_region, "
    "Tensor? strength, Tensor? bias, Tensor? row_strength, Tensor? key_weight, float scale",
    _few_keys_attention,
    ("CUDA", "CPU"),
)
short_sequences_attention = declare(
    "short_sequences_attention",
    "Tensor query, Tensor key, Tensor value, Tensor query_region, Tensor query_frame, Tensor key_region, "
    "Tensor key_frame, Tensor? strength, Tensor? bias, Tensor? row_strength, Tensor? key_weight, float scale",
    _short_sequences_attention,
    ("CUDA", "CPU"),
)

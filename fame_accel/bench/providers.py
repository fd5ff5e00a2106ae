"""What `fame-accel bench` compares: the eager formula, plain attention, and this library's backends.

eager        the formula on N x N matrices, as VideoGrain runs it
sdpa_plain   torch's attention without modulation: what every modulation costs at least
ours_triton  this library, by its Triton kernels
ours_sdpa    this library, by torch's own operations
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from fame_accel import bindings
from fame_accel.bench.dense import eager
from fame_accel.bench.inputs import AttentionInputs
from fame_accel.bench.prepared import CannotRun, PreparedCall, Provider
from fame_accel.core.attention import layout_attention
from fame_accel.core.layout import TokenLayout

EAGER, FLOOR = "eager", "sdpa_plain"  # what ratios are taken to


def sdpa_plain(inputs: AttentionInputs) -> PreparedCall:
    """Plain attention on the same tensors."""

    def call() -> Tensor:
        return scaled_dot_product_attention(inputs.query, inputs.key, inputs.value)

    plain = not (inputs.operation.excludes or inputs.operation.modulates)
    return PreparedCall(call, note="" if plain else "plain attention, the floor", judged=plain)


def ours_triton(inputs: AttentionInputs) -> PreparedCall:
    """This library's Triton kernels."""
    reason = bindings.triton_unavailable(inputs.device, inputs.query.dtype)
    if reason is not None:
        raise CannotRun(reason)
    return _ours(inputs, "triton")


def ours_sdpa(inputs: AttentionInputs) -> PreparedCall:
    """This library on torch's own operations."""
    return _ours(inputs, "sdpa")


def _ours(inputs: AttentionInputs, backend: str) -> PreparedCall:
    x, layouts = inputs, [inputs.query_layout, inputs.key_layout]

    def call() -> Tensor:
        return layout_attention(x.query, x.key, x.value, layouts[0], layouts[1], backend=backend, **x.options)

    def forget() -> None:
        """Take new layouts, which have no plan yet."""
        query_layout = _copy(x.query_layout)
        layouts[:] = query_layout, query_layout if x.key_layout is x.query_layout else _copy(x.key_layout)

    return PreparedCall(call, forget)


def _copy(layout: TokenLayout) -> TokenLayout:
    region, frame = layout.region, layout.frame
    if layout.batch is None:
        region, frame = region[0], frame[0]
    return TokenLayout(region, frame, layout.num_frames)


PROVIDERS: dict[str, Provider] = {
    EAGER: eager,
    FLOOR: sdpa_plain,
    "ours_triton": ours_triton,
    "ours_sdpa": ours_sdpa,
}

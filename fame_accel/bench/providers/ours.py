"""fame-accel's own backends through the public function."""

from __future__ import annotations

from torch import Tensor

from fame_accel import bindings
from fame_accel.bench.inputs import Inputs
from fame_accel.bench.providers.prepared import CannotRun, Prepared
from fame_accel.core.attention import layout_attention


def ours_triton(inputs: Inputs) -> Prepared:
    reason = bindings.triton_unavailable(inputs.device, inputs.query.dtype)
    if reason is not None:
        raise CannotRun(reason)
    return _ours(inputs, "triton")


def ours_sdpa(inputs: Inputs) -> Prepared:
    return _ours(inputs, "sdpa")


def _ours(inputs: Inputs, backend: str) -> Prepared:
    x = inputs

    def call() -> Tensor:
        return layout_attention(
            x.query, x.key, x.value, x.query_layout, x.key_layout, backend=backend, **x.options
        )  # fmt: skip

    def forget() -> None:
        x.query_layout.plans.clear()
        x.key_layout.plans.clear()

    return Prepared(call, forget)

"""What the kernels for few keys move: queries and outputs once, keys once a program, whatever the query tiles."""

from __future__ import annotations

import pytest
import torch
from cases import TRITON, Target, layout
from traffic import watch

HALF = TRITON[1].param()


def _tensors(target: Target, queries: int, keys: int, heads: int, head_dim: int) -> list[torch.Tensor]:
    q = torch.randn(1, heads, queries, head_dim, dtype=target.dtype)
    k, v = (torch.randn(1, heads, keys, head_dim, dtype=target.dtype) for _ in range(2))
    one, other = layout(queries, kind="two"), layout(keys, 1, kind="two")
    strength, bias = torch.rand(2, 2), torch.randn(2, 2)
    lse = torch.empty(q.shape[:3])
    return [
        *(q, k, v, torch.empty_like(q), lse, one.region, one.frame, other.region, strength, bias),
        *(torch.rand(1, queries), torch.rand(1, keys)),
    ]


@pytest.mark.parametrize("target", [HALF])
@pytest.mark.parametrize("programs", [2, 4])
def test_few_keys_bytes(target: Target, programs: int, monkeypatch: pytest.MonkeyPatch):
    """77 keys as 64 + 16: their rows are loaded once a program, the three past the last repeat it."""
    from fame_accel.kernels.few_keys import few_keys_call
    from fame_accel.kernels.launch import Launch

    tensors = _tensors(target, 256, 77, 2, 40)
    q, k, v, out, lse = tensors[:5]
    call = few_keys_call(*tensors, 0.125, "ieee", programs, Launch(32, 0, 1, 1))
    assert call.grid == (programs,)
    traffic = watch(call, monkeypatch)
    assert all(traffic.touches_once(tensor) for tensor in (q, out, lse))
    per_head = programs // 2
    assert traffic.of(k).numel() == per_head * 2 * 80 * 40
    assert traffic.of(v).numel() == per_head * v.numel()


@pytest.mark.parametrize("target", [HALF])
def test_streamed_keys_bytes(target: Target, monkeypatch: pytest.MonkeyPatch):
    """Keys twice and values once a query tile; queries, outputs and lse once."""
    from fame_accel.kernels.launch import Launch
    from fame_accel.kernels.streamed_keys import streamed_keys_call

    tensors = _tensors(target, 96, 160, 1, 40)
    q, k, v, out, lse = tensors[:5]
    traffic = watch(streamed_keys_call(*tensors, 0.125, "ieee", Launch(32, 32, 1, 1)), monkeypatch)
    assert all(traffic.touches_once(tensor) for tensor in (q, out, lse))
    assert (traffic.of(k).numel(), traffic.of(v).numel()) == (3 * 2 * k.numel(), 3 * v.numel())

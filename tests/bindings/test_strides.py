"""Which tensors torch's CUDA kernels get as they are, and which as a copy."""

from __future__ import annotations

import pytest
import torch

from fame_accel.bindings import torch_attention
from fame_accel.bindings.strides import with_supported_strides

ROWS = torch.zeros(2, 6, 3, 16, dtype=torch.float16)
KEPT = {"contiguous": ROWS, "as projected": ROWS.transpose(1, 2)}
FAR = torch.empty(2, 3, 6, 16, dtype=torch.float16, device="meta").as_strided((2, 3, 2, 16), (16, 16, 2**31, 1))
COPIED = {"channels apart": ROWS.mT.contiguous().mT, "past 31 bits": FAR}
UNALIGNED = {"rows of 40 bytes": torch.zeros(1, 1, 3, 20, dtype=torch.float16), "begins odd": ROWS.flatten()[1:97]}
UNALIGNED["begins odd"] = UNALIGNED["begins odd"].view(1, 1, 6, 16)


@pytest.mark.parametrize("x", KEPT.values(), ids=KEPT)
def test_kept(x: torch.Tensor) -> None:
    assert with_supported_strides(x) is x and with_supported_strides(x, aligned=True) is x


@pytest.mark.parametrize("x", COPIED.values(), ids=COPIED)
def test_copied(x: torch.Tensor) -> None:
    for aligned in (False, True):
        got = with_supported_strides(x, aligned)
        assert got is not x and got.is_contiguous() and got.shape == x.shape
        assert x.is_meta or torch.equal(got, x)


@pytest.mark.parametrize("x", UNALIGNED.values(), ids=UNALIGNED)
def test_copied_where_alignment_is_asked_for(x: torch.Tensor) -> None:
    assert with_supported_strides(x) is x and with_supported_strides(x, aligned=True) is not x


def test_large_batches_are_divided(monkeypatch: pytest.MonkeyPatch) -> None:
    """The CUDA kernel takes at most CUDA_BATCH items in a call."""
    sizes = []

    def limited(query: torch.Tensor, *others: object) -> tuple[torch.Tensor, torch.Tensor]:
        sizes.append(len(query))
        return torch_attention._attend_cpu(query, *others)

    monkeypatch.setattr(torch_attention, "CUDA_BATCH", 3)
    monkeypatch.setattr(torch_attention, "_attend_cuda", limited)
    sides = [torch.randn(8, 2, 5, 16) for _ in range(3)]
    for got, wanted in zip(
        torch_attention._attend_cuda_in_parts(*sides, None, 0.25),
        torch_attention._attend_cpu(*sides, None, 0.25),
        strict=True,
    ):
        torch.testing.assert_close(got, wanted)
    assert sizes == [3, 3, 2]

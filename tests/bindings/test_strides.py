"""Which tensors torch's CUDA kernels get as they are, and which as a copy."""

from __future__ import annotations

import pytest
import torch

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

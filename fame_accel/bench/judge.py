"""The correctness gate: a result is held against sampled rows of the reference in float64."""

from __future__ import annotations

import torch
from torch import Tensor

from fame_accel.bench.inputs import AttentionInputs
from fame_accel.core import reference
from fame_accel.core.layout import TokenLayout
from fame_accel.core.parity import Verdict, error

ROWS, ROWS_A_HEAD = 256, 64  # query rows that a result is judged by: float64 then fits at any length


class Judge:
    """Applies the parity rule to results on some inputs."""

    def __init__(self, inputs: AttentionInputs) -> None:
        batch, heads, queries, _ = inputs.query.shape
        rows = min(queries, ROWS_A_HEAD)
        sampled_heads = min(batch * heads, max(1, ROWS // max(rows, 1)))
        generator = torch.Generator().manual_seed(0)
        self._samples = []  # (item, head, rows)
        for index in torch.linspace(0, batch * heads - 1, sampled_heads).long().tolist():
            sampled = torch.randperm(queries, generator=generator)[:rows].sort()[0].to(inputs.device)
            self._samples.append((index // heads, index % heads, sampled))
        self._exact = self._rows(inputs, torch.float64)
        self._eager = error(self._rows(inputs, inputs.query.dtype), self._exact)

    def verdict(self, out: Tensor) -> Verdict:
        """Judge a whole result [B, H, Nq, D]; it fails where it is not finite anywhere."""
        if not bool(out.isfinite().all()):
            return Verdict((float("inf"), float("inf")), self._eager)
        return Verdict(error(torch.cat([out[sample] for sample in self._samples]), self._exact), self._eager)

    def _rows(self, inputs: AttentionInputs, dtype: torch.dtype) -> Tensor:
        return torch.cat([reference_rows(inputs, *sample, dtype) for sample in self._samples])


def reference_rows(inputs: AttentionInputs, item: int, head: int, rows: Tensor, dtype: torch.dtype) -> Tensor:
    """The given query rows of one head by the reference in `dtype`, over all keys: [len(rows), D]."""
    one = (slice(item, item + 1), slice(head, head + 1))
    query_layout, key_layout = (_of_item(layout, item) for layout in (inputs.query_layout, inputs.key_layout))
    sampled = TokenLayout(query_layout.region[0, rows], query_layout.frame[0, rows], query_layout.num_frames)
    strength = inputs.row_strength
    if strength is not None:
        strength = (strength if strength.dim() == 1 else strength[item])[rows]
    return reference.layout_attention(
        inputs.query[one].index_select(2, rows).to(dtype), inputs.key[one].to(dtype), inputs.value[one].to(dtype),
        sampled, key_layout, modulation=inputs.modulation, row_strength=strength, key_weight=inputs.key_weight,
    )[0, 0]  # fmt: skip


def _of_item(layout: TokenLayout, item: int) -> TokenLayout:
    """The layout of one batch item."""
    if layout.batch is None:
        return layout
    return TokenLayout(layout.region[item], layout.frame[item], layout.num_frames)

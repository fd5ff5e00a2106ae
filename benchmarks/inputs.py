"""Tensors and layouts of one timed case, and the judgement of a result by rows of the reference."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

import fame_accel as fa
from benchmarks.compare import error
from benchmarks.shapes import Operation, Shape
from fame_accel.parity_cases import three_regions

ROWS = 256  # query rows of one head that results are judged by: float64 then fits at any length


@dataclass(frozen=True)
class Inputs:
    """What every provider is given; query [B, H, Nq, D], key and value [B, H, Nk, D] as the projections leave them."""

    shape: Shape
    operation: Operation
    query: Tensor
    key: Tensor
    value: Tensor
    query_layout: fa.TokenLayout
    key_layout: fa.TokenLayout
    modulation: fa.Modulation | None
    row_strength: Tensor | None
    key_weight: Tensor | None

    @property
    def device(self) -> torch.device:
        return self.query.device

    @property
    def options(self) -> dict[str, object]:
        """Keyword arguments of layout_attention."""
        return dict(modulation=self.modulation, row_strength=self.row_strength, key_weight=self.key_weight)

    @cached_property
    def active_pairs(self) -> int:
        """Pairs of tokens that are not excluded, per head and batch item."""
        return active_pairs(self.query_layout, self.key_layout, self.modulation)

    @property
    def useful_flop(self) -> int:
        """Both matrix products over the active pairs."""
        batch, heads, _, head_dim = self.query.shape
        return 4 * self.active_pairs * head_dim * heads * batch

    @cached_property
    def judge(self) -> Judge:
        return Judge(self)


def make_inputs(shape: Shape, operation: Operation, device: torch.device, dtype: torch.dtype) -> Inputs:
    torch.manual_seed(0)
    layout = three_regions(shape.frames, shape.size).tokens(shape.size, shape.size, device)
    lengths = (shape.queries, shape.keys, shape.keys)
    query, key, value = (
        torch.randn(shape.batch, length, shape.heads, shape.head_dim, device=device, dtype=dtype).transpose(1, 2)
        for length in lengths
    )
    key_layout = layout if shape.text is None else text_layout(shape.text, device)
    row_strength = key_weight = None
    if operation.pulled:
        row_strength = (1.0 if shape.text else 0.3) * layout.size_regularization()  # VideoGrain's factors
        key_weight = torch.rand(shape.text, device=device) if shape.text else None
    modulation = operation.modulation(shape.frames, key_layout.num_frames)
    return Inputs(
        shape, operation, query, key, value, layout, key_layout, modulation, row_strength, key_weight
    )  # fmt: skip


def text_layout(tokens: int, device: torch.device) -> fa.TokenLayout:
    """A prompt with one word in the first region and two in the second."""
    region = torch.zeros(tokens, dtype=torch.int32, device=device)
    region[3], region[5:7] = 1, 2
    return fa.TokenLayout(region, torch.zeros_like(region), 1)


def active_pairs(query_layout: fa.TokenLayout, key_layout: fa.TokenLayout, modulation: fa.Modulation | None) -> int:
    """Pairs whose bias is above -inf, counted over distinct (bitset, frame), of layouts without a batch."""
    if modulation is None or modulation.bias_table is None:
        return query_layout.num_tokens * key_layout.num_tokens
    (bits_q, frame_q, count_q), (bits_k, frame_k, count_k) = (_kinds(x) for x in (query_layout, key_layout))
    same = ((bits_q[:, None] & bits_k[None, :]) != 0).long()
    seen = modulation.bias_table[same, frame_q[:, None], frame_k[None, :]] > -torch.inf
    return int((seen * count_q[:, None] * count_k[None, :]).sum())


def _kinds(layout: fa.TokenLayout) -> tuple[Tensor, Tensor, Tensor]:
    """Bitset, frame and count of each distinct kind of token, on the CPU."""
    tokens = torch.stack([layout.region[0], layout.frame[0]], 1).long().cpu()
    kinds, count = tokens.unique(dim=0, return_counts=True)
    return kinds[:, 0], kinds[:, 1], count


def reference_rows(inputs: Inputs, rows: Tensor, item: int, head: int, dtype: torch.dtype) -> Tensor:
    """[len(rows), D]: those query rows of one head by the reference in `dtype`, over all keys."""
    one = (slice(item, item + 1), slice(head, head + 1))
    query = inputs.query[one].index_select(2, rows)
    layout = inputs.query_layout
    sampled = fa.TokenLayout(layout.region[0, rows], layout.frame[0, rows], layout.num_frames)
    strength = None if inputs.row_strength is None else inputs.row_strength[rows]
    return fa.reference.layout_attention(
        query.to(dtype), inputs.key[one].to(dtype), inputs.value[one].to(dtype), sampled, inputs.key_layout,
        modulation=inputs.modulation, row_strength=strength, key_weight=inputs.key_weight,
    )[0, 0]  # fmt: skip


class Judge:
    """The 2x rule on sampled rows of the last head: err <= 2 * err(eager, same dtype) + 1e-5 in max and in mean."""

    def __init__(self, inputs: Inputs) -> None:
        batch, heads, queries, _ = inputs.query.shape
        generator = torch.Generator().manual_seed(0)
        rows = torch.randperm(queries, generator=generator)[:ROWS].sort()[0].to(inputs.device)
        self._place = (batch - 1, heads - 1, rows)
        self._truth = reference_rows(inputs, rows, batch - 1, heads - 1, torch.float64)
        eager = reference_rows(inputs, rows, batch - 1, heads - 1, inputs.query.dtype)
        self.eager_errors = error(eager, self._truth)

    def errors(self, out: Tensor) -> tuple[float, float]:
        """(max, mean) error of a result; inf where it is not finite."""
        if not bool(out.isfinite().all()):
            return float("inf"), float("inf")
        return error(out[self._place], self._truth)

    def passes(self, errors: tuple[float, float]) -> bool:
        return all(mine <= 2 * bound + 1e-5 for mine, bound in zip(errors, self.eager_errors, strict=True))

"""segment_attention: attention over joined sequences, such as a video's tokens and its text's, modulated pair by pair.

    out_i = merge over key segments s of (attention of query i to the keys of s, under the modulation of the pair)

The extremes of a row are those of each key segment: a strong text token does not move the logits of video tokens. The
modulated pairs keep the kernels of `layout_attention`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from fame_accel.bindings.library import LIBRARY
from fame_accel.core.backend import resolve_backend
from fame_accel.core.dispatch import PLANS_WHEN_RUN, layout_of, run_plan
from fame_accel.core.layout import TokenLayout
from fame_accel.core.merging import merge_attention
from fame_accel.core.modulation import Modulation
from fame_accel.core.planning import find_plan
from fame_accel.core.tracing import call_operator
from fame_accel.core.validation import check_scale, refuse_derivatives


@dataclass(frozen=True)
class Segment:
    """One of the joined sequences.

    Attributes:
        layout: of its tokens; without a batch.
        start: its first token among all, where its tokens stand side by side.
        index: int64 [n], which of all tokens it holds, where they need not; queries have none.
    """

    layout: TokenLayout
    start: int = 0
    index: Tensor | None = None


@dataclass(frozen=True)
class Pair:
    """How queries of one segment attend to keys of another.

    Attributes:
        modulation: the tables.
        row_strength: float32 [1, Nq of the segment] in [0, 1], or None for 1.
        key_weight: float32 [1, Nk of the segment] in [0, 1], or None for 1.
    """

    modulation: Modulation = field(default_factory=Modulation)
    row_strength: Tensor | None = None
    key_weight: Tensor | None = None


def segment_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    query_segments: Sequence[Segment],
    key_segments: Sequence[Segment],
    pairs: Sequence[Sequence[Pair]],
    scale: float | None,
    backend: str,
    plain_items: Tensor | None = None,
) -> Tensor:
    """Attention of joined queries to joined keys.

    Args:
        query: [B, H, Nq, D]; the query segments follow each other and cover it.
        key, value: [B, H, Nk, D]. Tokens that no key segment holds, such as padding, are left out.
        query_segments, key_segments: the parts of both sides.
        pairs: pairs[i][j] for queries of segment i and keys of segment j.
        scale, backend: as in `layout_attention`.
        plain_items: int64 tensor of one entry on the CPU; batch items before it get plain attention to the same keys.

    Returns:
        [B, H, Nq, D] in the query's dtype.
    """
    for name, side in (("query", query), ("key", key), ("value", value)):
        refuse_derivatives(name, side)
    flat = [pair for row in pairs for pair in row]
    return call_operator(
        segment_attention_op, query, key, value,
        *_layouts(query_segments), *_layouts(key_segments),
        [segment.start for segment in key_segments], [segment.index for segment in key_segments],
        [pair.modulation.strength_table for pair in flat], [pair.modulation.bias_table for pair in flat],
        [pair.row_strength for pair in flat], [pair.key_weight for pair in flat],
        check_scale(scale, query.shape[-1]), backend, plain_items,
    )  # fmt: skip


def _layouts(segments: Sequence[Segment]) -> tuple[list[Tensor], list[Tensor], list[int]]:
    layouts = [segment.layout for segment in segments]
    return [x.region for x in layouts], [x.frame for x in layouts], [x.num_frames for x in layouts]


def _segment_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    query_regions: list[Tensor],
    query_frames: list[Tensor],
    query_counts: list[int],
    key_regions: list[Tensor],
    key_frames: list[Tensor],
    key_counts: list[int],
    key_starts: list[int],
    key_indices: list[Tensor | None],
    strengths: list[Tensor | None],
    biases: list[Tensor | None],
    row_strengths: list[Tensor | None],
    key_weights: list[Tensor | None],
    scale: float,
    backend: str,
    plain_items: Tensor | None,
) -> Tensor:
    device = query.device.type
    if torch.is_autocast_enabled(device):  # the operator computes in the dtype of its inputs
        with torch.autocast(device, enabled=False):
            return _segment_attention(
                query, key, value, query_regions, query_frames, query_counts, key_regions, key_frames, key_counts,
                key_starts,
                key_indices, strengths, biases, row_strengths, key_weights, scale, backend, plain_items,
            )  # fmt: skip
    backend = resolve_backend(backend, query.device, query.dtype)
    keys, values = (_split(side, key_regions, key_starts, key_indices) for side in (key, value))
    all_keys, all_values = (_join(side, parts) for side, parts in ((key, keys), (value, values)))
    out = torch.empty_like(query)
    plain = 0 if plain_items is None else int(plain_items)
    if plain:
        out[:plain] = scaled_dot_product_attention(query[:plain], all_keys[:plain], all_values[:plain], scale=scale)
    if plain == len(query):
        return out
    width, start = len(keys), 0
    for i, region in enumerate(query_regions):
        rows = slice(start, start + region.shape[1])
        start = rows.stop
        part = query[plain:, :, rows]
        of_row = range(i * width, (i + 1) * width)
        if all(strengths[n] is None and biases[n] is None for n in of_row):
            out[plain:, :, rows] = scaled_dot_product_attention(part, all_keys[plain:], all_values[plain:], scale=scale)
            continue
        query_layout = layout_of(region, query_frames[i], query_counts[i])
        parts = []
        for j, n in enumerate(of_row):
            same = key_regions[j] is region and key_frames[j] is query_frames[i]
            key_layout = query_layout if same else layout_of(key_regions[j], key_frames[j], key_counts[j])
            plan = find_plan(
                query_layout, key_layout, Modulation(strengths[n], biases[n]), backend, len(part), query.shape[-1],
                query.dtype, key_weights[n] is not None,
            )  # fmt: skip
            parts.append(
                run_plan(
                    plan, part, keys[j][plain:], values[j][plain:], row_strengths[n], key_weights[n], scale, width > 1
                )
            )
        merged, _ = merge_attention(parts)
        if merged.shape == query.shape:
            return merged
        out[plain:, :, rows] = merged
    return out


def _split(side: Tensor, regions: list[Tensor], starts: list[int], indices: list[Tensor | None]) -> list[Tensor]:
    """The tokens of each segment, [B, H, n, D]."""
    return [
        side[:, :, start : start + region.shape[1]] if index is None else side.index_select(2, index)
        for region, start, index in zip(regions, starts, indices, strict=True)
    ]


def _join(side: Tensor, parts: list[Tensor]) -> Tensor:
    """All tokens that the segments hold; without a copy where that is all there are."""
    return side if sum(part.shape[2] for part in parts) == side.shape[2] else torch.cat(parts, 2)


LIBRARY.define(
    "segment_attention(Tensor query, Tensor key, Tensor value, "
    "Tensor[] query_regions, Tensor[] query_frames, SymInt[] query_counts, "
    "Tensor[] key_regions, Tensor[] key_frames, SymInt[] key_counts, SymInt[] key_starts, "
    "Tensor?[] key_indices, "
    "Tensor?[] strengths, Tensor?[] biases, Tensor?[] row_strengths, Tensor?[] key_weights, "
    "float scale, str backend, Tensor? plain_items) -> Tensor",
    tags=(torch.Tag.pt2_compliant_tag, *PLANS_WHEN_RUN),
)
LIBRARY.impl("segment_attention", _segment_attention, "CompositeExplicitAutograd")
torch.library.register_fake("fame_accel::segment_attention", lambda query, *_: torch.empty_like(query), lib=LIBRARY)
segment_attention_op = torch.ops.fame_accel.segment_attention.default

"""What the attention of a video transformer needs in a call: its segments, their modulations, the step's strengths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from fame_accel.adapter.config import FameConfig
from fame_accel.adapter.dispatched import Attend
from fame_accel.adapter.families import Arguments, TextTokens, VideoFamily, is_cross, is_self
from fame_accel.adapter.sizes import cross_size
from fame_accel.core.layout import TokenLayout
from fame_accel.core.modulation import Modulation
from fame_accel.core.segments import Pair, Segment, segment_attention

_PLAIN = Pair()


@dataclass(frozen=True)
class Rows:
    """Arguments of `segment_attention` for batch items that have the same tokens.

    Attributes:
        queries, keys, pairs: as `segment_attention` takes them.
        strengths: of each modulated pair: the size term, the factor, and the row strength that becomes their product.
        num_queries, num_keys: tokens that the attention call must have.
    """

    queries: tuple[Segment, ...]
    keys: tuple[Segment, ...]
    pairs: tuple[tuple[Pair, ...], ...]
    strengths: tuple[tuple[Tensor, float, Tensor], ...]
    num_queries: int
    num_keys: int

    def set_strength(self, schedule: float) -> None:
        """Give the row strengths their values of a step, in place: compiled code reads the same tensors."""
        for size, factor, strength in self.strengths:
            torch.mul(size, factor * schedule, out=strength)

    def shard(self, rank: int, ranks: int) -> Rows:
        """The rows of one process where the queries are divided among several; it shares the row strengths."""
        first, last = self.num_queries * rank // ranks, self.num_queries * (rank + 1) // ranks
        queries, pairs, before = [], [], 0
        for query, row in zip(self.queries, self.pairs, strict=True):
            layout = query.layout
            own = slice(max(first - before, 0), min(last - before, layout.num_tokens))
            before += layout.num_tokens
            if own.start < own.stop:
                queries.append(Segment(TokenLayout(layout.region[0, own], layout.frame[0, own], layout.num_frames)))
                strengths = [None if pair.row_strength is None else pair.row_strength[:, own] for pair in row]
                pairs.append(tuple(replace(pair, row_strength=one) for pair, one in zip(row, strengths, strict=True)))
        return replace(self, queries=tuple(queries), pairs=tuple(pairs), num_queries=last - first)


class Role:
    """Layers of one kind, and what replaces their attention call.

    Attributes:
        rows: for all batch items, or one for each.
        shards: the same for the queries of this process, where layers see no others; empty in one process.
        plain_items: int64 [1] on the CPU, one for each of `rows`: items before it get plain attention.
        plain: whether all items do: the call is then left to the model.
        order: int64 [N], which token comes where once they are sorted, and its inverse; None where they are.
    """

    def __init__(self, config: FameConfig, family: VideoFamily, is_cross: bool, causal: bool) -> None:
        self._family = family
        self._backend = config.backend
        self._is_cross = is_cross
        self._causal = causal  # plain attention then has a mask of its own
        self._turn = 0
        self.rows: tuple[Rows, ...] = ()
        self.shards: tuple[Rows, ...] = ()
        self.plain_items: tuple[Tensor, ...] = ()
        self.plain = True
        self.order: tuple[Tensor, Tensor] | None = None

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None, scale: float | None
    ) -> Tensor | None:
        """The attention of a layer's query, key and value [B, H, N, D]; None to leave it to the model."""
        if (self._causal or not torch.compiler.is_compiling()) and self.plain:  # compiled code serves both
            return None
        if self._is_cross and key.shape[2] != self.rows[0].num_keys:
            return None  # keys of an image, which Wan's layers attend to apart from the text
        if attn_mask is not None and not self._family.masked:
            raise ValueError("attn_mask must be None in layers modulated by FAME: masks are not supported there")
        if self._family.items_apart:
            turn, self._turn = self._turn, (self._turn + 1) % len(self.rows)
            return self._run(turn, query, key, value, scale)
        if self.order is not None:
            query, key, value = (side.index_select(2, self.order[0]) for side in (query, key, value))
        if len(self.rows) == 1:
            out = self._run(0, query, key, value, scale)
        else:
            item = [slice(i, i + 1) for i in range(len(self.rows))]
            out = torch.cat([self._run(i, query[of], key[of], value[of], scale) for i, of in enumerate(item)])
        return out if self.order is None else out.index_select(2, self.order[1])

    def _run(self, index: int, query: Tensor, key: Tensor, value: Tensor, scale: float | None) -> Tensor:
        rows = self.rows[index]
        if self.shards and query.shape[2] == self.shards[index].num_queries:
            rows = self.shards[index]
        are_known = not (self._family.items_apart and torch.compiler.is_compiling())  # traced lengths may not be
        if are_known and (query.shape[2], key.shape[2]) != (rows.num_queries, rows.num_keys):
            raise ValueError(
                f"a layer attends from {query.shape[2]} to {key.shape[2]} tokens where {self._family.name} has "
                f"{rows.num_queries} and {rows.num_keys}: methods that merge or drop tokens do not go with FAME"
            )
        return segment_attention(
            query, key, value, rows.queries, rows.keys, rows.pairs, scale, self._backend, self.plain_items[index]
        )


class VideoState:
    """The roles of one model, made ready before each of its calls.

    Attributes:
        self_role: of the layers in which the video attends to itself, and to text in the same sequence; or None.
        cross_role: of the layers in which it attends to text alone; or None.
    """

    def __init__(self, config: FameConfig, family: VideoFamily, model_config: Any) -> None:
        self._config = config
        self._family = family
        self._model_config = model_config
        self._frames = config.layout.num_frames
        self._self_modulation = _with_causal_blocks(config.self_modulation, self._frames, family, model_config)
        self._cross_modulation = config.cross_modulation or Modulation.videograin(self._frames, key_frames=1)
        self._shards: dict[tuple[int, int, int], Rows] = {}
        self._known: dict[tuple, list[tuple[TextTokens | None, Rows]]] = {}
        causal = bool(family.causal_blocks(model_config))
        joint = family.cross is None and config.token_regions is not None
        self.self_role = Role(config, family, False, causal) if config.self_modulation is not None or joint else None
        cross = family.cross is not None and config.token_regions is not None
        self.cross_role = Role(config, family, True, False) if cross else None

    def select(self, name: str) -> Attend | None:
        """What replaces the attention call of the layer of this name."""
        if self.self_role is not None and is_self(self._family, name):
            return self.self_role.attend
        if self.cross_role is not None and is_cross(self._family, name):
            return self.cross_role.attend
        return None

    @torch.inference_mode(False)  # what is kept for later calls must be usable outside inference mode too
    @torch.no_grad()
    def prepare(self, arguments: Arguments, schedule: float, plain_items: int, rank: int = 0, ranks: int = 1) -> None:
        """Make the roles ready for a call.

        Args:
            arguments: of the model's forward, by name.
            schedule: the noise level to the configured power.
            plain_items: batch items before it get plain attention.
            rank, ranks: of the processes among which diffusers divides the tokens.
        """
        batch = len(arguments["hidden_states"])
        for role in (self.self_role, self.cross_role):
            if role is not None:
                role.plain = plain_items >= batch
                self._fill(role, arguments)
                if ranks > 1 and role is self.cross_role:
                    role.shards = tuple(self._shard(rows, rank, ranks) for rows in role.rows)
                self._set_plain_items(role, batch, plain_items)
                for rows in role.rows:
                    rows.set_strength(schedule)

    def _shard(self, rows: Rows, rank: int, ranks: int) -> Rows:
        key = (id(rows), rank, ranks)
        if key not in self._shards:
            self._shards[key] = rows.shard(rank, ranks)
        return self._shards[key]

    def _set_plain_items(self, role: Role, batch: int, plain_items: int) -> None:
        counts = [plain_items] if len(role.rows) == 1 and not self._family.items_apart else []
        counts = counts or [int(item < plain_items) for item in range(len(role.rows))]
        if len(role.plain_items) != len(counts):
            role.plain_items = tuple(torch.zeros(1, dtype=torch.int64, device="cpu") for _ in counts)
        for tensor, count in zip(role.plain_items, counts, strict=True):
            tensor.fill_(count)

    def _fill(self, role: Role, arguments: Arguments) -> None:
        """Give a role the rows of this call."""
        family, hidden = self._family, arguments["hidden_states"]
        grid = family.grid(self._model_config, arguments)
        references = self._check_frames(grid[0])
        layout = self._config.layout.tokens(grid[1], grid[2], hidden.device)
        texts: list[TextTokens | None] = [None]
        if family.text is not None and (role is self.cross_role or family.cross is None):
            texts = list(family.text(grid, arguments))
            self._check_text(arguments)
        start = references * grid[1] * grid[2] or family.video_start(arguments)
        rows = [self._rows(role, layout, start, text) for text in texts]
        same = all(one is rows[0] for one in rows) and not family.items_apart
        role.rows = (rows[0],) if same else tuple(rows)
        order = family.order(arguments)
        role.order = None if order is None else (order, order.argsort())

    def _check_frames(self, frames: int) -> int:
        """How many frames of reference images stand before the video's."""
        references = frames - self._frames
        if references and not (self._family.references and references > 0):
            raise ValueError(
                f"layout has {self._frames} frames, but the latents of the model have {frames}: the layout of a video "
                "transformer has latent frames, which SpaceTimeLayout.from_masks(masks, temporal=4) makes of a video's"
            )
        return references

    def _check_text(self, arguments: Arguments) -> None:
        regions = self._config.token_regions
        tokens = arguments["encoder_hidden_states"].shape[1]
        if regions is not None and tokens != len(regions):
            raise ValueError(f"token_regions has {len(regions)} tokens, but the text embeddings have {tokens}")

    def _rows(self, role: Role, layout: TokenLayout, start: int, text: TextTokens | None) -> Rows:
        """The rows of items with these text tokens; the same object for the same tokens."""
        known = self._known.setdefault((role is self.cross_role, id(layout), start), [])
        for other, rows in known:
            if _same_text(text, other):
                return rows
        if role is self.cross_role:
            assert text is not None
            rows = self._cross_rows(layout, start, text)
        else:
            rows = self._joined_rows(layout, start, text)
        known.append((text, rows))
        return rows

    def _joined_rows(self, layout: TokenLayout, start: int, text: TextTokens | None) -> Rows:
        """Video, and the text in the same sequence where there is any, attend to both."""
        device = layout.device
        total = layout.num_tokens + (start if text is None else text.total)
        strengths: list[tuple[Tensor, float, Tensor]] = []
        video_pair = _PLAIN
        if self._self_modulation is not None:
            size = layout.size_regularization()[None]
            video_pair = _pair(self._self_modulation, size, self._config.self_factor, None, strengths)
        keys, pairs = [Segment(layout, start)], [video_pair]
        if text is not None and len(text.keys):
            segment, pair = self._text(layout, text, strengths)
            keys.append(segment)
            pairs.append(pair)
        others = torch.arange(start, device=device) if text is None else text.others
        if len(others):
            keys.append(_segment(_unbound(len(others), device), others))
            pairs.append(_PLAIN)
        queries, rows = _around(layout, start, total), []
        for query in queries:
            rows.append(tuple(pairs) if query.layout is layout else (_PLAIN,) * len(keys))
        return Rows(queries, tuple(keys), tuple(rows), tuple(strengths), total, total)

    def _cross_rows(self, layout: TokenLayout, start: int, text: TextTokens) -> Rows:
        """Video attends to text alone."""
        strengths: list[tuple[Tensor, float, Tensor]] = []
        segment, pair = self._text(layout, text, strengths)
        total = start + layout.num_tokens
        queries = _around(layout, start, total)
        rows = tuple((pair,) if query.layout is layout else (_PLAIN,) for query in queries)
        return Rows(queries, (segment,), rows, tuple(strengths), total, text.total)

    def _text(self, layout: TokenLayout, text: TextTokens, strengths: list) -> tuple[Segment, Pair]:
        """The keys of the prompt, and how the video attends to them."""
        regions, weights = self._config.token_regions, self._config.token_weights
        if regions is None:
            return _segment(_unbound(len(text.keys), layout.device), text.keys), _PLAIN
        regions = regions.to(layout.device)[text.valid]
        text_layout = TokenLayout(regions, torch.zeros_like(regions), 1)
        size = cross_size(self._config, layout, text_layout)
        key_weight = None if weights is None else weights.to(layout.device, torch.float32)[text.valid][None]
        pair = _pair(self._cross_modulation, size, self._config.cross_factor, key_weight, strengths)
        return _segment(text_layout, text.keys), pair


def _with_causal_blocks(
    modulation: Modulation | None, frames: int, family: VideoFamily, model_config: Any
) -> Modulation | None:
    """The modulation within the frames that block-causal models let each other see."""
    size = family.causal_blocks(model_config)
    if modulation is None or not size:
        return modulation
    block = torch.arange(frames, device="cpu") // size
    seen = block[None, :] <= block[:, None]
    return Modulation.frames(frames, seen) if modulation.frames_shape is None else modulation.keep_frames(seen)


def _pair(modulation: Modulation, size: Tensor, factor: float, key_weight: Tensor | None, strengths: list) -> Pair:
    if modulation.strength_table is None:
        return Pair(modulation)
    row_strength = torch.zeros_like(size)
    strengths.append((size, factor, row_strength))
    return Pair(modulation, row_strength, key_weight)


def _around(layout: TokenLayout, start: int, total: int) -> tuple[Segment, ...]:
    """The queries: the video's, and those before and after it."""
    after = total - start - layout.num_tokens
    before = [Segment(_unbound(start, layout.device))] if start else []
    return (*before, Segment(layout), *([Segment(_unbound(after, layout.device))] if after else []))


def _segment(layout: TokenLayout, index: Tensor) -> Segment:
    """Keys at these positions; without an index where they stand side by side."""
    if len(index) and int(index[-1]) - int(index[0]) == len(index) - 1:
        return Segment(layout, int(index[0]))
    return Segment(layout, 0, index)


def _unbound(tokens: int, device: torch.device) -> TokenLayout:
    """The layout of tokens in no region."""
    zeros = torch.zeros(tokens, dtype=torch.int32, device=device)
    return TokenLayout(zeros, zeros, 1)


def _same_text(text: TextTokens | None, other: TextTokens | None) -> bool:
    if text is None or other is None:
        return text is other
    parts: Sequence[tuple[Tensor, Tensor]] = [
        (text.valid, other.valid), (text.keys, other.keys), (text.others, other.others)
    ]  # fmt: skip
    return text.total == other.total and all(torch.equal(*pair) for pair in parts)

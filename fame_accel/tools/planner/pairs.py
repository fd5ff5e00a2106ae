"""Counts of the pairs in one self-attention over all frames: of tokens, of tiles, of entries in a plan's lists."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fame_accel.core.modulation import Modulation
from fame_accel.core.planning import UNTILED_KEYS
from fame_accel.core.tables import merge_frames
from fame_accel.tools.planner.regions import Areas


@dataclass(frozen=True)
class ModulationKind:
    """What a modulation asks of the kernels. The defaults are those of plain attention.

    modulated: the strength A is not zero everywhere.
    one_pass: A depends on `same` alone.
    biased: the bias B is not zero everywhere.
    by_region: regions matter.
    by_frame: key frames differ, so that no run of tokens spans two of them.
    attended: whether pairs of (different, the same) region are attended to. In the presets no pair is excluded for its
        frames.
    """

    modulated: bool = False
    one_pass: bool = True
    biased: bool = False
    by_region: bool = False
    by_frame: bool = False
    attended: tuple[bool, bool] = (True, True)

    @classmethod
    def of(cls, modulation: Modulation, frames: int) -> ModulationKind:
        """The kind of a preset for that many frames."""
        tables = merge_frames(modulation, frames, frames)
        excluded = (False, False) if tables.bias is None else (tables.bias == -math.inf).flatten(1).all(1).tolist()
        return cls(
            modulated=tables.strength is not None,
            one_pass=tables.strength_pair is not None,
            biased=tables.bias is not None,
            by_region=tables.by_region,
            by_frame=tables.key_classes > 1,
            attended=(not excluded[0], not excluded[1]),
        )


@dataclass(frozen=True)
class TileCounts:
    """Counts of a plan.

    query_tiles: tiles of queries.
    full, short: pairs of tiles that the loops visit, in (different, the same) region.
    listed: entries of the plan's lists of pairs.
    examined: pairs of a query run and a key tile that making the plan looks at.
    """

    query_tiles: int
    full: tuple[int, int]
    short: tuple[int, int]
    listed: int
    examined: int


@dataclass(frozen=True)
class RunCounts:
    """Runs of tokens of one region set and class of frames.

    bitsets: int64 [S], the region sets.
    tokens: int64 [classes, S], the tokens of each run, 0 where there is none.
    """

    bitsets: Tensor
    tokens: Tensor
    kind: ModulationKind

    @classmethod
    def of(cls, areas: Areas, kind: ModulationKind) -> RunCounts:
        """The runs that a modulation of that kind makes of the tokens."""
        bitsets, tokens = areas.bitsets, areas.tokens
        if not kind.by_region:
            bitsets, tokens = torch.zeros(1, dtype=torch.int64), tokens.sum(1, keepdim=True)
        return cls(bitsets, tokens if kind.by_frame else tokens.sum(0, keepdim=True), kind)

    @property
    def planned(self) -> bool:
        """Whether the kernels use a plan: few keys that no frame tells apart have kernels without one."""
        return int(self.tokens.sum()) > UNTILED_KEYS or self.kind.by_frame

    @property
    def number(self) -> int:
        """How many runs there are."""
        return int((self.tokens > 0).sum())

    @property
    def same(self) -> Tensor:
        """bool [S, S]: whether two region sets share a region."""
        return (self.bitsets[:, None] & self.bitsets[None, :]) != 0

    @property
    def attended(self) -> Tensor:
        """bool [S, S]: whether pairs of two region sets are attended to."""
        return torch.tensor(self.kind.attended)[self.same.long()]

    def active_pairs(self) -> int:
        """Pairs of tokens that are attended to, of one head."""
        count = self.tokens.sum(0)
        return int((self.attended * count[:, None] * count[None, :]).sum())

    def cut(self, block_q: int, block_k: int) -> TileCounts:
        """Counts of the plan with tiles of at most block_q queries and block_k keys."""
        query_tiles, query_runs = (-(-self.tokens // block_q)).sum(0), (self.tokens > 0).sum(0)
        full = (self.tokens // block_k).sum(0)
        short = (self.tokens % block_k > 0).sum(0)

        def pairs(key_tiles: Tensor) -> tuple[int, int]:
            number = self.attended * query_tiles[:, None] * key_tiles[None, :]
            return int((number * ~self.same).sum()), int((number * self.same).sum())

        return TileCounts(
            query_tiles=int(query_tiles.sum()),
            full=pairs(full),
            short=pairs(short),
            listed=int((self.attended * query_runs[:, None] * (full + short)[None, :]).sum()),
            examined=int(query_runs.sum() * (full + short).sum()),
        )

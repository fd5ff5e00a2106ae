"""The pairs of one attention over all frames, counted without listing them: of tokens, of tiles, of a plan's lists."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from fame_accel.core.attention import UNPLANNED_KEYS
from fame_accel.core.modulation import Modulation
from fame_accel.core.planning import merge_frames
from fame_accel.tools.planner.regions import Areas

# The presets as `edit` has them, and FAME's with the decay on the strength.
MODULATIONS: dict[str, Callable[[int], Modulation]] = {
    "fame": Modulation.fame,
    "fame-strength": partial(Modulation.fame, decay_on="strength"),
    "videograin": Modulation.videograin,
    "region-mask": Modulation.region_mask,
}


@dataclass(frozen=True)
class Operation:
    """What a modulation asks of the kernels, for a number of frames. Defaults: plain attention.

    modulated: A is not all zero; one_pass: it depends on `same` alone; biased: B is not all zero; by_region: regions
    matter; per_frame: frames differ, so that a run of tokens never spans two; seen: whether pairs of (different, the
    same) region are not excluded. Whether these presets exclude a pair depends on `same` alone.
    """

    modulated: bool = False
    one_pass: bool = True
    biased: bool = False
    by_region: bool = False
    per_frame: bool = False
    seen: tuple[bool, bool] = (True, True)

    @classmethod
    def named(cls, modulation: str, frames: int) -> Operation:
        few = min(frames, 3)  # every frame of a preset is like these, or unlike every other
        tables = merge_frames(MODULATIONS[modulation](few), few, few)
        excluded = (False, False) if tables.bias is None else (tables.bias == -math.inf).flatten(1).all(1).tolist()
        return cls(
            modulated=tables.strength is not None,
            one_pass=tables.strength_pair is not None,
            biased=tables.bias is not None,
            by_region=tables.by_region,
            per_frame=tables.key_classes > 1,
            seen=(not excluded[0], not excluded[1]),
        )


@dataclass(frozen=True)
class Runs:
    """Runs of tokens of one region set and class of frames: tokens int64 [classes, S] of each, 0 for no run."""

    bitsets: Tensor
    tokens: Tensor
    operation: Operation

    @classmethod
    def of(cls, areas: Areas, operation: Operation) -> Runs:
        bitsets, tokens = areas.bitsets, areas.tokens
        if not operation.by_region:
            bitsets, tokens = torch.zeros(1, dtype=torch.int64), tokens.sum(1, keepdim=True)
        return cls(bitsets, tokens if operation.per_frame else tokens.sum(0, keepdim=True), operation)

    @property
    def total(self) -> int:
        return int(self.tokens.sum())

    @property
    def planned(self) -> bool:
        """Whether the kernels go by a plan: few keys that no frame tells apart have kernels without one."""
        return self.total > UNPLANNED_KEYS or self.operation.per_frame

    @property
    def number(self) -> int:
        return int((self.tokens > 0).sum())

    @property
    def longest(self) -> int:
        return int(self.tokens.max())

    @property
    def same(self) -> Tensor:
        """bool [S, S]"""
        return (self.bitsets[:, None] & self.bitsets[None, :]) != 0

    @property
    def seen(self) -> Tensor:
        """bool [S, S]: pairs that are not excluded"""
        return torch.tensor(self.operation.seen)[self.same.long()]

    def active_pairs(self) -> int:
        """Pairs of tokens that are not excluded, of one head."""
        count = self.tokens.sum(0)
        return int((self.seen * count[:, None] * count[None, :]).sum())

    def cut(self, block_q: int, block_k: int) -> TilePairs:
        """Counts of the plan with tiles of at most block_q queries and block_k keys."""
        query_tiles, query_runs = (-(-self.tokens // block_q)).sum(0), (self.tokens > 0).sum(0)
        full = (self.tokens // block_k).sum(0)
        short = (self.tokens % block_k > 0).sum(0)

        def turns(keys: Tensor, same: bool) -> int:
            return int(((self.seen & (self.same == same)) * query_tiles[:, None] * keys[None, :]).sum())

        return TilePairs(
            query_tiles=int(query_tiles.sum()),
            full=(turns(full, False), turns(full, True)),
            short=(turns(short, False), turns(short, True)),
            listed=int((self.seen * query_runs[:, None] * (full + short)[None, :]).sum()),
            planned=int(query_runs.sum() * (full + short).sum()),
        )


@dataclass(frozen=True)
class TilePairs:
    """full, short: pairs of tiles that the loops visit, in (different, the same) region; listed: entries of the plan's
    lists of pairs; planned: pairs of a query run and a key tile that making the plan looks at."""

    query_tiles: int
    full: tuple[int, int]
    short: tuple[int, int]
    listed: int
    planned: int

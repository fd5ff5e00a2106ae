"""Modulation: the strength table A and the bias table B of one attention, and their presets.

Both tables are [2, query frames, key frames]. Index 0 holds pairs of tokens in different regions, index 1 pairs in the
same region. A in [0, 1] moves a logit toward its row's extreme. B in [-inf, inf) is added; -inf excludes the pair.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from fame_accel.core.checks import check_choice, check_count, check_dense, is_number, shown
from fame_accel.core.tracing import has_values

Decay = float | Tensor
Keep = (
    int
    | Sequence[int]
    | Sequence[Sequence[int]]
    | Tensor
    | Literal["self", "first", "first_previous", "self_previous_first"]
)


def time_weights(
    num_frames: int, rate: float, kind: Literal["exponential", "gaussian", "linear"] = "exponential"
) -> Tensor:
    """Weights w(dt) of frame pairs that lie dt = |query frame - key frame| apart.

    Args:
        num_frames: number of frames, at least 1.
        rate: decay per frame, finite and at least 0.
        kind: "exponential" is exp(-rate * dt), "gaussian" exp(-(rate * dt)**2 / 2), "linear" max(0, 1 - rate * dt).

    Returns:
        float64 [num_frames, num_frames] on the CPU, in [0, 1], 1 on the diagonal.

    Raises:
        ValueError: an argument is out of range.
    """
    check_count("num_frames", num_frames)
    if not (is_number(rate) and rate >= 0):
        raise ValueError(f"rate must be a finite number >= 0, got {shown(rate)}")
    check_choice("kind", kind, ("exponential", "gaussian", "linear"))
    frame = torch.arange(num_frames, dtype=torch.float64, device="cpu")
    step = rate * (frame[:, None] - frame[None, :]).abs()
    if kind == "exponential":
        return torch.exp(-step)
    if kind == "gaussian":
        return torch.exp(-0.5 * step**2)
    return (1 - step).clamp(min=0)


_MOST_BIAS = 1e6


class Modulation:
    """Tables of one modulation, kept as float32 on the CPU; immutable, equal and hashable by content.

    Args:
        strength_table: A, a floating tensor [2, Fq, Fk] in [0, 1]; None means 0.
        bias_table: B, a floating tensor [2, Fq, Fk]; None means 0. -inf excludes a pair. Finite values lie within
            +-1e6, as float32 would round the logits away past it. A positive bias is allowed.

    Raises:
        TypeError: a table is not a floating tensor.
        ValueError: wrong shapes, values out of range, or NaN.
    """

    def __init__(self, strength_table: Tensor | None = None, bias_table: Tensor | None = None) -> None:
        self.strength_table = _table("strength_table", strength_table)
        self.bias_table = _table("bias_table", bias_table)
        strength, bias = self.strength_table, self.bias_table
        if strength is not None and has_values(strength):
            _check_strength(strength)
        if bias is not None and has_values(bias):
            _check_bias(bias)
        if strength is not None and bias is not None and strength.shape != bias.shape:
            raise ValueError(
                "strength_table and bias_table must have one shape, "
                f"got {tuple(strength.shape)} and {tuple(bias.shape)}"
            )

    @property
    def frames_shape(self) -> tuple[int, int] | None:
        """(query frames, key frames), or None where both tables are absent and any count fits."""
        table = self.strength_table if self.strength_table is not None else self.bias_table
        return None if table is None else (table.shape[1], table.shape[2])

    @cached_property
    def _content(self) -> tuple:
        tables = (self.strength_table, self.bias_table)
        return tuple(None if t is None else (tuple(t.shape), tuple(t.flatten().tolist())) for t in tables)

    @cached_property
    def _hash(self) -> int:
        return hash(self._content)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Modulation) and (self is other or self._content == other._content)

    def __hash__(self) -> int:
        return self._hash

    def __repr__(self) -> str:
        tables = {"strength": self.strength_table, "bias": self.bias_table}
        spans = ", ".join(f"{name} {_span(t)}" for name, t in tables.items() if t is not None)
        return f"Modulation(frames={self.frames_shape}, {spans or 'plain'})"

    @classmethod
    def region_mask(cls, num_frames: int, decay: Decay = 0.0, leakage: float = 0.0) -> Modulation:
        """A hard region mask with time decay: B is log w(dt) in the same region, log(leakage * w(dt)) elsewhere.

        Args:
            num_frames: number of frames.
            decay: rate of exp(-rate * dt) per frame, or a table [F, F] of weights in [0, 1].
            leakage: weight in [0, 1] left to pairs in different regions; 0 excludes them.
        """
        if not (is_number(leakage) and 0 <= leakage <= 1):
            raise ValueError(f"leakage must be a number in [0, 1], got {shown(leakage)}")
        weights = _weights(num_frames, decay)
        return cls(bias_table=torch.stack([leakage * weights, weights]).log().float())

    @classmethod
    def videograin(cls, num_frames: int, key_frames: int | None = None) -> Modulation:
        """VideoGrain's ST-Layout modulation: A = 1, B = 0 (ICLR 2025, arXiv 2502.17258).

        Args:
            num_frames: number of query frames.
            key_frames: number of key frames where it differs; 1 for text tokens.
        """
        check_count("num_frames", num_frames)
        keys = num_frames if key_frames is None else check_count("key_frames", key_frames)
        return cls(strength_table=torch.ones(2, num_frames, keys, dtype=torch.float32, device="cpu"))

    @classmethod
    def fame(
        cls, num_frames: int, decay: Decay = 0.1, decay_on: Literal["weights", "strength"] = "weights"
    ) -> Modulation:
        """FAME's temporal modulation (arXiv 2510.22960; the abstract leaves the formula open, this one is ours).

        Args:
            num_frames: number of frames.
            decay: as in `region_mask`.
            decay_on: "weights" is A = 1 and B = log w(dt): time decay weighs the softmax. "strength" is A = w(dt) and
                B = 0: distant frames are modulated less.
        """
        check_choice("decay_on", decay_on, ("weights", "strength"))
        weights = _weights(num_frames, decay)
        both = torch.stack([weights, weights])
        if decay_on == "weights":
            return cls(torch.ones_like(both).float(), both.log().float())
        return cls(strength_table=both.float())

    @classmethod
    def frames(cls, num_frames: int, keep: Keep) -> Modulation:
        """Plain attention restricted to the key frames that `keep` names; see `keep_frames`."""
        check_count("num_frames", num_frames)
        return cls(bias_table=_zeros(num_frames, num_frames)).keep_frames(keep)

    def keep_frames(self, keep: Keep) -> Modulation:
        """This modulation with every key frame excluded that `keep` does not name.

        A key frame that is named n times counts n times, as where a method concatenates its keys: B gains log n.

        Args:
            keep: an int r keeps the window |dt| <= r. A sequence of frame indices keeps these for every query frame; a
                sequence of such sequences, or an integer tensor [Fq, m], has one for each query frame. A bool table
                [Fq, Fk] says it pair by pair. The usual patterns have names: "self", "first" (Text2Video-Zero),
                "first_previous" (Tune-A-Video) and "self_previous_first" (FateZero with [0, -1, "first"]).

        Raises:
            TypeError, ValueError: `keep` is none of these, or this modulation has no tables.
        """
        if self.frames_shape is None:
            raise ValueError("keep_frames needs a modulation with tables; use Modulation.frames(num_frames, keep)")
        counts = _counts(keep, *self.frames_shape)
        bias = _zeros(*self.frames_shape) if self.bias_table is None else self.bias_table
        return Modulation(self.strength_table, bias + counts.log())

    @classmethod
    def exclude(cls, query_frames: int, key_frames: int) -> Modulation:
        """No attention: B = -inf everywhere. A block of `Modulation.block`, for keys such as padding."""
        check_count("query_frames", query_frames)
        return cls(bias_table=_zeros(query_frames, check_count("key_frames", key_frames)) - math.inf)

    @classmethod
    def block(
        cls, blocks: Sequence[Sequence[Modulation | None]], query_frames: Sequence[int], key_frames: Sequence[int]
    ) -> Modulation:
        """The modulation of joined sequences, block by block; see `TokenLayout.cat`.

        The extremes of a row are then those of all its keys. Attention over each sequence alone, merged by
        `merge_attention`, has extremes for each.

        Args:
            blocks: blocks[i][j] modulates queries of sequence i and keys of sequence j; None is plain attention.
            query_frames, key_frames: number of frames of each sequence.

        Raises:
            TypeError, ValueError: the blocks do not fit the sequences; the message names the block.
        """
        if not isinstance(blocks, Sequence) or not all(isinstance(row, Sequence) for row in blocks):
            raise TypeError(f"blocks must be rows of modulations, got {type(blocks).__name__}")
        for name, counts in (("query_frames", query_frames), ("key_frames", key_frames)):
            if not isinstance(counts, Sequence) or isinstance(counts, str):
                raise TypeError(f"{name} must be a sequence of ints, got {shown(counts)}")
            for index, count in enumerate(counts):
                check_count(f"{name}[{index}]", count)
        if len(blocks) != len(query_frames) or any(len(row) != len(key_frames) for row in blocks):
            raise ValueError(f"blocks must be {len(query_frames)} rows of {len(key_frames)}, one for each sequence")
        strengths, biases = [], []
        for i, (row, fq) in enumerate(zip(blocks, query_frames, strict=True)):
            tables = [_block_tables(f"blocks[{i}][{j}]", row[j], fq, fk) for j, fk in enumerate(key_frames)]
            strengths.append(torch.cat([strength for strength, _ in tables], 2))
            biases.append(torch.cat([bias for _, bias in tables], 2))
        strength, bias = torch.cat(strengths, 1), torch.cat(biases, 1)
        return cls(strength if bool(strength.any()) else None, bias)


def _block_tables(name: str, block: Modulation | None, query_frames: int, key_frames: int) -> tuple[Tensor, Tensor]:
    block = Modulation() if block is None else block
    if not isinstance(block, Modulation):
        raise TypeError(f"{name} must be a Modulation or None, got {type(block).__name__}")
    if block.frames_shape not in (None, (query_frames, key_frames)):
        raise ValueError(
            f"{name} must have tables for (query, key) frames {(query_frames, key_frames)}, got {block.frames_shape}"
        )
    zeros = _zeros(query_frames, key_frames)
    strength, bias = block.strength_table, block.bias_table
    return zeros if strength is None else strength, zeros if bias is None else bias


def _check_strength(table: Tensor) -> None:
    if not bool(((table >= 0) & (table <= 1)).all()):
        raise ValueError(f"strength_table must lie in [0, 1], got values in {_span(table)}")


def _check_bias(table: Tensor) -> None:
    if not bool((table < math.inf).all()):
        raise ValueError(f"bias_table must lie in [-inf, inf) without NaN, got values in {_span(table)}")
    if bool(((table.abs() > _MOST_BIAS) & (table > -math.inf)).any()):
        raise ValueError(
            f"bias_table must be -inf, which excludes a pair, or within +-{_MOST_BIAS:g}, got {_span(table)}"
        )


def _table(name: str, table: Tensor | None) -> Tensor | None:
    if table is None:
        return None
    if not isinstance(table, Tensor) or not table.is_floating_point():
        raise TypeError(f"{name} must be a floating tensor [2, Fq, Fk] or None, got {_kind(table)}")
    check_dense(name, table)
    if table.dim() != 3 or table.shape[0] != 2 or 0 in table.shape:
        raise ValueError(f"{name} must have shape [2, Fq, Fk] with Fq, Fk >= 1, got {tuple(table.shape)}")
    return table.detach().to(device="cpu", dtype=torch.float32, copy=True)


def _weights(num_frames: int, decay: Decay) -> Tensor:
    if not isinstance(decay, Tensor):
        try:
            return time_weights(num_frames, decay)
        except ValueError as error:
            raise ValueError(str(error).replace("rate must", "decay must", 1)) from None
    check_count("num_frames", num_frames)
    if decay.is_complex():
        raise TypeError(f"decay must be a number or a table of real weights, got {decay.dtype}")
    check_dense("decay", decay)
    if decay.is_meta:
        raise ValueError("decay must have values, got a tensor on the meta device")
    if decay.shape != (num_frames, num_frames):
        raise ValueError(f"decay must have shape [{num_frames}, {num_frames}], got {tuple(decay.shape)}")
    weights = decay.detach().to(device="cpu", dtype=torch.float64)
    if not bool(((weights >= 0) & (weights <= 1)).all()):
        raise ValueError(f"decay weights must lie in [0, 1], got values in {_span(weights)}")
    return weights


def _zeros(query_frames: int, key_frames: int) -> Tensor:
    return torch.zeros(2, query_frames, key_frames, dtype=torch.float32, device="cpu")


def _counts(keep: Keep, query_frames: int, key_frames: int) -> Tensor:
    """float32 [Fq, Fk]: how often each key frame is kept for each query frame."""
    query = torch.arange(query_frames, device="cpu")[:, None]
    key = torch.arange(key_frames, device="cpu")[None, :]
    previous = key == (query - 1).clamp(min=0)
    if isinstance(keep, str):
        patterns = {
            "self": (query == key).float(),
            "first": (key == 0).float().expand(query_frames, key_frames),
            "first_previous": ((key == 0) | previous).float(),
            "self_previous_first": (query == key).float() + previous.float() + (key == 0).float(),
        }
        if keep not in patterns:
            raise ValueError(f"keep must be one of {sorted(patterns)}, got {keep!r}")
        return patterns[keep]
    if isinstance(keep, Tensor) and keep.dtype == torch.bool:
        if keep.shape != (query_frames, key_frames):
            raise ValueError(f"keep must have shape [{query_frames}, {key_frames}], got {tuple(keep.shape)}")
        return keep.cpu().float()
    if isinstance(keep, int) and not isinstance(keep, bool):
        if keep < 0:
            raise ValueError(f"keep as a window must be >= 0 frames, got {shown(keep)}")
        return ((query - key).abs() <= min(keep, max(query_frames, key_frames))).float()
    rows = keep.tolist() if isinstance(keep, Tensor) else keep
    if isinstance(rows, Sequence) and rows and all(isinstance(row, Sequence) for row in rows):
        if len(rows) != query_frames:
            raise ValueError(f"keep must have frame indices for each of {query_frames} query frames, got {len(rows)}")
        return torch.stack([_count_frames(row, key_frames) for row in rows])
    return _count_frames(rows, key_frames).expand(query_frames, key_frames)


def _count_frames(frames: object, key_frames: int) -> Tensor:
    """float32 [Fk]: how often each frame is among the indices."""
    if not isinstance(frames, Sequence) or not frames or not all(type(frame) is int for frame in frames):
        raise TypeError(
            f"keep must be an int, frame indices, frame indices of each query frame, a bool table or a name, "
            f"got {frames!r:.200}"
        )
    if not all(0 <= frame < key_frames for frame in frames):
        raise ValueError(f"keep must hold frame indices in [0, {key_frames}), got {list(frames)!r:.200}")
    return torch.bincount(torch.tensor(frames, device="cpu"), minlength=key_frames).float()


def _span(table: Tensor) -> str:
    if bool(table.isnan().any()):
        return "NaN among them"
    return f"[{table.min().item():g}, {table.max().item():g}]"


def _kind(value: object) -> str:
    return f"a {value.dtype} tensor" if isinstance(value, Tensor) else type(value).__name__

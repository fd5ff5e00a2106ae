"""Inputs of the parity tests, the backends and devices they run on, and the rule that judges the results."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec

import pytest
import torch
from _pytest.mark.structures import ParameterSet
from pairwise import all_pairs
from torch import Tensor

from fame_accel import Modulation, TokenLayout, layout_attention, reference
from fame_accel.core.parity import SLACK, Verdict, error

FRAMES = 2
SHORT_NAMES = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16", torch.float64: "fp64"}


@dataclass(frozen=True)
class Target:
    """Where a parity test runs, with lengths that reach every path there and stay affordable."""

    backend: str
    dtype: torch.dtype
    device: str = "cpu"

    @property
    def tokens(self) -> int:
        """Enough for full tiles and short ones."""
        if self.device == "cuda":
            return 1200
        return 110 if self.backend == "triton" else 600

    @property
    def many_keys(self) -> int:
        """More than the few-keys paths take; few in the interpreter, where a time table reaches the tiles."""
        return 40 if self.backend == "triton" and self.device == "cpu" else 530

    def param(self, *values: object) -> ParameterSet:
        """A parameter of pytest: the target, and values of other arguments."""
        marks = [pytest.mark.gpu] if self.device == "cuda" else []
        if self in TRITON[1:]:  # the kernels in another precision: half of the time that the interpreter takes
            marks.append(pytest.mark.slow)
        if self.backend == "triton" and self.device == "cpu":
            ready = find_spec("triton") is not None and os.environ.get("TRITON_INTERPRET") == "1"
            marks.append(pytest.mark.skipif(not ready, reason="needs Triton and TRITON_INTERPRET=1"))
        name = "-".join([self.backend, SHORT_NAMES[self.dtype], self.device, *(_id(value) for value in values)])
        return pytest.param(self, *values, marks=marks, id=name)


def _id(value: object) -> str:
    return str(value) if isinstance(value, bool | int | float | str | None) else getattr(value, "__name__", repr(value))


# Triton's interpreter gets bfloat16 matrix products wrong, so there it is tested on a GPU alone.
SDPA = [Target("sdpa", dtype) for dtype in (torch.float32, torch.float16, torch.bfloat16)]
TRITON = [Target("triton", dtype) for dtype in (torch.float32, torch.float16)]
GPU = [
    Target(backend, dtype, "cuda")
    for backend in ("triton", "sdpa")
    for dtype in (torch.float32, torch.float16, torch.bfloat16)
]
TARGETS = (*SDPA, *TRITON, *GPU)
FLOAT32 = tuple(target for target in TARGETS if target.dtype == torch.float32)
on_targets = pytest.mark.parametrize("target", [target.param() for target in TARGETS])
# For properties that do not depend on the precision.
on_backends = pytest.mark.parametrize("target", [target.param() for target in FLOAT32])


def on_pairs(
    names: str, targets: Sequence[Target], *axes: Sequence[object], indirect: Sequence[str] = ()
) -> pytest.MarkDecorator:
    """Parametrizes `target` and the arguments `names`: on every backend and device, all pairs of the values of any two
    axes, the target (its dtype) being one."""
    groups = {(target.backend, target.device): [] for target in targets}
    for target in targets:
        groups[target.backend, target.device].append(target)
    selected = [combination for group in groups.values() for combination in all_pairs(group, *axes)]
    parameters = [target.param(*values) for target, *values in selected]
    return pytest.mark.parametrize(f"target, {names}", parameters, indirect=indirect)


Make = Callable[[int], Modulation | None]

# Name -> modulation for a number of frames: every preset, and tables no preset makes.
MODULATIONS: dict[str, Make] = {
    "plain": lambda frames: None,
    "region_mask": lambda frames: Modulation.region_mask(frames, decay=0.4),
    "region_mask_leaky": lambda frames: Modulation.region_mask(frames, decay=0.4, leakage=0.2),
    "videograin": Modulation.videograin,
    "fame": lambda frames: Modulation.fame(frames, decay=0.4),
    "fame_strength": lambda frames: Modulation.fame(frames, decay=0.4, decay_on="strength"),
    "frames": lambda frames: Modulation.frames(frames, "first"),
    "fame_sparse": lambda frames: Modulation.fame(frames, decay=0.4).keep_frames("first_previous"),
    "random": lambda frames: random_tables(frames, frames),
}
# Between them these reach every operator; the others are slow for their number.
FAST_MODULATIONS = ("plain", "region_mask", "fame", "random")
on_modulations = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in FAST_MODULATIONS else pytest.mark.slow) for name in MODULATIONS]
)


def random_tables(query_frames: int, key_frames: int) -> Modulation:
    """Any strengths, biases of both signs and one excluded pair of frames."""
    strength = torch.rand(2, query_frames, key_frames)
    bias = torch.randn(2, query_frames, key_frames)
    bias[0, 0, -1] = -math.inf
    return Modulation(strength, bias)


def text_modulation(name: str) -> Modulation | None:
    """The modulation `name` for keys of one frame: its tables' first key frame."""
    modulation = MODULATIONS[name](FRAMES)
    if modulation is None:
        return None
    tables = (modulation.strength_table, modulation.bias_table)
    return Modulation(*(None if table is None else table[:, :, :1] for table in tables))


# Bitsets that tokens draw from, one of them often, so that its run fills tiles.
KINDS = {
    "no_region": [0],
    "one_region": [1],
    "mixed": [1, 1, 1, 1, 2, 0],
    "two": [1, 1, 1, 2],
    "overlapping": [1, 3, 3, 3, 6, 7, 4],
    "uncovered": [0, 0, 0, 0, 1, 2],
    "highest_bit": [2**30, 2**30, 2**30, 1, 0],
}


def layout(
    tokens: int, frames: int = FRAMES, kind: str = "mixed", batch: int | None = None, device: str = "cpu"
) -> TokenLayout:
    """Frames in order and regions drawn at random; "one_token" gives up to five tokens a region each."""
    shape = (tokens,) if batch is None else (batch, tokens)
    if kind == "one_token":
        region = torch.zeros(shape, dtype=torch.int64)
        for bit, token in enumerate(torch.randperm(tokens)[:5].tolist()):
            region[..., token] = 1 << bit
    else:
        bits = torch.tensor(KINDS[kind])
        region = bits[torch.randint(len(bits), shape)]
    frame = (torch.arange(tokens) * frames // max(tokens, 1)).expand(shape)
    return TokenLayout(region.to(device), frame.to(device), frames)


@dataclass(frozen=True)
class Case:
    """The arguments of one call."""

    query: Tensor
    key: Tensor
    value: Tensor
    query_layout: TokenLayout
    key_layout: TokenLayout | None = None
    modulation: Modulation | None = None
    row_strength: Tensor | None = None
    key_weight: Tensor | None = None
    scale: float | None = None

    def run(self, backend: str) -> tuple[Tensor, Tensor]:
        """(out, lse) of the public function."""
        return layout_attention(**vars(self), return_lse=True, backend=backend)

    def eager(self) -> tuple[Tensor, Tensor]:
        return reference.layout_attention(**vars(self), return_lse=True)

    def to(self, device: str) -> Case:
        moved = {name: x.to(device) for name, x in vars(self).items() if isinstance(x, Tensor | TokenLayout)}
        return replace(self, **moved)

    def oracle(self) -> tuple[Tensor, Tensor]:
        tensors = {name: getattr(self, name).double() for name in ("query", "key", "value")}
        return replace(self, **tensors).eager()


def make_case(
    target: Target,
    *,
    num_queries: int | None = None,
    num_keys: int | None = None,
    batch: int = 1,
    heads: int = 1,
    head_dim: int = 16,
    kind: str = "mixed",
    layout_batch: int | None = None,
    text: bool = False,
    **arguments: object,
) -> Case:
    """A case in the target's dtype on its device; `text` makes the keys one frame of `num_keys` tokens.

    Without num_keys queries and keys share a layout. `arguments` are those of Case; tensors go to the device.
    """
    num_queries = target.tokens if num_queries is None else num_queries
    query_layout = layout(num_queries, kind=kind, batch=layout_batch, device=target.device)
    key_layout = None
    if num_keys is not None:
        key_layout = layout(num_keys, 1 if text else FRAMES, kind, layout_batch, target.device)
    num_keys = num_queries if num_keys is None else num_keys
    query, key, value = (
        torch.randn(batch, heads, length, head_dim).to(target.device, target.dtype)
        for length in (num_queries, num_keys, num_keys)
    )
    arguments = {
        name: item.to(target.device) if isinstance(item, Tensor | TokenLayout) else item
        for name, item in arguments.items()
    }
    return replace(Case(query, key, value, query_layout, key_layout), **arguments)


def strided(x: Tensor, strides: str) -> Tensor:
    """x with other strides, or repeated along axes of stride 0."""
    if strides == "transposed":  # [B, N, H, D], as a projection leaves it
        return x.transpose(1, 2).contiguous().transpose(1, 2)
    if strides == "head_dim_first":
        return x.mT.contiguous().mT
    if strides == "sliced":
        wide = x.new_full([x.shape[0] + 1, x.shape[1] + 1, 2 * x.shape[2] + 1, 2 * x.shape[3] + 1], math.nan)
        wide[1:, 1:, 1::2, 1::2] = x
        return wide[1:, 1:, 1::2, 1::2]
    if strides == "expanded":
        return x[:1, :1].expand_as(x)
    return x[:, :, :1].expand_as(x)  # one_row


def assert_parity(out: Tensor, lse: Tensor, case: Case, eager: Case | None = None) -> None:
    """The rule of fame_accel.core.parity.

    All of `out` is finite, and `lse` is finite exactly where the oracle's is; the constant for lse grows with
    its size. eager: a case of the same meaning to run eagerly, where `case` itself cannot judge.
    """
    exact, exact_lse = case.oracle()
    plain, plain_lse = (x.to(out.device) for x in (case if eager is None else eager).eager())
    assert out.shape == exact.shape and out.dtype == case.query.dtype and out.device == case.query.device
    assert lse.shape == exact_lse.shape and lse.dtype == torch.float32
    assert plain.isfinite().all(), "the eager reference overflows on this case, so it can judge nothing"
    assert out.isfinite().all()
    assert torch.equal(lse.isfinite(), exact_lse.isfinite()) and (lse[~lse.isfinite()] == -math.inf).all()
    assert not out[lse == -math.inf].any()
    verdict = Verdict(error(out, exact), error(plain, exact))
    assert verdict.passed, verdict
    largest = exact_lse[exact_lse.isfinite()].abs().amax().item() if exact_lse.isfinite().any() else 0.0
    verdict = Verdict(error(lse, exact_lse), error(plain_lse, exact_lse), SLACK * (1 + largest))
    assert verdict.passed, verdict


def check(case: Case, target: Target, eager: Case | None = None) -> tuple[Tensor, Tensor]:
    """Runs the case on the target's backend, asserts parity and returns (out, lse)."""
    out, lse = case.run(target.backend)
    assert_parity(out, lse, case, eager)
    return out, lse

"""AttentionPlan: all that a backend needs to know of two layouts and a modulation, made once and used by every call."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fame_accel import bindings
from fame_accel.core.backend import resolve_backend
from fame_accel.core.checks import check_flag, shown
from fame_accel.core.layout import TokenLayout
from fame_accel.core.modulation import Modulation
from fame_accel.core.pytrees import constant, register_pytree
from fame_accel.core.runs import RunPlan, run_plan
from fame_accel.core.tables import Tables, merge_frames
from fame_accel.core.tiles import TilePlan, tile_plan
from fame_accel.core.validation import DTYPES, MAX_HEAD_DIM, check_layouts

UNTILED_KEYS = 512  # keys of one frame, up to which regions and tables are looked up pair by pair
# The short-sequences kernel takes up to SHORT_SEQUENCE tokens, and rows of up to SHORT_ROW_BYTES, as wider ones do not
# fit the shared memory of every chip. From SHORT_BATCH items on, its programs are full; fewer are left to other
# kernels, which divide one item among programs.
SHORT_SEQUENCE, SHORT_BATCH, SHORT_ROW_BYTES = 32, 4, 640


@register_pytree
@dataclass(frozen=True, eq=False)
class AttentionPlan:
    """The plan of an attention; make it with `plan_attention`, outside of compiled code.

    A plan is a pytree of tensors and constants. Compiled code takes its tensors as inputs, so that plans of other masks
    do not compile it again.

    Attributes:
        backend: "triton", "sdpa" or "reference".
        kernel: what the backend runs: "tiles", "few_keys" or "short_sequences" of triton, "runs" or "chunks" of sdpa,
            "reference".
        query_region, query_frame: int32 [P, Nq] of the query layout; P is the batch, or 1 for all items. Where all
            items of short sequences have the same frames, `query_frame` and `key_frame` are [1, N].
        key_region, key_frame: int32 [P, Nk] of the key layout.
        strength, bias: float32 [2, Fq, Fk], on the layouts' device, or [2, Fq] for few keys; None where 0 everywhere.
        tiles: of kernel "tiles", otherwise None.
        runs: of kernel "runs", otherwise None.
    """

    query_region: Tensor
    query_frame: Tensor
    key_region: Tensor
    key_frame: Tensor
    strength: Tensor | None
    bias: Tensor | None
    tiles: TilePlan | None
    runs: RunPlan | None
    backend: str = constant()
    kernel: str = constant()

    @property
    def device(self) -> torch.device:
        """The device of the layouts, where the calls must be too."""
        return self.query_region.device

    def check_fit(self, query: Tensor, key: Tensor) -> None:
        """ValueError where the plan is not for a query [B, H, Nq, D] and key [B, H, Nk, D] of these shapes."""
        for name, region, side in (("queries", self.query_region, query), ("keys", self.key_region, key)):
            items, tokens = region.shape
            if tokens != side.shape[2]:
                raise ValueError(f"plan is for {tokens} {name}, got {side.shape[2]}")
            if items not in (1, side.shape[0]):
                raise ValueError(f"plan is for a batch of {items}, but query has batch {side.shape[0]}")
        if self.device != query.device:
            raise ValueError(f"plan is on {self.device}, but query is on {query.device}: plan layouts on that device")
        if self.kernel == "short_sequences" and query.shape[-1] * query.element_size() > SHORT_ROW_BYTES:
            raise ValueError(
                f"plan is for rows of at most {SHORT_ROW_BYTES} bytes, got D {query.shape[-1]} of {query.dtype}: "
                "give plan_attention the head_dim and dtype"
            )


_PLAIN = Modulation()


def plan_attention(
    query_layout: TokenLayout,
    key_layout: TokenLayout | None = None,
    modulation: Modulation | None = None,
    *,
    backend: str = "auto",
    head_dim: int = 64,
    dtype: torch.dtype = torch.float16,
    weighted_keys: bool = False,
) -> AttentionPlan:
    """Plan the attention of two layouts under a modulation, to be given to `layout_attention` as `plan`.

    Calls without a plan find theirs on their layouts, so a plan matters in compiled code: its tensors are inputs there,
    and plans of other masks run the same code.

    Args:
        query_layout, key_layout: regions and frames of the tokens; `key_layout` defaults to `query_layout`.
        modulation: the tables; None is plain attention.
        backend: as in `layout_attention`; the plan is for this backend alone.
        head_dim, dtype: of the queries. They decide which kernel and which tiles are fastest.
        weighted_keys: whether the calls will give a `key_weight`; with the wrong choice they are right, but slower.

    Raises:
        TypeError, ValueError: an argument does not fit; the message names it.
        RuntimeError: the backend cannot run on the layouts' device.
    """
    key_layout = query_layout if key_layout is None else key_layout
    modulation = _PLAIN if modulation is None else modulation
    check_layouts(query_layout, key_layout, modulation)
    if key_layout.device != query_layout.device:
        raise ValueError(f"key_layout is on {key_layout.device}, but query_layout is on {query_layout.device}")
    if None not in (query_layout.batch, key_layout.batch) and query_layout.batch != key_layout.batch:
        raise ValueError(f"key_layout has batch {key_layout.batch}, but query_layout has batch {query_layout.batch}")
    _check_kind(head_dim, dtype)
    check_flag("weighted_keys", weighted_keys)
    batch = query_layout.batch or key_layout.batch or 1
    backend = resolve_backend(backend, query_layout.device, dtype)
    return find_plan(query_layout, key_layout, modulation, backend, batch, head_dim, dtype, weighted_keys)


def _check_kind(head_dim: int, dtype: torch.dtype) -> None:
    if not isinstance(head_dim, int) or isinstance(head_dim, bool) or not 1 <= head_dim <= MAX_HEAD_DIM:
        raise ValueError(f"head_dim must be an int from 1 to {MAX_HEAD_DIM}, got {shown(head_dim)}")
    if not isinstance(dtype, torch.dtype) or dtype not in (*DTYPES, torch.float64):
        names = ", ".join(str(kind).removeprefix("torch.") for kind in (*DTYPES, torch.float64))
        raise TypeError(f"dtype must be a torch.dtype, one of {names}, got {shown(dtype)}")


def find_plan(
    query_layout: TokenLayout,
    key_layout: TokenLayout,
    modulation: Modulation,
    backend: str,
    batch: int,
    head_dim: int,
    dtype: torch.dtype,
    weighted_keys: bool,
) -> AttentionPlan:
    """The plan of checked arguments, cached on the query layout."""
    plans = query_layout.plans

    def merged() -> Tables:
        return merge_frames(modulation, query_layout.num_frames, key_layout.num_frames)

    tables: Tables = plans.get(key_layout, ("tables", modulation), merged)
    kernel = _choose_kernel(query_layout, key_layout, tables, backend, batch, head_dim * dtype.itemsize)
    blocks = None
    if kernel == "tiles":
        one_pass = tables.strength_pair is not None and not weighted_keys
        blocks = bindings.tile_shape(query_layout.device, dtype, head_dim, tables.strength is not None, one_pass)

    def build() -> AttentionPlan:
        with torch.inference_mode(False):  # a plan made there is used elsewhere too
            return _make_plan(query_layout, key_layout, modulation, tables, backend, kernel, blocks)

    return plans.get(key_layout, (backend, kernel, blocks, modulation), build)


def _choose_kernel(
    query_layout: TokenLayout, key_layout: TokenLayout, tables: Tables, backend: str, batch: int, row_bytes: int
) -> str:
    num_keys = key_layout.num_tokens
    if backend == "triton":
        short = max(query_layout.num_tokens, num_keys) <= SHORT_SEQUENCE
        if short and batch >= SHORT_BATCH and row_bytes <= SHORT_ROW_BYTES:
            return "short_sequences"
        return "few_keys" if num_keys <= UNTILED_KEYS and tables.key_classes == 1 else "tiles"
    if backend == "sdpa":
        return "runs" if tables.strength is None or num_keys > UNTILED_KEYS else "chunks"
    return backend


def _make_plan(
    query_layout: TokenLayout,
    key_layout: TokenLayout,
    modulation: Modulation,
    tables: Tables,
    backend: str,
    kernel: str,
    blocks: tuple[int, int] | None,
) -> AttentionPlan:
    query_frame, key_frame = query_layout.frame, key_layout.frame
    strength, bias = (
        table.to(query_layout.device) if table is not None and bool(table.any()) else None
        for table in (modulation.strength_table, modulation.bias_table)
    )
    if kernel == "short_sequences":
        query_frame, key_frame = _shared(query_frame), _shared(key_frame)
    elif kernel == "few_keys":  # the tables do not depend on the key's frame
        strength, bias = (None if table is None else table[:, :, 0].contiguous() for table in (strength, bias))
    return AttentionPlan(
        query_layout.region,
        query_frame,
        key_layout.region,
        key_frame,
        strength,
        bias,
        tile_plan(query_layout, key_layout, tables, *blocks) if blocks is not None else None,
        run_plan(query_layout, key_layout, tables) if kernel == "runs" else None,
        backend,
        kernel,
    )


def _shared(frame: Tensor) -> Tensor:
    """[1, N] of [P, N] where all items have the same frames, as pixels do."""
    return frame[:1] if bool((frame == frame[:1]).all()) else frame

"""The short-sequences kernel: parity with the reference in float64, when it is chosen, and the bytes it moves."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from cases import (
    GPU,
    MODULATIONS,
    TRITON,
    Case,
    Target,
    assert_parity,
    check,
    layout,
    make_case,
    on_modulations,
    random_tables,
    strided,
)
from traffic import watch

from fame_accel import Modulation, TokenLayout, bindings, layout_attention
from fame_accel.core import planning

# Padded rows overflow before they are masked.
pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered in exp2:RuntimeWarning")

ON_GPU = [target for target in GPU if target.backend == "triton"]
on_targets = pytest.mark.parametrize("target", [target.param() for target in (*TRITON, *ON_GPU)])
on_float32 = pytest.mark.parametrize(
    "target", [target.param() for target in (*TRITON, *ON_GPU) if target.dtype == torch.float32]
)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple]:
    """The arguments of every call that the operator gets."""
    function, recorded = bindings.short_sequences_attention, []
    monkeypatch.setattr(
        bindings, "short_sequences_attention", lambda *given: recorded.append(given) or function(*given)
    )
    return recorded


def pixels(
    target: Target,
    frames: int,
    key_frames: int | None = None,
    *,
    batch: int = 5,
    heads: int = 1,
    head_dim: int = 16,
    kind: str = "overlapping",
    **arguments: object,
) -> Case:
    """A case as motion modules make it: each batch item a pixel, each token a frame, regions per pixel and frame."""
    key_frames = frames if key_frames is None else key_frames
    case = make_case(
        target, num_queries=frames, num_keys=key_frames, batch=batch, heads=heads, head_dim=head_dim, **arguments
    )
    sides = (layout(n, n, kind, batch, target.device) for n in (frames, key_frames))
    return replace(case, **dict(zip(("query_layout", "key_layout"), sides, strict=True)))


@on_targets
@on_modulations
@pytest.mark.parametrize("frames", [1, 2, 8, 16, 24, 32])
def test_presets(target: Target, frames: int, name: str, calls: list):
    row_strength = torch.rand(5, frames)
    check(pixels(target, frames, modulation=MODULATIONS[name](frames), row_strength=row_strength), target)
    assert len(calls) == 1


@on_targets
@pytest.mark.parametrize("frames, key_frames", [(1, 32), (16, 3), (5, 17), (32, 16), (24, 9)])
def test_other_frames_of_keys(target: Target, frames: int, key_frames: int, calls: list):
    modulation = random_tables(frames, key_frames)
    factors = dict(row_strength=torch.rand(5, frames), key_weight=torch.rand(5, key_frames))
    check(pixels(target, frames, key_frames, modulation=modulation, **factors), target)
    assert len(calls) == 1


@on_float32
@pytest.mark.parametrize("head_dim", [1, 24, 40, 64, 80, 160])
@pytest.mark.parametrize("frames", [16, 24])
def test_head_dims(target: Target, head_dim: int, frames: int):
    modulation = Modulation.fame(frames, decay=0.4)
    check(pixels(target, frames, head_dim=head_dim, modulation=modulation), target)


@on_float32
@pytest.mark.parametrize("batch, heads", [(4, 1), (7, 5), (9, 3), (18, 7)])
@pytest.mark.parametrize("frames", [4, 20])
def test_batches_and_heads(target: Target, batch: int, heads: int, frames: int):
    """Programs that are not full, and heads that do not divide evenly among them."""
    case = pixels(target, frames, batch=batch, heads=heads, modulation=random_tables(frames, frames))
    check(replace(case, row_strength=torch.rand(batch, frames, device=target.device)), target)


@on_float32
@pytest.mark.parametrize("batch", [1, 3])
def test_operator_with_few_items(target: Target, batch: int):
    case = pixels(target, 8, batch=batch)
    region, frame = case.query_layout.region, case.query_layout.frame
    arguments = (region, frame, region, frame, None, None, None, None, 0.25)
    qkv = (case.query, case.key, case.value)
    assert_parity(*bindings.short_sequences_attention(*qkv, *arguments), replace(case, key_layout=None))


@on_float32
@pytest.mark.parametrize("kind", ["no_region", "one_region", "one_token", "overlapping", "uncovered", "highest_bit"])
@pytest.mark.parametrize("name", ["videograin", "fame", "region_mask"])
def test_regions(target: Target, kind: str, name: str):
    check(pixels(target, 8, kind=kind, modulation=MODULATIONS[name](8)), target)


@on_float32
@pytest.mark.parametrize("query_batch", [None, 5])
@pytest.mark.parametrize("key_batch", [None, 5])
@pytest.mark.parametrize("frames", [8, 20])
def test_shared_layouts(target: Target, query_batch: int | None, key_batch: int | None, frames: int):
    case = pixels(target, frames, modulation=random_tables(frames, frames))
    sides = (layout(frames, frames, "two", batch, target.device) for batch in (query_batch, key_batch))
    check(replace(case, **dict(zip(("query_layout", "key_layout"), sides, strict=True))), target)


@on_float32
@pytest.mark.parametrize("sides", ["both", "query", "key"])
@pytest.mark.parametrize("frames", [8, 20])
def test_frames_of_their_own(target: Target, sides: str, frames: int, calls: list):
    """Items whose tokens are different frames, in different orders."""

    def shuffled(tokens: TokenLayout) -> TokenLayout:
        frame = torch.stack([torch.randint(frames, (frames,)) for _ in range(5)]).to(target.device)
        return TokenLayout(tokens.region, frame, frames)

    case = pixels(target, frames, modulation=random_tables(frames, frames))
    if sides != "key":
        case = replace(case, query_layout=shuffled(case.query_layout))
    if sides != "query":
        case = replace(case, key_layout=shuffled(case.key_layout))
    check(case, target)
    assert [calls[0][index].shape[0] for index in (4, 6)] == [1 if sides == "key" else 5, 1 if sides == "query" else 5]


@on_float32
@pytest.mark.parametrize("rows", [None, (), (5,)], ids=["no rows", "rows", "rows per item"])
@pytest.mark.parametrize("keys", [None, (), (5,)], ids=["no keys", "keys", "keys per item"])
@pytest.mark.parametrize("name", ["fame", "random"])
def test_factors(target: Target, rows: tuple | None, keys: tuple | None, name: str):
    factors = (None if shape is None else torch.rand(*shape, 8) for shape in (rows, keys))
    factors = dict(zip(("row_strength", "key_weight"), factors, strict=True))
    check(pixels(target, 8, modulation=MODULATIONS[name](8), **factors), target)


@on_float32
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_factors_at_their_ends(target: Target, value: float):
    ends = torch.full((8,), value)
    check(pixels(target, 8, modulation=Modulation.fame(8), row_strength=ends, key_weight=ends), target)


@on_targets
@pytest.mark.parametrize("strength", [None, 1.0])
@pytest.mark.parametrize("frames", [8, 20])
def test_rows_without_keys(target: Target, strength: float | None, frames: int):
    """The first half of the frames see nothing, the others their own regions only."""
    bias = torch.full((2, frames, frames), -math.inf)
    bias[1, frames // 2 :] = 0
    modulation = Modulation(None if strength is None else torch.full_like(bias, strength), bias)
    out, lse = check(pixels(target, frames, modulation=modulation, kind="mixed"), target)
    assert not out[:, :, : frames // 2].any() and (lse[:, :, : frames // 2] == -math.inf).all()
    assert lse[:, :, frames // 2 :].isfinite().any() and (lse[:, :, frames // 2 :] == -math.inf).any()


@on_targets
def test_no_row_has_a_key(target: Target):
    modulation = Modulation(torch.ones(2, 8, 8), torch.full((2, 8, 8), -math.inf))
    out, lse = pixels(target, 8, modulation=modulation).run(target.backend)
    assert not out.any() and (lse == -math.inf).all()


@on_targets
@pytest.mark.parametrize("name", ["plain", "fame"])
def test_large_logits(target: Target, name: str):
    """Logits of +-1e4."""
    case = pixels(target, 8, modulation=MODULATIONS[name](8))
    size = torch.linspace(-50, 50, 8, device=target.device)[:, None]
    direction = torch.randn(16, device=target.device).sign()
    both = (size * direction).to(target.dtype).expand(5, 1, 8, 16)
    check(replace(case, query=both, key=both.flip(2)), target)


@on_float32
@pytest.mark.parametrize("strides", ["transposed", "head_dim_first", "sliced", "expanded", "one_row"])
@pytest.mark.parametrize("frames", [8, 20])
@pytest.mark.parametrize("head_dim", [24, 32])
def test_strides(target: Target, strides: str, frames: int, head_dim: int):
    """`transposed` is what motion modules pass: [pixels, frames, heads, head_dim] in memory."""
    case = pixels(target, frames, heads=2, head_dim=head_dim, modulation=Modulation.fame(frames))
    check(replace(case, **{part: strided(getattr(case, part), strides) for part in ("query", "key", "value")}), target)


@on_float32
@pytest.mark.parametrize(
    "batch, frames, key_frames, short",
    [(4, 32, 32, True), (3, 8, 8, False), (4, 33, 8, False), (4, 8, 33, False)],
)
def test_when_it_is_chosen(target: Target, batch: int, frames: int, key_frames: int, short: bool, calls: list):
    pixels(target, frames, key_frames, batch=batch).run(target.backend)
    assert len(calls) == short


@on_float32
def test_wide_rows_go_elsewhere(target: Target, calls: list):
    """float32 rows of more than 160 would not fit every chip."""
    pixels(target, 8, head_dim=161).run(target.backend)
    assert not calls


def _step(case: Case, row_strength: torch.Tensor, backend: str) -> torch.Tensor:
    layouts = (case.query_layout, case.key_layout, case.modulation)
    return layout_attention(
        case.query, case.key, case.value, *layouts, row_strength=row_strength.clamp(max=0.9), backend=backend
    ) + 1  # fmt: skip


@on_float32
def test_compile(target: Target):
    """Whole graph, for two layouts; new strengths share a graph."""
    torch._dynamo.reset()
    case = pixels(target, 8, modulation=Modulation.fame(8))
    shuffled = TokenLayout(case.query_layout.region.flip(0), case.query_layout.frame.flip(1), 8)
    compiled = torch.compile(_step, fullgraph=True, backend="aot_eager")
    results = []
    for one in (case, replace(case, query_layout=shuffled)):
        compiled(one, torch.rand(5, 8, device=target.device), target.backend)
        with torch._dynamo.config.patch(error_on_recompile=True):
            row_strength = torch.full((5, 8), 0.5, device=target.device)
            results.append(compiled(one, row_strength, target.backend))
            torch.testing.assert_close(results[-1], _step(one, row_strength, target.backend))
    assert not torch.allclose(*results)
    torch._dynamo.reset()


@on_float32
def test_no_plan_is_made(target: Target, monkeypatch: pytest.MonkeyPatch):
    """It would take time for every pixel."""
    monkeypatch.setattr(planning, "tile_plan", None)
    pixels(target, 8, modulation=Modulation.fame(8)).run(target.backend)


@pytest.mark.parametrize("target", [TRITON[1].param()])
@pytest.mark.parametrize("parts", [1, 2])
def test_bytes_moved(target: Target, parts: int, monkeypatch: pytest.MonkeyPatch):
    """q, k, v are read once, out and lse written once, and all a launch with every table and factor asks for stays
    within 1.15 times q + k + v + out: heads of 4 pixels in one program, or divided between two.

    Counted as bytes asked for, nothing kept between programs, and as 32-byte sectors, each once a program.
    """
    from fame_accel.kernels.launch_table import ShortLaunch
    from fame_accel.kernels.short_sequences import short_sequences_call

    frames, heads, items = 16, 8, 8
    case = pixels(target, frames, batch=items, heads=heads, head_dim=40, modulation=random_tables(frames, frames))
    q, k, v = (strided(x, "transposed") for x in (case.query, case.key, case.value))
    out, lse = torch.empty_like(q), q.new_empty(q.shape[:3], dtype=torch.float32)
    region, frame = case.query_layout.region, case.query_layout.frame[:1]
    tables = (case.modulation.strength_table, case.modulation.bias_table)
    factors = torch.rand(2, items, frames)
    programs = parts * items // 4
    call = short_sequences_call(
        q, k, v, out, lse, region, frame, region.clone(), frame, *tables, *factors, 0.125, "ieee", programs,
        ShortLaunch(4, 4, 2),
    )  # fmt: skip
    assert call.grid == (programs,)

    traffic = watch(call, monkeypatch)
    assert all(traffic.touches_once(tensor) for tensor in (q, k, v, out, lse))
    least = sum(x.numel() * x.element_size() for x in (q, k, v, out))
    assert traffic.asked_bytes <= 1.15 * least
    assert traffic.sector_bytes <= 1.15 * least

"""Parity of the backends with the reference in float64, and properties that need no oracle."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from dataclasses import replace
from itertools import product

import pytest
import torch
from cases import (
    FAST_MODULATIONS,
    FLOAT32,
    FRAMES,
    GPU,
    MODULATIONS,
    SDPA,
    TARGETS,
    TRITON,
    Case,
    Target,
    assert_parity,
    check,
    layout,
    make_case,
    on_backends,
    on_modulations,
    on_pairs,
    on_targets,
    random_tables,
    strided,
    text_modulation,
)
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from fame_accel import Modulation, TokenLayout, layout_attention, plan_attention
from fame_accel.bindings import products
from fame_accel.core.parity import Verdict, error

# Lanes past the end of a short tile overflow before they are masked.
pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered in exp2:RuntimeWarning")

# Between them these reach every operator: on sdpa grouped, chunked, and grouped with exclusion; on triton few
# keys, tiles, and tiles with exclusion.
CORE = ["plain", "fame", "region_mask"]
on_core = pytest.mark.parametrize("name", CORE)


@on_targets
@on_modulations
def test_presets(target: Target, name: str):
    row_strength = torch.rand(target.tokens)
    check(make_case(target, heads=2, modulation=MODULATIONS[name](FRAMES), row_strength=row_strength), target)


@on_backends
@pytest.mark.slow
def test_modulations_in_turn(target: Target):
    """On one layout, which keeps the plans."""
    case = make_case(target, num_queries=24)
    for _ in range(2):
        for make in MODULATIONS.values():
            check(replace(case, modulation=make(FRAMES)), target)


@on_backends
@pytest.mark.parametrize(
    "name, num_keys", [*((name, 77) for name in MODULATIONS), *product(FAST_MODULATIONS, [512, 530])]
)
def test_text_keys(target: Target, name: str, num_keys: int):
    modulation, row_strength = text_modulation(name), torch.rand(70)
    check(
        make_case(
            target, num_queries=70, num_keys=num_keys, kind="two", text=True, modulation=modulation,
            row_strength=row_strength,
        ),
        target,
    )  # fmt: skip


@on_backends
def test_many_queries_of_few_keys(target: Target):
    """So many that a program of the few-keys kernel walks over several tiles of them."""
    num_queries = 20_000 if target.device == "cuda" else 300
    modulation, row_strength = text_modulation("fame"), torch.rand(num_queries)
    check(
        make_case(
            target, num_queries=num_queries, num_keys=77, heads=8, text=True, modulation=modulation,
            row_strength=row_strength,
        ),
        target,
    )  # fmt: skip


@on_targets
@pytest.mark.parametrize("head_dim", [1, 16, 40, 64, 72, 80, 96, 128, 160, 256])
@pytest.mark.parametrize("text", [False, True])  # other kernels
def test_head_dims(target: Target, head_dim: int, text: bool):
    num_keys = 77 if text else target.many_keys
    modulation = text_modulation("videograin") if text else Modulation.fame(FRAMES)
    check(
        make_case(
            target, num_queries=40, num_keys=num_keys, head_dim=head_dim, kind="two", text=text,
            modulation=modulation, row_strength=torch.rand(40),
        ),
        target,
    )  # fmt: skip


@on_pairs("length, name", TARGETS, [1, 63, 77, 127, 129], CORE)
def test_lengths(target: Target, length: int, name: str):
    check(make_case(target, num_queries=length, modulation=MODULATIONS[name](FRAMES)), target)


@pytest.mark.slow
@on_pairs("name", TARGETS, CORE)
def test_many_tokens(target: Target, name: str):
    check(make_case(target, num_queries=1000, modulation=MODULATIONS[name](FRAMES)), target)


@on_backends
@pytest.mark.parametrize("num_queries, num_keys", [(1, 70), (70, 1), (33, 97), (20, 560)])
@on_core
def test_other_length_of_keys(target: Target, num_queries: int, num_keys: int, name: str):
    modulation = MODULATIONS[name](FRAMES)
    check(make_case(target, num_queries=num_queries, num_keys=num_keys, modulation=modulation), target)


@on_backends
def test_other_frames_of_keys(target: Target):
    case = make_case(target, num_queries=40, num_keys=65, modulation=random_tables(FRAMES, 3))
    check(replace(case, key_layout=layout(65, 3, device=target.device)), target)


@on_backends
@pytest.mark.parametrize("kind", ["no_region", "one_region", "one_token", "overlapping", "uncovered", "highest_bit"])
@pytest.mark.parametrize("name", ["videograin", "fame", "region_mask"])
def test_regions(target: Target, kind: str, name: str):
    check(make_case(target, kind=kind, modulation=MODULATIONS[name](FRAMES)), target)


@on_backends
@pytest.mark.parametrize("value", [None, 0.0, 1.0])
@pytest.mark.parametrize("name", ["videograin", "fame", "fame_strength"])
def test_row_strength(target: Target, value: float | None, name: str):
    row_strength = None if value is None else torch.full((target.tokens,), value)
    check(make_case(target, modulation=MODULATIONS[name](FRAMES), row_strength=row_strength), target)


@on_targets
def test_strengths_of_same_and_other_regions(target: Target):
    """Two numbers, neither of them 0 or 1; with a bias by frame, so that the keys are taken in tiles and runs."""
    strength = torch.tensor([0.3, 0.8])[:, None, None].expand(2, FRAMES, FRAMES)
    modulation = Modulation(strength, Modulation.fame(FRAMES, decay=0.4).bias_table)
    check(make_case(target, modulation=modulation, row_strength=torch.rand(target.tokens)), target)


@on_targets
def test_row_strength_zero_turns_strength_off(target: Target):
    case = make_case(target, num_queries=65, modulation=Modulation.fame(FRAMES), row_strength=torch.zeros(65))
    unmodulated = Modulation(bias_table=case.modulation.bias_table)
    assert_parity(*case.run(target.backend), replace(case, modulation=unmodulated, row_strength=None))


@on_backends
@pytest.mark.parametrize("name", ["videograin", "fame", "random", "region_mask"])
@pytest.mark.parametrize("num_keys, text", [(77, True), (300, True), (560, True), (97, False)])
def test_key_weight(target: Target, name: str, num_keys: int, text: bool):
    weight = torch.cat([torch.tensor([0.0, 1.0, 0.5]), torch.rand(num_keys - 3)])
    modulation = text_modulation(name) if text else MODULATIONS[name](FRAMES)
    check(
        make_case(
            target, num_queries=40, num_keys=num_keys, kind="two", text=text, modulation=modulation,
            key_weight=weight, row_strength=torch.rand(40),
        ),
        target,
    )  # fmt: skip


@on_pairs("decay, preset", TARGETS, [0.0, 50.0], [Modulation.fame, Modulation.region_mask])
def test_decay(target: Target, decay: float, preset: Callable[..., Modulation]):
    check(make_case(target, modulation=preset(FRAMES, decay=decay)), target)


@on_pairs("strength, text", TARGETS, [None, 1.0], [False, True])
def test_rows_without_keys(target: Target, strength: float | None, text: bool):
    """Frame 0 sees nothing, and frame 1 its own regions only, so that its tokens in no region see nothing."""
    bias = torch.full((2, FRAMES, 1 if text else FRAMES), -math.inf)
    bias[1, 1] = 0
    modulation = Modulation(None if strength is None else torch.full_like(bias, strength), bias)
    num_keys = 77 if text else target.many_keys
    case = make_case(target, num_queries=40, num_keys=num_keys, text=text, modulation=modulation)
    out, lse = check(case, target)
    assert not out[:, :, :20].any() and (lse[:, :, :20] == -math.inf).all()
    assert lse[:, :, 20:].isfinite().any() and (lse[:, :, 20:] == -math.inf).any()


@on_targets
@pytest.mark.parametrize("num_keys", [65, 560])
def test_no_row_has_a_key(target: Target, num_keys: int):
    modulation = Modulation(torch.ones(2, FRAMES, FRAMES), torch.full((2, FRAMES, FRAMES), -math.inf))
    out, lse = make_case(target, num_queries=20, num_keys=num_keys, modulation=modulation).run(target.backend)
    assert not out.any() and (lse == -math.inf).all()


def _aligned(case: Case, query_size: Tensor, key_size: Tensor) -> Case:
    """Queries and keys along one diagonal, so that <q_i, k_j> is head_dim * query_size_i * key_size_j."""
    direction = torch.randn(case.query.shape[-1], device=case.query.device).sign()
    query, key = (
        (size.to(direction.device)[:, None] * direction).to(case.query.dtype).expand(1, 1, -1, -1)
        for size in (query_size, key_size)
    )
    return replace(case, query=query, key=key)


@on_pairs(
    "name, many, spread", TARGETS, ["plain", "videograin", "fame", "fame_strength"], [False, True], ["wide", "narrow"]
)
def test_large_logits(target: Target, name: str, many: bool, spread: str):
    """Logits of +-1e4: rows that hold both ends, and rows of nearly equal ones."""
    num_keys = target.many_keys if many else 70
    case = make_case(
        target, num_queries=40, num_keys=num_keys, kind="two", modulation=MODULATIONS[name](FRAMES),
        row_strength=torch.rand(40),
    )  # fmt: skip
    nearly = 50 * (1 - max(4e-4, 8 * torch.finfo(target.dtype).eps) * torch.rand(num_keys))
    keys = torch.linspace(-50, 50, num_keys) if spread == "wide" else nearly
    case = _aligned(case, torch.linspace(-50, 50, 40), keys)
    assert 9e3 < 0.25 * (case.query.double() @ case.key.double().mT).abs().max() < 1.1e4
    # The error is the rounding of <q, k>, in the order of its sum. cuBLAS has another one for some shapes, and a third
    # of the error there; kernels, torch's too, add in turn as a CPU does.
    check(case, target, case.to("cpu") if target.dtype == torch.float32 else None)


@on_pairs("name, many", TARGETS, ["plain", "videograin", "fame"], [False, True])
def test_products_beyond_half_range(target: Target, name: str, many: bool):
    """<q, k> past 65504 where the logits are not: the scale comes before anything is stored in float16."""
    modulation, num_keys = MODULATIONS[name](FRAMES), target.many_keys if many else 70
    case = make_case(
        target, num_queries=40, num_keys=num_keys, kind="two", head_dim=64, modulation=modulation
    )  # fmt: skip
    case = _aligned(case, torch.linspace(-36, 36, 40), torch.linspace(-36, 36, num_keys))
    assert (case.query.double() @ case.key.double().mT).abs().max() > 65504
    out, lse = case.run(target.backend)
    assert_parity(out, lse, case, eager=replace(case, query=case.query / 8, scale=1.0))


@on_backends
@pytest.mark.parametrize("strides", ["transposed", "head_dim_first", "sliced", "expanded", "one_row"])
@pytest.mark.parametrize("name", ["plain", "fame"])
def test_strides(target: Target, strides: str, name: str):
    modulation = MODULATIONS[name](FRAMES)
    case = make_case(
        target, num_queries=40, batch=2, heads=2, head_dim=24, kind="two", modulation=modulation
    )  # fmt: skip
    views = {part: strided(getattr(case, part), strides) for part in ("query", "key", "value")}
    check(replace(case, **views), target)


@on_backends
@pytest.mark.parametrize("sides", ["both", "query", "key"])
@pytest.mark.parametrize("name", ["plain", "fame", "region_mask"])
def test_batched_layouts(target: Target, sides: str, name: str):
    modulation = MODULATIONS[name](FRAMES)
    case = make_case(target, num_queries=28, num_keys=35, batch=2, heads=2, kind="two", modulation=modulation)
    query_layout = layout(28, batch=None if sides == "key" else 2, device=target.device)
    key_layout = layout(35, batch=None if sides == "query" else 2, device=target.device)
    check(replace(case, query_layout=query_layout, key_layout=key_layout), target)


@on_backends
@pytest.mark.parametrize("sides", ["both", "query", "key"])
@pytest.mark.parametrize("name", ["fame_strength", "region_mask", pytest.param("random", marks=pytest.mark.slow)])
@pytest.mark.slow
def test_items_with_frames_of_their_own(target: Target, sides: str, name: str):
    modulation = MODULATIONS[name](FRAMES)
    case = make_case(target, num_queries=12, num_keys=15, batch=2, kind="two", modulation=modulation)

    def own(tokens: int, batched: bool) -> TokenLayout:
        shape = (2, tokens) if batched else (tokens,)
        region, frame = (torch.randint(high, shape).to(target.device) for high in (4, FRAMES))
        return TokenLayout(region, frame, FRAMES)

    layouts = (own(12, sides != "key"), own(15, sides != "query"))
    check(replace(case, query_layout=layouts[0], key_layout=layouts[1]), target)


@on_pairs(
    "layout_batch, factor_batch, name, weighted", FLOAT32, [None, 2], [(), (2,)], ["videograin", "fame"], [True, False]
)
def test_batched_factors(
    target: Target, layout_batch: int | None, factor_batch: tuple[int, ...], name: str, weighted: bool
):
    num_keys = 40 if weighted else target.many_keys
    row_strength = torch.rand(*factor_batch, 35)
    key_weight = torch.rand(*factor_batch, num_keys) if weighted else None
    case = make_case(
        target, num_queries=35, num_keys=num_keys, batch=2, kind="two", layout_batch=layout_batch,
        modulation=MODULATIONS[name](FRAMES), row_strength=row_strength, key_weight=key_weight,
    )  # fmt: skip
    check(case, target)


@on_backends
@pytest.mark.parametrize("layout_batch", [None, 0])
@on_modulations
def test_empty_batch(target: Target, layout_batch: int | None, name: str):
    modulation = MODULATIONS[name](FRAMES)
    case = make_case(target, num_queries=9, batch=0, layout_batch=layout_batch, modulation=modulation)
    out, lse = case.run(target.backend)
    assert out.shape == (0, 1, 9, 16) and lse.shape == (0, 1, 9)


@pytest.mark.parametrize("target", [target.param() for target in (*TARGETS, Target("reference", torch.float32))])
@on_modulations
def test_zero_keys(target: Target, name: str):
    case = make_case(target, num_queries=9, num_keys=0, modulation=MODULATIONS[name](FRAMES))
    out, lse = case.run(target.backend)
    assert out.shape == (1, 1, 9, 16) and not out.any() and (lse == -math.inf).all()


@on_backends
@on_modulations
def test_zero_queries(target: Target, name: str):
    case = make_case(target, num_queries=0, num_keys=9, modulation=MODULATIONS[name](FRAMES))
    out, lse = case.run(target.backend)
    assert out.shape == (1, 1, 0, 16) and lse.shape == (1, 1, 0)


@on_pairs("text, strength", TARGETS, [False, True], [0.0, 0.7])
def test_positive_bias(target: Target, text: bool, strength: float):
    bias = torch.tensor([[3.0, 0.0], [-1.0, 8.0]])[:, :, None].repeat(1, 1, 1 if text else FRAMES)
    bias[..., -1] += 1.5
    modulation, num_keys = Modulation(torch.full_like(bias, strength), bias), 77 if text else target.many_keys
    check(make_case(target, num_queries=40, num_keys=num_keys, text=text, modulation=modulation), target)


@on_targets
@pytest.mark.parametrize("many", [False, True])
def test_bias_beyond_half_range(target: Target, many: bool):
    """A finite bias excludes nothing, however low; what all keys of a row share cancels."""
    bias = torch.tensor([-1e5, -1e5 + 8])[:, None, None].repeat(1, FRAMES, FRAMES)
    num_keys = target.many_keys if many else 65
    case = make_case(target, num_queries=40, num_keys=num_keys, modulation=Modulation(bias_table=bias))
    rounding = 0.02 + 4 * torch.finfo(target.dtype).eps  # float32 has steps of 0.008 at 1e5
    for got, exact in zip(case.run(target.backend), case.oracle(), strict=True):
        torch.testing.assert_close(got.double(), exact, rtol=0, atol=rounding)


@on_backends
@pytest.mark.parametrize("scale", [1e-3, 0.7, 2])
@on_core
def test_scale(target: Target, scale: float, name: str):
    modulation, num_keys = MODULATIONS[name](FRAMES), target.many_keys
    check(make_case(target, num_queries=40, num_keys=num_keys, modulation=modulation, scale=scale), target)


@on_backends
@on_modulations
def test_inputs_are_left_alone(target: Target, name: str):
    case = make_case(
        target, num_queries=40, modulation=MODULATIONS[name](FRAMES), row_strength=torch.rand(40),
        key_weight=torch.rand(40),
    )  # fmt: skip
    tensors = [x for x in vars(case).values() if isinstance(x, Tensor)]
    tensors += [case.query_layout.region, case.query_layout.frame]
    before, precision = [x.clone() for x in tensors], torch.get_float32_matmul_precision()
    case.run(target.backend)
    assert all(torch.equal(a, b) for a, b in zip(tensors, before, strict=True))
    assert torch.get_float32_matmul_precision() == precision


@on_backends
@on_core
def test_out_alone_is_the_same_out(target: Target, name: str):
    case = make_case(target, num_queries=40, modulation=MODULATIONS[name](FRAMES))
    assert torch.equal(layout_attention(**vars(case), backend=target.backend), case.run(target.backend)[0])


def test_auto_on_a_cpu_is_sdpa():
    case = make_case(SDPA[0], num_queries=40, modulation=Modulation.fame(FRAMES))
    assert torch.equal(case.run("auto")[0], case.run("sdpa")[0])


@pytest.mark.gpu
def test_auto_on_a_gpu_is_triton():
    case = make_case(GPU[0], num_queries=40, modulation=Modulation.fame(FRAMES))
    assert torch.equal(case.run("auto")[0], case.run("triton")[0])


# Properties that need no oracle


@on_targets
@pytest.mark.parametrize("num_keys", [40, 530])
def test_no_modulation_equals_torch(target: Target, num_keys: int):
    zeros = torch.zeros(2, FRAMES, FRAMES)
    case = make_case(target, num_queries=40, num_keys=num_keys, heads=2)
    exact = scaled_dot_product_attention(case.query.double(), case.key.double(), case.value.double())
    eager = error(case.eager()[0], exact)
    for modulation in (None, Modulation(), Modulation(zeros, zeros)):
        out = replace(case, modulation=modulation).run(target.backend)[0]
        assert Verdict(error(out, exact), eager).passed


def _assert_same(got: tuple[Tensor, Tensor], wanted: tuple[Tensor, Tensor]) -> None:
    """(out, lse) alike but for the order of float32 sums."""
    for one, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def _part(one: TokenLayout, tokens: Tensor) -> TokenLayout:
    return TokenLayout(one.region[0, tokens], one.frame[0, tokens], one.num_frames)


@on_backends
@on_modulations
def test_permuting_tokens_permutes_the_output(target: Target, name: str):
    num_keys = target.many_keys
    case = make_case(
        target, num_queries=50, num_keys=num_keys, modulation=MODULATIONS[name](FRAMES),
        row_strength=torch.rand(50),
    )  # fmt: skip
    query_order, key_order = (torch.randperm(n, device=target.device) for n in (50, num_keys))
    moved = replace(
        case,
        query=case.query[:, :, query_order],
        key=case.key[:, :, key_order],
        value=case.value[:, :, key_order],
        query_layout=_part(case.query_layout, query_order),
        key_layout=_part(case.key_layout, key_order),
        row_strength=case.row_strength[query_order],
    )
    out, lse = case.run(target.backend)
    _assert_same(moved.run(target.backend), (out[:, :, query_order], lse[:, :, query_order]))


@on_backends
@on_modulations
@pytest.mark.slow
def test_renaming_regions_changes_nothing(target: Target, name: str):
    case = make_case(target, num_queries=40, kind="overlapping", modulation=MODULATIONS[name](FRAMES))
    new_bit = torch.tensor([30, 7, 0], device=target.device)
    bits = case.query_layout.region[0, :, None] >> torch.arange(3, device=target.device) & 1
    renamed = TokenLayout((bits << new_bit).sum(1), case.query_layout.frame[0], FRAMES)
    _assert_same(replace(case, query_layout=renamed).run(target.backend), case.run(target.backend))


@on_backends
@pytest.mark.parametrize("name", ["plain", "region_mask", "region_mask_leaky", "frames"])
def test_splitting_the_keys_and_merging_is_the_whole(target: Target, name: str):
    """Without strength, that is: extremes belong to the whole row."""
    case = make_case(target, num_queries=40, num_keys=90, modulation=MODULATIONS[name](FRAMES))
    outs, lses = [], []
    for tokens in torch.arange(90, device=target.device).split(31):
        key, value = case.key[:, :, tokens], case.value[:, :, tokens]
        part = replace(case, key=key, value=value, key_layout=_part(case.key_layout, tokens))
        out, lse = part.run(target.backend)
        outs.append(out)
        lses.append(lse)
    lse = torch.stack(lses).logsumexp(0)
    shares = torch.exp(torch.stack(lses) - lse).nan_to_num(0)  # rows without keys: -inf - -inf
    _assert_same(((torch.stack(outs) * shares[..., None]).sum(0), lse), case.run(target.backend))


@on_backends
@pytest.mark.parametrize("strides", ["transposed", "stepped", "expanded"])
@pytest.mark.parametrize("num_keys", [40, None], ids=["few keys", "self"])
def test_factors_with_strides(target: Target, strides: str, num_keys: int | None):
    def factor(tokens: int) -> torch.Tensor:
        if strides == "transposed":
            return torch.rand(tokens, 2, device=target.device).t()
        if strides == "stepped":
            return torch.rand(2 * tokens, device=target.device)[::2]
        return torch.rand(1, device=target.device).expand(tokens)

    case = make_case(
        target,
        num_queries=50,
        num_keys=num_keys,
        batch=2,
        modulation=MODULATIONS["videograin" if num_keys else "fame"](FRAMES),
        row_strength=factor(50),
        key_weight=factor(num_keys or 50),
    )
    check(case, target)


@on_pairs("head_dim, name", TARGETS, [20, 40, 72], ["plain", "region_mask", "fame", "fame_strength"])
@pytest.mark.slow
def test_out_without_lse(target: Target, head_dim: int, name: str):
    """Where lse is not asked for, kernels may sum the weights as rounded: out keeps the rule."""
    case = make_case(
        target, num_keys=target.many_keys, num_queries=40, head_dim=head_dim, modulation=MODULATIONS[name](FRAMES)
    )
    out = layout_attention(**vars(case), backend=target.backend)
    assert_parity(out, case.run(target.backend)[1], case)


@pytest.fixture(params=[True, False], ids=["onednn", "mkl"])
def onednn(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """All products by oneDNN, whatever the processor and however small they are, or none."""
    if request.param and not torch.backends.mkldnn.is_available():
        pytest.skip("torch was built without oneDNN")
    monkeypatch.setattr("fame_accel.bindings.products._has_avx512", lambda: request.param)
    monkeypatch.setattr("fame_accel.bindings.products.ONEDNN_WORK", 0)
    return request.param


@pytest.mark.parametrize("coarse", [False, True])
@on_pairs(
    "name, size, layouts, onednn",
    [SDPA[0], SDPA[2]],
    ["plain", "region_mask", "fame", "fame_strength", "fame_sparse", "random"],
    [2**12, 2**26],
    [None, 3],
    [True, False],
    indirect=["onednn"],
)
def test_chunks(
    target: Target, name: str, coarse: bool, size: int, layouts: int | None, onednn: bool,
    monkeypatch: pytest.MonkeyPatch,
):  # fmt: skip
    """One chunk of everything, and many of some rows of some heads; by runs of tokens, and by pairs."""
    monkeypatch.setattr("fame_accel.bindings.products.CHUNK_BYTES", size)
    monkeypatch.setattr("fame_accel.core.runs.is_coarse", lambda *_: coarse)
    other = "attend_pairwise" if coarse else "attend_runs"
    monkeypatch.setattr(f"fame_accel.bindings.sdpa_ops.{other}", lambda *_: pytest.fail(f"{other} ran"))
    check(
        make_case(
            target, batch=3, heads=3, num_queries=990, num_keys=530, kind="two", layout_batch=layouts,
            modulation=MODULATIONS[name](FRAMES), row_strength=torch.rand(3, 990),
        ),
        target,
    )  # fmt: skip


@pytest.mark.parametrize("onednn", [True], indirect=True)  # torch's own attention breaks the rule here by a little
@pytest.mark.parametrize("name", ["plain", "region_mask", "fame"])
def test_alike_weights_and_values(name: str, onednn: bool):
    """Sums of many equal terms, whose rounding errors have one sign: weights alike, or as they come."""
    case = make_case(SDPA[0], heads=2, num_queries=600, num_keys=4000, modulation=MODULATIONS[name](FRAMES))
    same = torch.full_like(case.value, 3.1)
    check(replace(case, value=same, query=torch.zeros_like(case.query)), SDPA[0])
    check(replace(case, value=same), SDPA[0])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", MODULATIONS)
def test_default_dtypes(name: str, dtype: torch.dtype):
    """What tensors are made in where nothing is said must not matter."""
    case = make_case(SDPA[0], modulation=MODULATIONS[name](FRAMES))
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        modulation = MODULATIONS[name](FRAMES) if name != "random" else case.modulation
        out, lse = replace(case, modulation=modulation).run("sdpa")
    finally:
        torch.set_default_dtype(before)
    assert_parity(out, lse, case)


@pytest.fixture
def two_threads(monkeypatch: pytest.MonkeyPatch):
    """Every call on oneDNN has chunks of its own in each of two threads."""
    monkeypatch.setattr(products, "THREADED_WORK", 0)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("onednn", [True], indirect=True)
@pytest.mark.parametrize("coarse", [False, True])
@pytest.mark.parametrize(
    "name", ["fame", *(pytest.param(name, marks=pytest.mark.slow) for name in ("plain", "region_mask", "random"))]
)
def test_threads(name: str, coarse: bool, onednn: bool, two_threads: None, monkeypatch: pytest.MonkeyPatch):
    """The result of one thread, to the bit where chunks are the same; torch's settings are left alone."""
    monkeypatch.setattr("fame_accel.core.runs.is_coarse", lambda *_: coarse)
    monkeypatch.setattr(products, "CHUNK_BYTES", 0)  # as many rows in each case, the least
    names = set()
    real = products._onednn_product
    monkeypatch.setattr(
        products, "_onednn_product", lambda *sides: names.add(threading.current_thread().name) or real(*sides)
    )
    case = make_case(SDPA[0], batch=2, heads=3, num_queries=990, num_keys=530, modulation=MODULATIONS[name](FRAMES))
    check(case, SDPA[0])
    assert names and all(thread.startswith("fame_accel") for thread in names)
    out, lse = case.run("sdpa")
    with torch.inference_mode():
        inside, _ = case.run("sdpa")
    assert torch.equal(out, inside) and torch.get_num_threads() == 2
    monkeypatch.setattr(products, "THREADED_WORK", math.inf)
    alone, alone_lse = case.run("sdpa")
    assert torch.equal(out, alone) and torch.equal(lse, alone_lse)
    seen = []
    other = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
    other.start()
    other.join()
    assert seen == [2]


@pytest.mark.parametrize("onednn", [True], indirect=True)
def test_threads_raise(onednn: bool, two_threads: None, monkeypatch: pytest.MonkeyPatch):
    def broken(*_: Tensor) -> Tensor:
        raise MemoryError("of a product")

    case = make_case(SDPA[0], heads=2, num_queries=900, num_keys=900, modulation=MODULATIONS["fame"](FRAMES))
    expected = case.run("sdpa")[0]
    with monkeypatch.context() as patched, pytest.raises(MemoryError, match="of a product"):
        patched.setattr(products, "_onednn_product", broken)
        case.run("sdpa")
    assert torch.equal(case.run("sdpa")[0], expected)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system does not fork")
@pytest.mark.parametrize("onednn", [True], indirect=True)
def test_threads_after_a_fork(onednn: bool, two_threads: None):
    """In a child, where the parent's threads are not: another process, as pytest's own must not be forked."""
    code = """
import os, torch
from fame_accel import Modulation, TokenLayout, layout_attention
from fame_accel.bindings import products
products._has_avx512, products.ONEDNN_WORK, products.THREADED_WORK = lambda: True, 0, 0
torch.set_num_threads(2)
x = torch.randn(1, 2, 600, 16)
layout = TokenLayout(torch.ones(600, dtype=torch.int32), torch.zeros(600, dtype=torch.int32), 1)
call = lambda: layout_attention(x, x, x, layout, modulation=Modulation.fame(1), backend="sdpa")
out = call()
if os.fork() == 0:
    torch.set_num_threads(1)  # OpenMP's own threads do not outlive a fork
    torch.get_num_threads = lambda: 2
    os._exit(0 if torch.equal(call(), out) else 1)
print(os.waitstatus_to_exitcode(os.wait()[1]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "0", done.stderr


@pytest.mark.parametrize("name", ["plain", "region_mask", "fame", "random"])
@pytest.mark.parametrize("size", [2**12, 2**26])
def test_where_products_go(name: str, size: int, onednn: bool, monkeypatch: pytest.MonkeyPatch):
    """Those of float32 to oneDNN where it is the faster one, unless it is switched off."""
    calls = []
    product = products._onednn_product
    monkeypatch.setattr(products, "_onednn_product", lambda *sides: calls.append(sides) or product(*sides))
    monkeypatch.setattr(products, "CHUNK_BYTES", size)
    case = make_case(SDPA[0], heads=2, num_queries=900, num_keys=900, modulation=MODULATIONS[name](FRAMES))
    case.run("sdpa")
    assert bool(calls) == onednn
    for left, right in calls:  # anything else takes a thousand times as long
        assert left.is_contiguous() and (right.is_contiguous() or right.T.is_contiguous())
    calls.clear()
    with warnings.catch_warnings(), torch.backends.mkldnn.flags(enabled=False):
        warnings.simplefilter("ignore")  # of what the flags say of other devices
        case.run("sdpa")
    assert not calls


@pytest.mark.parametrize("highest", [4 * math.log(4000 / 0.55), 4000.0], ids=["coarse", "underflow"])
@pytest.mark.parametrize("target", [t.param() for t in TRITON])
def test_rows_far_below_their_pivot(target: Target, highest: float):
    """Every key moves to the lowest logit: weights against the highest are tiny, and many, or all underflow."""
    keys = 4000
    key = torch.zeros(1, 1, keys, 16)
    key[0, 0, 0, 0] = highest
    key[0, 0, 1:, 1] = 0.1 * torch.randn(keys - 1)
    region = torch.zeros(keys, dtype=torch.int32)
    region[0] = 1
    strength = torch.ones(2, 1, 2)
    strength[0, 0, 1] = 0.99999  # not one value a region: two passes
    case = Case(
        torch.ones(1, 1, 2, 16).to(target.dtype),
        key.to(target.dtype),
        (1 + 0.1 * torch.randn(1, 1, keys, 16)).to(target.dtype),
        TokenLayout(torch.tensor([2, 2]), torch.tensor([0, 0]), 1),
        TokenLayout(torch.zeros(keys, dtype=torch.int32), torch.arange(keys) * 2 // keys, 2),
        Modulation(strength),
    )
    check(case, target)


@pytest.mark.parametrize("target", [t.param() for t in TRITON[:1]])
def test_launches_changed_after_planning(target: Target, monkeypatch: pytest.MonkeyPatch):
    """A plan is cut to the tiles of its time, and runs with them; a call without one is planned anew."""
    from fame_accel.kernels import launch_table
    from fame_accel.kernels.launch import Launch

    case = make_case(target, num_queries=20, modulation=Modulation.fame(FRAMES))
    options = dict(backend="triton", head_dim=16, dtype=target.dtype)
    plan = plan_attention(case.query_layout, case.key_layout, case.modulation, **options)
    monkeypatch.setitem(launch_table._TABLE["tiled"]["interpreter"], (256, 4), Launch(16, 16, 1, 1))
    changed = plan_attention(case.query_layout, case.key_layout, case.modulation, **options)
    assert changed.tiles.block_q == 16 != plan.tiles.block_q
    wanted = case.run("triton")
    for one in (plan, changed):
        got = layout_attention(case.query, case.key, case.value, plan=one, scale=case.scale)
        torch.testing.assert_close(got, wanted[0] if isinstance(wanted, tuple) else wanted)

"""Parity of the backends with the reference in float64, and properties that need no oracle."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from cases import (
    FRAMES,
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
    on_targets,
    text_modulation,
)

from fame_accel import Modulation, TokenLayout, layout_attention

# Modulations that between them reach every operator: grouped or few keys; chunked or tiles; tiles with exclusion.
CORE = ("plain", "fame", "region_mask")
on_core = pytest.mark.parametrize("name", CORE)


@on_targets
@on_modulations
def test_presets(target: Target, name: str):
    case = make_case(target, heads=2, modulation=MODULATIONS[name](FRAMES))
    check(replace(case, row_strength=torch.rand(target.tokens, device=target.device)), target)


@on_targets
@on_modulations
@pytest.mark.parametrize("num_keys", [77, 512, 530])
def test_keys_of_one_frame(target: Target, name: str, num_keys: int):
    row_strength = torch.rand(70)
    check(
        make_case(
            target, num_queries=70, num_keys=num_keys, text=True, modulation=text_modulation(name),
            row_strength=row_strength,
        ),
        target,
    )  # fmt: skip


@on_targets
@pytest.mark.parametrize("head_dim", [1, 16, 40, 64, 72, 80, 96, 128, 160, 256])
@pytest.mark.parametrize("keys", ["space-time", "text", "many"])
def test_head_dims(target: Target, head_dim: int, keys: str):
    modulation = Modulation.fame(FRAMES) if keys == "space-time" else text_modulation("videograin")
    lengths = {"space-time": {}, "text": {"num_keys": 77, "text": True}, "many": {"num_keys": 520, "text": True}}
    row_strength = torch.rand(40)
    check(
        make_case(
            target, num_queries=40, head_dim=head_dim, modulation=modulation, row_strength=row_strength,
            **lengths[keys],
        ),
        target,
    )  # fmt: skip


LENGTHS = [
    pytest.param(target.values[0], length, id=f"{target.id}-{length}", marks=marks)
    for target in TARGETS
    for length in (1, 63, 77, 127, 129, 1000)
    for marks in [[*target.marks, pytest.mark.slow] if (target.values[0] in TRITON and length == 1000) else target.marks]
]


@pytest.mark.parametrize("target, length", LENGTHS)
@on_core
def test_lengths(target: Target, length: int, name: str):
    check(make_case(target, num_queries=length, modulation=MODULATIONS[name](FRAMES)), target)


@on_targets
@pytest.mark.parametrize("num_queries, num_keys", [(1, 70), (70, 1), (33, 97), (20, 560)])
@on_core
def test_other_lengths_of_keys(target: Target, num_queries: int, num_keys: int, name: str):
    modulation = MODULATIONS[name](FRAMES)
    check(make_case(target, num_queries=num_queries, num_keys=num_keys, modulation=modulation), target)


@on_targets
def test_other_frames_of_keys(target: Target):
    strength, bias = torch.rand(2, FRAMES, 3), torch.randn(2, FRAMES, 3)
    key_layout = layout(65, 3)
    case = make_case(target, num_queries=40, num_keys=65, modulation=Modulation(strength, bias))
    check(replace(case, key_layout=key_layout.to(target.device)), target)


@on_targets
@pytest.mark.parametrize("kind", ["no_region", "one_region", "one_token", "overlapping", "uncovered", "highest_bit"])
@pytest.mark.parametrize("name", ["videograin", "fame", "region_mask"])
def test_regions(target: Target, kind: str, name: str):
    check(make_case(target, kind=kind, modulation=MODULATIONS[name](FRAMES)), target)


@on_targets
@pytest.mark.parametrize("value", [None, 0.0, 1.0])
@pytest.mark.parametrize("name", ["videograin", "fame", "fame_strength"])
def test_row_strength(target: Target, value: float | None, name: str):
    row_strength = None if value is None else torch.full((target.tokens,), value)
    check(make_case(target, modulation=MODULATIONS[name](FRAMES), row_strength=row_strength), target)


@on_targets
def test_row_strength_zero_turns_strength_off(target: Target):
    case = make_case(target, num_queries=65, modulation=Modulation.fame(FRAMES), row_strength=torch.zeros(65))
    unmodulated = Modulation(bias_table=case.modulation.bias_table)
    assert_parity(*case.run(target.backend), replace(case, modulation=unmodulated, row_strength=None))


@on_targets
@pytest.mark.parametrize("name", ["videograin", "fame", "random", "region_mask"])
@pytest.mark.parametrize("num_keys, text", [(77, True), (560, True), (97, False)])
def test_key_weight(target: Target, name: str, num_keys: int, text: bool):
    modulation = text_modulation(name) if text else MODULATIONS[name](FRAMES)
    weight, strength = torch.rand(num_keys), torch.rand(40)
    weight[:3] = torch.tensor([0.0, 1.0, 0.5])
    check(
        make_case(
            target, num_queries=40, num_keys=num_keys, text=text, modulation=modulation, key_weight=weight,
            row_strength=strength,
        ),
        target,
    )  # fmt: skip


@on_targets
@pytest.mark.parametrize("decay", [0.0, 50.0])
@pytest.mark.parametrize("preset", [Modulation.fame, Modulation.region_mask])
def test_decay(target: Target, decay: float, preset):
    check(make_case(target, modulation=preset(FRAMES, decay=decay)), target)


@on_targets
@pytest.mark.parametrize("strength", [None, 1.0])
@pytest.mark.parametrize("num_keys, text", [(77, True), (560, True), (65, False)])
def test_all_keys_excluded(target: Target, strength: float | None, num_keys: int, text: bool):
    """Frame 0 sees nothing, frame 1 only its own regions, whose bitset 0 shares nothing."""
    bias = torch.full((2, FRAMES, 1 if text else FRAMES), -math.inf)
    bias[1, 1] = 0
    modulation = Modulation(None if strength is None else torch.full_like(bias, strength), bias)
    out, lse = check(make_case(target, num_queries=40, num_keys=num_keys, text=text, modulation=modulation), target)
    assert not out[:, :, :20].any() and (lse[:, :, :20] == -math.inf).all()
    assert lse[:, :, 20:].isfinite().any() and (lse[:, :, 20:] == -math.inf).any()


@on_targets
@pytest.mark.parametrize("num_keys", [65, 560])
def test_everything_excluded(target: Target, num_keys: int):
    modulation = Modulation(torch.ones(2, FRAMES, FRAMES), torch.full((2, FRAMES, FRAMES), -math.inf))
    out, lse = make_case(target, num_queries=20, num_keys=num_keys, modulation=modulation).run(target.backend)
    assert not out.any() and (lse == -math.inf).all()


@on_targets
@pytest.mark.parametrize("name", ["plain", "videograin", "fame", "fame_strength", "region_mask"])
@pytest.mark.parametrize("num_keys", [70, 530])
def test_large_logits(target: Target, name: str, num_keys: int):
    """Logits of +-1e4: keys and queries are multiples of one direction, so that rows hold both ends."""
    case = make_case(target, num_queries=40, num_keys=num_keys, modulation=MODULATIONS[name](FRAMES))
    direction = torch.randn(16).sign().to(case.query)
    sizes = (torch.linspace(-1, 1, n).to(case.query)[:, None] for n in (40, num_keys))
    query, key = (50 * size * direction for size in sizes)
    case = replace(case, query=query.expand(1, 1, -1, -1), key=key.expand(1, 1, -1, -1))
    assert 9e3 < (case.scale or 0.25) * (case.query.double() @ case.key.double().mT).abs().max() < 1.1e4
    check(case, target)
    check(replace(case, row_strength=torch.rand(40, device=target.device)), target)


@on_targets
@pytest.mark.parametrize("name", ["plain", "videograin", "fame", "region_mask"])
@pytest.mark.parametrize("num_keys", [70, 530])
def test_unscaled_products_beyond_half_range(target: Target, name: str, num_keys: int):
    """<q, k> past 65504 with logits of 1e4: the scale has to come before the product leaves float32."""
    case = make_case(target, num_queries=40, num_keys=num_keys, head_dim=64, modulation=MODULATIONS[name](FRAMES))
    direction = torch.randn(64).sign().to(case.query)
    query = 36 * torch.linspace(-1, 1, 40).to(case.query)[:, None] * direction
    key = 36 * torch.linspace(-1, 1, num_keys).to(case.key)[:, None] * direction
    case = replace(case, query=query.expand(1, 1, -1, -1), key=key.expand(1, 1, -1, -1))
    assert (case.query.double() @ case.key.double().mT).abs().max() > 65504
    out, lse = case.run(target.backend)
    assert_parity(out, lse, case, eager=replace(case, query=case.query / 8, scale=1.0))


def _strided(case: Case, how: str) -> Case:
    def view(x: torch.Tensor) -> torch.Tensor:
        if how == "transposed":  # [B, N, H, D], as a projection leaves it
            return x.transpose(1, 2).contiguous().transpose(1, 2)
        if how == "head_dim_first":
            return x.transpose(2, 3).contiguous().transpose(2, 3)
        if how == "sliced":
            wide = x.new_full((x.shape[0] + 1, x.shape[1] + 1, 2 * x.shape[2] + 1, 2 * x.shape[3] + 1), math.nan)
            wide[1:, 1:, 1::2, 1::2] = x
            return wide[1:, 1:, 1::2, 1::2]
        if how == "expanded":
            return x[:1, :1].expand_as(x)
        return x[:, :, :1].expand_as(x)  # repeated_rows

    return replace(case, query=view(case.query), key=view(case.key), value=view(case.value))


@on_backends
@pytest.mark.parametrize("how", ["transposed", "head_dim_first", "sliced", "expanded", "repeated_rows"])
@pytest.mark.parametrize("name", ["plain", "videograin", "fame", "region_mask"])
def test_strides(target: Target, how: str, name: str):
    modulation = MODULATIONS[name](FRAMES)
    case = _strided(make_case(target, num_queries=40, batch=2, heads=2, head_dim=24, modulation=modulation), how)
    check(case, target)


@on_targets
@pytest.mark.parametrize("sides", ["both", "query", "key"])
@pytest.mark.parametrize("name", ["plain", "videograin", "fame", "region_mask", "random"])
def test_batched_layouts(target: Target, sides: str, name: str):
    case = make_case(target, num_queries=40, num_keys=50, batch=2, heads=2, modulation=MODULATIONS[name](FRAMES))
    query_layout = layout(40, batch=2 if sides != "key" else None, device=target.device)
    key_layout = layout(50, batch=2 if sides != "query" else None, device=target.device)
    check(replace(case, query_layout=query_layout, key_layout=key_layout), target)


@on_targets
@pytest.mark.parametrize("layout_batch", [None, 2])
@pytest.mark.parametrize("factor_batch", [None, 2])
@pytest.mark.parametrize("num_keys, weighted", [(40, True), (530, False)])
@pytest.mark.parametrize("name", ["videograin", "fame"])
def test_batched_factors(
    target: Target, layout_batch: int | None, factor_batch: int | None, num_keys: int, weighted: bool, name: str
):
    def factor(length: int) -> torch.Tensor:
        return torch.rand((length,) if factor_batch is None else (factor_batch, length), device=target.device)

    case = make_case(
        target, num_queries=35, num_keys=num_keys, batch=2, layout_batch=layout_batch,
        modulation=MODULATIONS[name](FRAMES), row_strength=factor(35), key_weight=factor(num_keys) if weighted else None,
    )  # fmt: skip
    check(case, target)


@on_targets
@pytest.mark.parametrize("layout_batch", [None, 0])
@on_modulations
def test_empty_batch(target: Target, layout_batch: int | None, name: str):
    case = make_case(target, num_queries=9, batch=0, layout_batch=layout_batch, modulation=MODULATIONS[name](FRAMES))
    out, lse = case.run(target.backend)
    assert out.shape == (0, 1, 9, 16) and lse.shape == (0, 1, 9)


@pytest.mark.parametrize("target", [*TARGETS, Target("reference", torch.float32).param()])
@on_modulations
def test_zero_keys(target: Target, name: str):
    case = make_case(target, num_queries=9, num_keys=0, modulation=MODULATIONS[name](FRAMES))
    out, lse = case.run(target.backend)
    assert out.shape == (1, 1, 9, 16) and not out.any() and (lse == -math.inf).all()


@on_targets
@on_modulations
def test_zero_queries(target: Target, name: str):
    case = make_case(target, num_queries=0, num_keys=9, modulation=MODULATIONS[name](FRAMES))
    out, lse = case.run(target.backend)
    assert out.shape == (1, 1, 0, 16) and lse.shape == (1, 1, 0)


@on_targets
@pytest.mark.parametrize("num_keys, text", [(77, True), (560, True), (65, False), (560, False)])
@pytest.mark.parametrize("strength", [0.0, 0.7])
def test_positive_bias(target: Target, num_keys: int, text: bool, strength: float):
    bias = torch.tensor([[3.0, 0.0], [-1.0, 8.0]])[:, :, None].repeat(1, 1, 1 if text else FRAMES)
    bias[..., -1] += 1.5
    modulation = Modulation(torch.full_like(bias, strength), bias)
    check(make_case(target, num_queries=40, num_keys=num_keys, text=text, modulation=modulation), target)


@on_targets
@pytest.mark.parametrize("num_keys", [65, 560])
def test_bias_beyond_half_range(target: Target, num_keys: int):
    """A finite bias excludes nothing, and what all keys share cancels, whatever its size."""
    bias = torch.tensor([-1e5, -1e5 + 8])[:, None, None].repeat(1, FRAMES, FRAMES)
    shifted = make_case(target, num_queries=40, num_keys=num_keys, modulation=Modulation(bias_table=bias))
    out, lse = shifted.run(target.backend)
    same = replace(shifted, modulation=Modulation(bias_table=bias + 1e5))
    assert_parity(out, (lse.double() + 1e5).float(), same)


@on_targets
@pytest.mark.parametrize("scale", [1e-3, 0.7, 2])
@pytest.mark.parametrize("name", ["plain", "videograin", "fame"])
def test_scale(target: Target, scale: float, name: str):
    modulation = MODULATIONS[name](FRAMES)
    check(make_case(target, num_queries=40, num_keys=530, modulation=modulation, scale=scale), target)


@on_backends
@on_modulations
def test_inputs_are_left_alone(target: Target, name: str):
    case = make_case(
        target, num_queries=40, modulation=MODULATIONS[name](FRAMES), row_strength=torch.rand(40),
        key_weight=torch.rand(40),
    )  # fmt: skip
    tensors = [x for x in vars(case).values() if isinstance(x, torch.Tensor)]
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


# Properties that need no oracle


@on_targets
@pytest.mark.parametrize("tokens", [40, 530])
def test_no_modulation_equals_sdpa(target: Target, tokens: int):
    zeros = torch.zeros(2, FRAMES, FRAMES)
    for modulation in (None, Modulation(), Modulation(zeros, zeros)):
        case = make_case(target, num_queries=40, num_keys=tokens, heads=2, modulation=modulation)
        out = case.run(target.backend)[0]
        exact = torch.nn.functional.scaled_dot_product_attention(
            case.query.double(), case.key.double(), case.value.double()
        )
        eager = case.eager()[0]
        assert (out - exact).abs().max() <= 2 * (eager - exact).abs().max() + 1e-5


def _tolerance(target: Target) -> dict[str, float]:
    step = torch.finfo(target.dtype).eps
    return dict(rtol=4 * step, atol=4 * step + 1e-6)


@on_backends
@on_modulations
@pytest.mark.parametrize("tokens", [50, 530])
def test_permuting_tokens_permutes_the_output(target: Target, name: str, tokens: int):
    case = make_case(
        target, num_queries=50, num_keys=tokens, modulation=MODULATIONS[name](FRAMES), row_strength=torch.rand(50)
    )
    out, lse = case.run(target.backend)
    for_query, for_key = (torch.randperm(n, device=target.device) for n in (50, tokens))

    def permuted(one: TokenLayout, order: torch.Tensor) -> TokenLayout:
        return TokenLayout(one.region[0, order], one.frame[0, order], one.num_frames)

    moved = replace(
        case,
        query=case.query[:, :, for_query],
        key=case.key[:, :, for_key],
        value=case.value[:, :, for_key],
        query_layout=permuted(case.query_layout, for_query),
        key_layout=permuted(case.key_layout, for_key),
        row_strength=case.row_strength[for_query],
    )
    moved_out, moved_lse = moved.run(target.backend)
    torch.testing.assert_close(moved_out, out[:, :, for_query], **_tolerance(target))
    torch.testing.assert_close(moved_lse, lse[:, :, for_query], rtol=1e-5, atol=1e-5)


@on_backends
@on_modulations
def test_renaming_regions_changes_nothing(target: Target, name: str):
    case = make_case(target, num_queries=80, kind="overlapping", modulation=MODULATIONS[name](FRAMES))
    out, lse = case.run(target.backend)
    new_place = torch.tensor([30, 7, 0], device=target.device)
    bits = case.query_layout.region[0, :, None] >> torch.arange(3, device=target.device) & 1
    renamed = TokenLayout((bits << new_place).sum(1), case.query_layout.frame[0], FRAMES)
    renamed_out, renamed_lse = replace(case, query_layout=renamed).run(target.backend)
    torch.testing.assert_close(renamed_out, out, **_tolerance(target))
    torch.testing.assert_close(renamed_lse, lse, rtol=1e-5, atol=1e-5)


@on_backends
@pytest.mark.parametrize("name", ["plain", "region_mask", "region_mask_leaky", "frames"])
def test_splitting_the_keys_and_merging_is_the_whole(target: Target, name: str):
    """Without strength: extremes belong to the whole row."""
    case = make_case(target, num_queries=40, num_keys=90, modulation=MODULATIONS[name](FRAMES))
    out, lse = case.run(target.backend)
    parts = []
    for keys in (slice(0, 31), slice(31, 90)):
        one = case.key_layout
        part = TokenLayout(one.region[0, keys], one.frame[0, keys], one.num_frames)
        parts.append(
            replace(
                case, key=case.key[:, :, keys], value=case.value[:, :, keys], key_layout=part
            ).run(target.backend)
        )  # fmt: skip
    merged_lse = torch.logaddexp(parts[0][1], parts[1][1])
    shares = [torch.exp(part_lse - merged_lse).nan_to_num(0)[..., None] for _, part_lse in parts]
    merged = sum(share * part for share, (part, _) in zip(shares, parts, strict=True))
    torch.testing.assert_close(merged_lse, lse, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(merged.to(out.dtype), out, **_tolerance(target))

"""The reference against the specification written out one number at a time."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from cases import (
    FRAMES,
    MODULATIONS,
    SHORT_NAMES,
    Case,
    Target,
    layout,
    make_case,
    on_modulations,
    random_tables,
)
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from fame_accel import Modulation, TokenLayout, layout_attention, reference

DOUBLE = Target("reference", torch.float64)
FLOATS = pytest.mark.parametrize("dtype", SHORT_NAMES, ids=SHORT_NAMES.values())


def _row(case: Case, item: int, head: int, i: int) -> tuple[list[float], float]:
    """out and lse of one query."""
    query_layout, key_layout = case.query_layout, case.key_layout or case.query_layout
    query, key, value = (x[item, head].tolist() for x in (case.query, case.key, case.value))
    scale = len(query[0]) ** -0.5 if case.scale is None else case.scale

    def of_token(values: Tensor | None, token: int) -> float:
        if values is None:
            return 1.0
        return (values if values.dim() == 1 else values[item if len(values) > 1 else 0])[token].item()

    def entry(table: Tensor | None, same: bool, j: int) -> float:
        frames = int(of_token(query_layout.frame, i)), int(of_token(key_layout.frame, j))
        return 0.0 if table is None else table[int(same), frames[0], frames[1]].item()

    modulation = case.modulation or Modulation()
    logits, biases, alike = [], [], []
    for j in range(len(key)):
        logits.append(scale * sum(a * b for a, b in zip(query[i], key[j], strict=True)))
        same = int(of_token(query_layout.region, i)) & int(of_token(key_layout.region, j)) != 0
        alike.append(same)
        biases.append(entry(modulation.bias_table, same, j))
    seen = [j for j in range(len(key)) if biases[j] > -math.inf]
    if not seen:
        return [0.0] * len(query[0]), -math.inf
    high, low = max(logits[j] for j in seen), min(logits[j] for j in seen)
    weights = {}
    for j in seen:
        strength = entry(modulation.strength_table, alike[j], j)
        strength *= of_token(case.row_strength, i) * of_token(case.key_weight, j)
        target = high if alike[j] else low
        weights[j] = math.exp(logits[j] + strength * (target - logits[j]) + biases[j])
    total = sum(weights.values())
    columns = range(len(query[0]))
    return [sum(w * value[j][d] for j, w in weights.items()) / total for d in columns], math.log(total)


def _assert_matches_loop(case: Case) -> None:
    out, lse = case.eager()
    for item in range(len(out)):
        for head in range(out.shape[1]):
            rows = [_row(case, item, head, i) for i in range(out.shape[2])]
            wanted = torch.tensor([row for row, _ in rows], dtype=torch.float64)
            wanted_lse = torch.tensor([row_lse for _, row_lse in rows], dtype=torch.float64)
            torch.testing.assert_close(out[item, head], wanted, rtol=1e-12, atol=1e-12)
            torch.testing.assert_close(lse[item, head], wanted_lse, rtol=1e-12, atol=1e-12)


def _tiny(**arguments: object) -> Case:
    return make_case(DOUBLE, num_queries=7, num_keys=9, batch=2, heads=2, head_dim=3, **arguments)


@on_modulations
@pytest.mark.parametrize("kind", ["mixed", "overlapping", "one_token"])
def test_loop(name: str, kind: str):
    case = _tiny(kind=kind, modulation=MODULATIONS[name](FRAMES))
    _assert_matches_loop(case)
    _assert_matches_loop(replace(case, row_strength=torch.rand(7), key_weight=torch.rand(9), scale=0.7))


@pytest.mark.parametrize("name", ["fame", "random"])
def test_loop_with_everything_batched(name: str):
    row_strength, key_weight = torch.rand(2, 7), torch.rand(2, 9)
    case = _tiny(modulation=MODULATIONS[name](FRAMES), row_strength=row_strength, key_weight=key_weight)
    _assert_matches_loop(replace(case, query_layout=layout(7, batch=2), key_layout=layout(9, batch=2)))
    _assert_matches_loop(replace(case, query_layout=layout(7, batch=2)))


def test_loop_with_other_frames_on_the_key_side():
    case = _tiny(modulation=random_tables(FRAMES, 4))
    _assert_matches_loop(replace(case, key_layout=layout(9, 4)))


def test_loop_with_rows_that_see_nothing():
    """Query frame 0 sees nothing; frame 1 its regions in one key frame, which alone give its extremes."""
    bias = torch.full((2, FRAMES, FRAMES), -math.inf)
    bias[1, 1, 0] = 2
    case = _tiny(modulation=Modulation(torch.rand(2, FRAMES, FRAMES), bias))
    _assert_matches_loop(case)
    assert case.eager()[1].isinf().any() and case.eager()[1].isfinite().any()


@on_modulations
def test_zero_keys(name: str):
    out, lse = make_case(DOUBLE, num_queries=7, num_keys=0, modulation=MODULATIONS[name](FRAMES)).eager()
    assert out.shape == (1, 1, 7, 16) and not out.any() and (lse == -math.inf).all()


def test_a_token_in_no_region_differs_from_itself():
    """With same-region pairs alone, a token without a region sees nothing, not even itself."""
    regions = torch.tensor([0, 1, 1])
    only = TokenLayout(regions, torch.zeros(3, dtype=torch.int32), 1)
    x = torch.randn(1, 1, 3, 4)
    lse = reference.layout_attention(x, x, x, only, modulation=Modulation.region_mask(1), return_lse=True)[1]
    assert lse[0, 0].isinf().tolist() == [True, False, False]


@FLOATS
def test_no_modulation_equals_torch(dtype: torch.dtype):
    zeros = torch.zeros(2, FRAMES, FRAMES)
    case = make_case(Target("reference", dtype), num_queries=30, num_keys=40, batch=2, heads=2)
    wanted = scaled_dot_product_attention(case.query, case.key, case.value)
    for modulation in (None, Modulation(), Modulation(zeros, zeros)):
        out = replace(case, modulation=modulation).eager()[0]
        assert out.dtype == dtype
        torch.testing.assert_close(out, wanted, rtol=0, atol=8 * torch.finfo(dtype).eps)


@FLOATS
@on_modulations
def test_low_precision_approaches_the_oracle(dtype: torch.dtype, name: str):
    modulation, row_strength = MODULATIONS[name](FRAMES), torch.rand(60)
    case = make_case(Target("reference", dtype), num_queries=60, modulation=modulation, row_strength=row_strength)
    out, lse = case.eager()
    exact, exact_lse = case.oracle()
    assert out.dtype == dtype and lse.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    tolerance = 30 * torch.finfo(dtype).eps
    torch.testing.assert_close(out.double(), exact, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(lse.double(), exact_lse, rtol=tolerance, atol=tolerance)


def test_public_name_runs_the_reference():
    case = _tiny(modulation=Modulation.fame(FRAMES))
    out, lse = layout_attention(**vars(case), return_lse=True, backend="reference")
    assert torch.equal(out, case.eager()[0]) and torch.equal(lse, case.eager()[1])
    assert torch.equal(reference.layout_attention(**vars(case)), out)

"""Modulations: the presets' tables against their formulas, equality, and what they refuse."""

from __future__ import annotations

import math

import pytest
import torch
from cases import MODULATIONS
from torch import Tensor

from fame_accel import Modulation, time_weights

F = 4
STEPS = torch.tensor([[abs(q - k) for k in range(F)] for q in range(F)], dtype=torch.float64)


def _both(weights: Tensor) -> Tensor:
    return torch.stack([weights, weights])


@pytest.mark.parametrize("rate", [0.0, 0.3, 2, 50.0])
def test_time_weights(rate: float):
    kinds = {
        "exponential": lambda step: math.exp(-rate * step),
        "gaussian": lambda step: math.exp(-((rate * step) ** 2) / 2),
        "linear": lambda step: max(0.0, 1 - rate * step),
    }
    for kind, formula in kinds.items():
        wanted = STEPS.clone().apply_(formula)
        got = time_weights(F, rate, kind)
        assert got.dtype == torch.float64
        torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-300)
    torch.testing.assert_close(time_weights(F, rate), time_weights(F, rate, "exponential"))


@pytest.mark.parametrize("rate", [0.0, 0.4, 50.0])
def test_region_mask(rate: float):
    mask = Modulation.region_mask(F, decay=rate)
    assert mask.strength_table is None and mask.frames_shape == (F, F)
    assert (mask.bias_table[0] == -math.inf).all()
    torch.testing.assert_close(mask.bias_table[1], (-rate * STEPS).float())


def test_region_mask_with_leakage():
    mask = Modulation.region_mask(F, decay=0.4, leakage=0.1)
    torch.testing.assert_close(mask.bias_table[0], (math.log(0.1) - 0.4 * STEPS).float())
    assert torch.equal(*Modulation.region_mask(F, leakage=1.0).bias_table)


def test_free_decay_table():
    weights = torch.rand(F, F, dtype=torch.float64)
    weights[0, 3] = 0
    mask = Modulation.region_mask(F, decay=weights)
    assert mask.bias_table[1, 0, 3] == -math.inf
    torch.testing.assert_close(mask.bias_table[1], weights.log().float())
    fame = Modulation.fame(F, decay=weights)
    torch.testing.assert_close(fame.bias_table, _both(weights).log().float())


def test_videograin():
    assert torch.equal(Modulation.videograin(F).strength_table, torch.ones(2, F, F))
    assert Modulation.videograin(F).bias_table is None
    assert Modulation.videograin(F, key_frames=1).strength_table.shape == (2, F, 1)


@pytest.mark.parametrize("rate", [0.1, 3.0])
def test_fame(rate: float):
    weights = torch.exp(-rate * STEPS)
    on_weights = Modulation.fame(F, decay=rate)
    on_strength = Modulation.fame(F, decay=rate, decay_on="strength")
    assert torch.equal(on_weights.strength_table, torch.ones(2, F, F))
    torch.testing.assert_close(on_weights.bias_table, _both(-rate * STEPS).float())
    torch.testing.assert_close(on_strength.strength_table, _both(weights).float())
    assert on_strength.bias_table is None or not on_strength.bias_table.any()
    assert Modulation.fame(F) == Modulation.fame(F, decay=0.1, decay_on="weights")


PATTERNS = {
    "self": [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]],
    "first": [[1, 0, 0, 0]] * 4,
    "first_previous": [[1, 0, 0, 0], [1, 0, 0, 0], [1, 1, 0, 0], [1, 0, 1, 0]],
    1: [[1, 1, 0, 0], [1, 1, 1, 0], [0, 1, 1, 1], [0, 0, 1, 1]],
    0: [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]],
    (0, 2): [[1, 0, 1, 0]] * 4,
}


@pytest.mark.parametrize("keep, kept", PATTERNS.items(), ids=str)
def test_keep_frames(keep: object, kept: list[list[int]]):
    kept = torch.tensor(kept, dtype=torch.bool)
    alone = Modulation.frames(F, keep)
    assert alone.strength_table is None
    assert torch.equal(alone.bias_table, _both(torch.zeros(F, F).masked_fill(~kept, -math.inf)))
    fame = Modulation.fame(F, decay=0.2)
    sparse = fame.keep_frames(keep)
    assert torch.equal(sparse.strength_table, fame.strength_table)
    assert torch.equal(sparse.bias_table, fame.bias_table.masked_fill(~kept, -math.inf))
    assert Modulation.frames(F, kept) == alone
    assert Modulation.videograin(F).keep_frames(keep).bias_table.isinf().equal(_both(~kept))


@pytest.mark.parametrize("keep", [[0, 2], torch.tensor([0, 2]), range(0, 3, 2)], ids=repr)
def test_keep_frames_by_index(keep: object):
    assert Modulation.frames(F, keep) == Modulation.frames(F, (0, 2))


@pytest.mark.parametrize("name", MODULATIONS)
def test_equal_by_content(name: str):
    torch.manual_seed(1)
    one = MODULATIONS[name](F) or Modulation()
    torch.manual_seed(1)
    other = MODULATIONS[name](F) or Modulation()
    assert one == other and hash(one) == hash(other) and len({one, other}) == 1
    assert repr(one).startswith("Modulation(")


def test_unequal_by_content():
    table = torch.full((2, F, F), 0.5)
    different = {
        Modulation(),
        Modulation(table),
        Modulation(bias_table=table),
        Modulation(table, table),
        Modulation(table / 2),
        Modulation(table.view(2, 2, 8)),
        Modulation(table.view(2, 8, 2)),
    }
    assert len(different) == 7
    assert Modulation() != "Modulation()" and Modulation() is not None


def test_tables_are_copies():
    table = torch.zeros(2, F, F)
    one, same = Modulation(table, table), Modulation(table, table)
    hash(one)
    table.fill_(0.5)
    assert one == same and not one.strength_table.any() and not one.bias_table.any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_tables_become_float32(dtype: torch.dtype):
    one = Modulation(torch.full((2, 1, 1), 0.25, dtype=dtype), torch.full((2, 1, 1), 3.0, dtype=dtype))
    assert one.strength_table.dtype == one.bias_table.dtype == torch.float32
    assert one == Modulation(torch.full((2, 1, 1), 0.25), torch.full((2, 1, 1), 3.0))


TABLE = torch.zeros(2, F, F)
NAN, INF = math.nan, math.inf
BAD_TABLES = {
    "strength not a tensor": (([[0.0]],), TypeError, "strength_table.*floating tensor.*list"),
    "strength integer": ((TABLE.long(),), TypeError, "strength_table.*int64"),
    "bias bool": ((None, TABLE.bool()), TypeError, "bias_table.*bool"),
    "strength of two axes": ((TABLE[0],), ValueError, r"strength_table.*\[2, Fq, Fk\].*\(4, 4\)"),
    "bias of three kinds": ((None, TABLE[[0, 1, 1]]), ValueError, r"bias_table.*\(3, 4, 4\)"),
    "bias without frames": ((None, TABLE[:, :0]), ValueError, r"bias_table.*\(2, 0, 4\)"),
    "strength above 1": ((TABLE + 1.5,), ValueError, r"strength_table.*\[0, 1\].*1.5"),
    "strength below 0": ((TABLE - 0.1,), ValueError, r"strength_table.*\[0, 1\].*-0.1"),
    "strength NaN": ((TABLE + NAN,), ValueError, "strength_table.*NaN"),
    "bias NaN": ((None, TABLE + NAN), ValueError, "bias_table.*NaN"),
    "bias infinite": ((None, TABLE + INF), ValueError, "bias_table.*inf"),
    "bias hardly finite": ((None, TABLE - 1e9), ValueError, r"bias_table must be -inf.*1e\+06.*-1e\+09"),
    "bias lowest finite": ((None, TABLE + torch.finfo(torch.float32).min), ValueError, "bias_table must be -inf"),
    "shapes differ": ((TABLE, TABLE[:, :, :1]), ValueError, r"strength_table and bias_table.*4, 4.*4, 1"),
}


@pytest.mark.parametrize("tables, kind, message", BAD_TABLES.values(), ids=BAD_TABLES)
def test_bad_tables(tables: tuple, kind: type[Exception], message: str):
    with pytest.raises(kind, match=message):
        Modulation(*tables)


BAD_CALLS = {
    "time_weights rate": (lambda: time_weights(F, -1.0), ValueError, "rate.*>= 0.*-1"),
    "time_weights rate NaN": (lambda: time_weights(F, NAN), ValueError, "rate.*nan"),
    "time_weights frames": (lambda: time_weights(0, 0.1), ValueError, "num_frames.*>= 1.*0"),
    "time_weights kind": (lambda: time_weights(F, 0.1, "cubic"), ValueError, "kind.*exponential.*cubic"),
    "fame decay": (lambda: Modulation.fame(F, decay=-1.0), ValueError, "decay.*>= 0.*-1"),
    "fame decay infinite": (lambda: Modulation.fame(F, decay=INF), ValueError, "decay.*finite.*inf"),
    "fame decay text": (lambda: Modulation.fame(F, decay="fast"), (TypeError, ValueError), "decay.*fast"),
    "fame decay shape": (lambda: Modulation.fame(F, TABLE[0, :3]), ValueError, r"decay.*\[4, 4\].*\(3, 4\)"),
    "fame decay above 1": (lambda: Modulation.fame(F, TABLE[0] + 2), ValueError, r"decay.*\[0, 1\].*2"),
    "fame decay_on": (lambda: Modulation.fame(F, decay_on="keys"), ValueError, "decay_on.*weights.*keys"),
    "fame frames": (lambda: Modulation.fame(0), ValueError, "num_frames.*0"),
    "mask leakage": (lambda: Modulation.region_mask(F, leakage=1.5), ValueError, r"leakage.*\[0, 1\].*1.5"),
    "mask leakage NaN": (lambda: Modulation.region_mask(F, leakage=NAN), ValueError, "leakage.*nan"),
    "mask decay": (lambda: Modulation.region_mask(F, decay=NAN), ValueError, "decay.*nan"),
    "videograin frames": (lambda: Modulation.videograin(1.5), ValueError, "num_frames.*1.5"),
    "videograin key_frames": (lambda: Modulation.videograin(F, 0), ValueError, "key_frames.*0"),
    "frames count": (lambda: Modulation.frames(0, 1), ValueError, "num_frames.*0"),
    "keep name": (lambda: Modulation.frames(F, "last"), ValueError, "keep.*first_previous.*last"),
    "keep window": (lambda: Modulation.frames(F, -1), ValueError, "keep.*>= 0.*-1"),
    "keep index": (lambda: Modulation.frames(F, [0, 4]), ValueError, r"keep.*\[0, 4\).*4"),
    "keep index negative": (lambda: Modulation.frames(F, [-1]), ValueError, r"keep.*\[0, 4\).*-1"),
    "keep empty": (lambda: Modulation.frames(F, []), (TypeError, ValueError), r"keep.*\[\]"),
    "keep fraction": (lambda: Modulation.frames(F, 1.5), TypeError, "keep.*1.5"),
    "keep bool": (lambda: Modulation.frames(F, True), TypeError, "keep.*True"),
    "keep table": (lambda: Modulation.frames(F, TABLE[0, :3] == 0), ValueError, r"keep.*\[4, 4\].*\(3, 4\)"),
    "keep without tables": (lambda: Modulation().keep_frames(1), ValueError, "keep_frames needs.*tables"),
}


@pytest.mark.parametrize("call, kind, message", BAD_CALLS.values(), ids=BAD_CALLS)
def test_bad_calls(call, kind: type[Exception], message: str):
    with pytest.raises(kind, match=message):
        call()

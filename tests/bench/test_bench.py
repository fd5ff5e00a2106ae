"""What `fame-accel bench` and the suites rest on: inputs, the correctness gate, providers, the protocol, the rows."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

import fame_accel as fa
from fame_accel.bench import group, memory
from fame_accel.bench.cases import FAME, PLAIN, REGION_MASK, Operation, Shape, operations
from fame_accel.bench.group import Protocol, measure
from fame_accel.bench.inputs import Inputs, make_inputs, regions_of
from fame_accel.bench.judge import Judge, reference_rows
from fame_accel.bench.providers import PROVIDERS, CannotRun, Prepared, flex_attention
from fame_accel.bench.rows import COLUMNS, append, read
from fame_accel.bench.sweep import Budget, over_frames, sweep
from fame_accel.bench.timing import Effort, interleaved

CPU = torch.device("cpu")
SMALL = (
    Shape("self", 2, 5, 4, 2, 16, batch=2),
    Shape("text", 2, 5, 4, 2, 16, text=9),
    Shape("pixels", 4, 2, 3, 2, 16, motion=True),
    Shape("halves", 2, 4, 10, 1, 16, areas=(0.6, 0.4)),
)
CASES = [(shape, operation) for shape in SMALL for operation in operations(shape)]
on_cases = pytest.mark.parametrize("shape, operation", CASES, ids=lambda item: item.name)
QUICK = Protocol(Effort(seconds=0.0, least=2), memory=False, run="now")


def whole(inputs: Inputs, dtype: torch.dtype) -> Tensor:
    tensors = (x.to(dtype) for x in (inputs.query, inputs.key, inputs.value))
    return fa.reference.layout_attention(*tensors, inputs.query_layout, inputs.key_layout, **inputs.options)


# ---- inputs and the gate


@on_cases
def test_reference_of_some_rows(shape: Shape, operation: Operation) -> None:
    inputs = make_inputs(shape, operation, CPU, torch.float32)
    chosen = torch.randperm(shape.queries)[:40]
    item = shape.items - 1
    got = reference_rows(inputs, item, 0, chosen, torch.float64)
    torch.testing.assert_close(got, whole(inputs, torch.float64)[item, 0, chosen], rtol=0, atol=1e-14)


@on_cases
def test_judge(shape: Shape, operation: Operation) -> None:
    inputs = make_inputs(shape, operation, CPU, torch.float32)
    judge, out = Judge(inputs), whole(inputs, torch.float32)
    assert judge.verdict(out).passed
    for place in ((0, 0), (-1, -1)):
        wrong = out.clone()
        wrong[place] += 1e-3
        assert not judge.verdict(wrong).passed
    assert not judge.verdict(out.where(out > out.min(), torch.nan)).passed


def test_judge_looks_at_several_heads_and_items() -> None:
    inputs = make_inputs(SMALL[2], FAME, CPU, torch.float32)
    judge, out = Judge(inputs), whole(inputs, torch.float32)
    for item in range(SMALL[2].items):
        for head in range(2):
            wrong = out.clone()
            wrong[item, head] += 1e-3
            assert not judge.verdict(wrong).passed


@on_cases
def test_active_pairs(shape: Shape, operation: Operation) -> None:
    inputs = make_inputs(shape, operation, CPU, torch.float32)
    pairs = shape.items * shape.queries * shape.keys
    if operation.hard:
        region = inputs.query_layout.region
        seen = ((region[:, :, None] & region[:, None, :]) != 0).sum() * (shape.items // len(region))
        assert inputs.active_pairs == seen <= pairs
        assert seen < pairs or shape.motion
    else:
        assert inputs.active_pairs == pairs
    assert inputs.useful_flop == 4 * inputs.active_pairs * 16 * shape.heads


def test_areas_are_shares_of_the_frame() -> None:
    region = regions_of(SMALL[3]).tokens(4, 10).region
    assert [(region == bit).float().mean().item() for bit in (1, 2)] == pytest.approx([0.6, 0.4])
    inputs = make_inputs(SMALL[3], REGION_MASK, CPU, torch.float32)
    assert inputs.active_fraction == pytest.approx(0.52)


def test_the_same_inputs_each_time() -> None:
    first, second = (make_inputs(SMALL[1], operations(SMALL[1])[1], CPU, torch.float32) for _ in range(2))
    assert torch.equal(first.query, second.query) and torch.equal(first.key_weight, second.key_weight)


# ---- providers


@pytest.fixture
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """FlexAttention by the formula it is defined by: compiling takes seconds a variant."""

    def attend(query, key, value, score_mod=None, block_mask=None, kernel_options=None):
        scores = query @ key.mT * query.shape[-1] ** -0.5
        places = torch.meshgrid(*(torch.arange(size) for size in scores.shape), indexing="ij")
        if score_mod is not None:
            scores = score_mod(scores, *places)
        if block_mask is not None:
            scores = scores.masked_fill(~block_mask, -torch.inf)
        return scores.softmax(-1) @ value

    def make_mask(mask_mod, batch, heads, queries, keys, device):
        return mask_mod(0, 0, torch.arange(queries)[:, None], torch.arange(keys)[None, :])

    by_name = {"flex_attention": attend, "create_block_mask": make_mask}
    monkeypatch.setattr(flex_attention, "compiled", lambda function, **_: by_name[function.__name__])
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    yield


@on_cases
@pytest.mark.parametrize("name", PROVIDERS)
def test_gate_of_every_provider(name: str, shape: Shape, operation: Operation, uncompiled: None) -> None:
    """Each gives the operation's result, or says why it does not."""
    inputs = make_inputs(shape, operation, CPU, torch.float32)
    try:
        prepared = PROVIDERS[name](inputs)
    except CannotRun as reason:
        assert len(str(reason)) > 5
        assert name not in ("eager", "sdpa_plain", "ours_sdpa", "compiled")
        return
    verdict = Judge(inputs).verdict(prepared.call())
    assert verdict.passed == prepared.judged or operation == PLAIN
    if prepared.replan is not None:
        prepared.replan()
        assert Judge(inputs).verdict(prepared.call()).passed
    if prepared.sort is not None:
        assert torch.equal(prepared.sort(), inputs.query)  # ordered and put back
    assert prepared.judged or name == "sdpa_plain"


def test_which_operations_have_no_provider_but_ours_and_the_formula() -> None:
    """What the table says of others: a bias cannot say a pull."""
    inputs = make_inputs(SMALL[0], FAME, CPU, torch.float32)
    for name in ("sdpa_bias", "sdpa_low_rank", "xformers", "flex", "flex_sorted"):
        with pytest.raises(CannotRun, match="extremes of (its|their) row"):
            PROVIDERS[name](inputs)


@pytest.mark.parametrize("shape", SMALL[:3], ids=lambda shape: shape.name)
def test_xformers_is_called_as_it_wants(shape: Shape, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its function, written down: [B, M, H, K], a bias [B, H, M, N] with rows of aligned length."""
    def attention(query, key, value, attn_bias=None):
        if attn_bias is not None:
            assert attn_bias.shape == (len(query), query.shape[2], query.shape[1], key.shape[1])
            assert attn_bias.stride(2) % 8 == 0
        tensors = (x.transpose(1, 2) for x in (query, key, value))
        return torch.nn.functional.scaled_dot_product_attention(*tensors, attn_mask=attn_bias).transpose(1, 2)

    monkeypatch.setitem(sys.modules, "xformers", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "xformers.ops", SimpleNamespace(memory_efficient_attention=attention))
    for operation in (PLAIN, REGION_MASK) if shape.text is None else (PLAIN,):
        inputs = make_inputs(shape, operation, CPU, torch.float32)
        assert Judge(inputs).verdict(PROVIDERS["xformers"](inputs).call()).passed


@pytest.mark.slow
def test_flex_attention_compiles() -> None:
    torch._dynamo.reset()
    inputs = make_inputs(Shape("one", 2, 8, 8, 1, 16), FAME, CPU, torch.float32)
    assert Judge(inputs).verdict(PROVIDERS["flex_three_pass"](inputs).call()).passed
    torch._dynamo.reset()


def test_too_large_for_the_memory_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fame_accel.bench.providers.dense.free_bytes", lambda device: 1000)
    inputs = make_inputs(SMALL[0], REGION_MASK, CPU, torch.float32)
    for name in ("eager", "compiled", "sdpa_bias"):
        with pytest.raises(CannotRun, match="^out of memory: .* GiB, 0 are free"):
            PROVIDERS[name](inputs)


# ---- the protocol


def test_calls_take_turns() -> None:
    told: list[str] = []
    clock = SimpleNamespace(milliseconds=lambda call: call())
    calls = {"fast": lambda: told.append("fast") or 10.0, "slow": lambda: told.append("slow") or 400.0}
    calls["once"] = lambda: told.append("once") or 30_000.0
    times = interleaved(calls, clock, Effort(seconds=1.2, least=3, most=12, patience=20.0))
    assert {name: len(taken) for name, taken in times.items()} == {"fast": 12, "slow": 3, "once": 1}
    after = told[3:]  # the first of each tells how often it may
    assert "once" not in after
    places = [place for place, name in enumerate(after) if name == "slow"]
    assert len(places) == 3 and min(b - a for a, b in zip(places, places[1:], strict=False)) >= 4


def test_rows_of_a_case() -> None:
    def wrong(inputs: Inputs) -> Prepared:
        return Prepared(lambda: torch.zeros_like(inputs.query))

    def broken(inputs: Inputs) -> Prepared:
        raise MemoryError("no\nroom")

    def unable(inputs: Inputs) -> Prepared:
        raise CannotRun("another day")

    inputs = make_inputs(SMALL[0], REGION_MASK, CPU, torch.float32)
    asked = {name: PROVIDERS[name] for name in ("eager", "sdpa_plain", "ours_sdpa", "sdpa_bias")}
    others = dict(wrong=wrong, broken=broken, unable=unable)
    found = {row["provider"]: row for row in measure(inputs, asked | others, QUICK)}
    medians = {name: float(found[name]["p50_ms"]) for name in asked}
    assert list(found) == [*asked, "wrong", "broken", "unable"]
    for name in asked:
        row = found[name]
        assert float(row["p20_ms"]) <= float(row["p50_ms"]) <= float(row["p80_ms"]) and row["repeats"] == 2
        assert float(row["eager_speedup"]) == pytest.approx(medians["eager"] / medians[name], rel=1e-2)
        assert float(row["floor_ratio"]) == pytest.approx(medians[name] / medians["sdpa_plain"], rel=1e-2)
        assert ("plan_ms" in row) == ("with_plan_ms" in row) == (name != "sdpa_plain")
    assert found["sdpa_plain"]["note"] == "plain attention, the floor" and "max_error" not in found["sdpa_plain"]
    assert found["wrong"]["note"].startswith("WRONG") and "p50_ms" not in found["wrong"]
    assert found["broken"]["note"] == "out of memory: no room" and found["unable"]["note"] == "another day"
    assert set().union(*found.values()) <= set(COLUMNS)


def test_peak_in_a_process_of_its_own() -> None:
    shape = Shape("one", 2, 16, 16, 2, 16)
    peak = memory.peak_in_process(shape, FAME, PROVIDERS["eager"], torch.float32, 1)
    if peak is None:
        pytest.skip("the system does not tell peaks of resident memory")
    dense = 4 * shape.queries**2 / 2**20  # one float32 matrix of all pairs
    assert 3 * dense < peak < 16 * dense


def test_a_killed_process_is_said() -> None:
    with pytest.raises(memory.ProcessDied, match="most likely for its memory"):
        memory.peak_in_process(SMALL[0], PLAIN, _kill, torch.float32, 1)


def _kill(inputs: Inputs) -> Prepared:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def test_a_peak_that_is_not_known_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def died(*_: object) -> float:
        raise memory.ProcessDied("ended")

    monkeypatch.setattr(group, "peak_in_process", died)
    inputs = make_inputs(SMALL[1], PLAIN, CPU, torch.float32)
    [row] = measure(inputs, {"ours_sdpa": PROVIDERS["ours_sdpa"]}, Protocol(QUICK.effort, memory=True, run="now"))
    assert row["p50_ms"] and row["note"] == "peak unknown: ended" and "peak_mib" not in row


# ---- rows


def test_rows_are_appended(tmp_path: Path) -> None:
    path = tmp_path / "new" / "rows.csv"
    append([{"provider": "a", "note": "one, two"}], path)
    append([{"provider": "b"}], path)
    assert [(row["provider"], row["note"]) for row in read(path)] == [("a", "one, two"), ("b", "")]
    with pytest.raises(ValueError, match="unknown"):
        append([{"unknown": 1}], path)
    path.write_text("other,columns\n")
    with pytest.raises(ValueError, match="other columns"):
        append([{"provider": "c"}], path)
    assert path.read_text() == "other,columns\n"


# ---- a sweep within a time


def test_shapes_over_frames() -> None:
    frames = [shape.frames for shape in over_frames(Shape("x", 12, 2, 2, 1, 16))]
    assert frames == [1, 2, 4, 8, 12]
    assert [shape.frames for shape in over_frames(Shape("x", 8, 2, 2, 1, 16))] == [1, 2, 4, 8]
    assert [shape.name for shape in over_frames(Shape("x", 1, 2, 2, 1, 16))] == ["x"]


def test_what_would_not_fit_the_time_is_left_out() -> None:
    small, large = Shape("small", 1, 4, 4, 1, 16), Shape("large", 8, 4, 4, 1, 16)
    budget = Budget(100.0, patience=3.0)
    assert budget.refusal("eager", small) is None
    budget.learn("eager", small, 100.0)
    assert budget.refusal("eager", large) is None  # 8.3 s a call, three of them
    budget.learn("eager", small, 1000.0)
    assert budget.refusal("eager", large).startswith("not measured: a call is expected to take 83 s")
    assert budget.refusal("ours_sdpa", large) is None
    asked = {name: PROVIDERS[name] for name in ("eager", "ours_sdpa")}
    eager, ours = sweep([(large, FAME)], asked, CPU, torch.float32, QUICK, budget)
    assert "p50_ms" not in eager and eager["note"].startswith("not measured") and ours["p50_ms"]
    text = Shape("text", 8, 4, 4, 1, 16, text=16 * 8)
    assert budget.expected("eager", text) == budget.expected("eager", large)  # it has no pace of its own yet
    budget.learn("eager", text, 10.0)
    assert budget.expected("eager", text) == pytest.approx(0.013)
    spent = Budget(0.0, patience=3.0)
    assert all("are spent" in row["note"] for row in sweep([(small, FAME)], asked, CPU, torch.float32, QUICK, spent))


def test_each_case_is_told_when_it_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    cases = [(Shape(name, 1, 4, 4, 1, 16), FAME) for name in ("one", "huge", "two")]

    def make(shape: Shape, *given: object) -> Inputs:
        if shape.name == "huge":
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return make_inputs(shape, *given)

    monkeypatch.setattr("fame_accel.bench.sweep.make_inputs", make)
    told: list[list] = []
    asked = {name: PROVIDERS[name] for name in ("eager", "ours_sdpa")}
    rows = sweep(cases, asked, CPU, torch.float32, QUICK, Budget(100.0, patience=3.0), told.append)
    assert sum(told, []) == rows and [len(case) for case in told] == [2, 2, 2]
    assert [bool(row.get("p50_ms")) for row in rows] == [True, True, False, False, True, True]
    assert rows[2]["note"] == "out of memory: DefaultCPUAllocator: can't allocate memory"

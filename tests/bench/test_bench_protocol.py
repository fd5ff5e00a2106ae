"""What measuring rests on: inputs, the correctness gate, providers, turns, peaks of memory, rows, a time budget."""

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
from benchmarks.active_pairs import active_pairs_of
from benchmarks.competitors import flex_attention
from benchmarks.extra_columns import add_extra_columns
from benchmarks.providers import PROVIDERS
from fame_accel.bench import memory, protocol
from fame_accel.bench.inputs import AttentionInputs, make_inputs, regions_of
from fame_accel.bench.judge import Judge, reference_rows
from fame_accel.bench.prepared import CannotRun, PreparedCall
from fame_accel.bench.protocol import Protocol, measure
from fame_accel.bench.rows import COLUMNS, append, read
from fame_accel.bench.sweep import Budget, over_frames, sweep
from fame_accel.bench.timing import Effort, interleaved
from fame_accel.bench.workload import FAME, PLAIN, REGION_MASK, AttentionOperation, LayerShape, operations
from fame_accel.core.planning import AttentionPlan

CPU = torch.device("cpu")
SHAPES = (
    LayerShape("self", 2, 5, 4, 2, 16, batch=2),
    LayerShape("text", 2, 5, 4, 2, 16, text=9),
    LayerShape("pixels", 4, 2, 3, 2, 16, motion=True),
    LayerShape("halves", 2, 4, 10, 1, 16, areas=(0.6, 0.4)),
)
CASES = [(shape, operation) for shape in SHAPES for operation in operations(shape)]
on_cases = pytest.mark.parametrize("shape, operation", CASES, ids=lambda item: item.name)
QUICK = Protocol(Effort(seconds=0.0, least=2), memory=False, run="now")


def whole(inputs: AttentionInputs, dtype: torch.dtype) -> Tensor:
    tensors = (x.to(dtype) for x in (inputs.query, inputs.key, inputs.value))
    return fa.reference.layout_attention(*tensors, inputs.query_layout, inputs.key_layout, **inputs.options)


# Inputs and the gate


@on_cases
def test_judge(shape: LayerShape, operation: AttentionOperation) -> None:
    """It samples rows as the reference has them, and a result that is wrong in one head or not finite fails."""
    inputs = make_inputs(shape, operation, CPU, torch.float32)
    item, sampled = shape.items - 1, torch.randperm(shape.queries)[:40]
    rows = reference_rows(inputs, item, 0, sampled, torch.float64)
    torch.testing.assert_close(rows, whole(inputs, torch.float64)[item, 0, sampled], rtol=0, atol=1e-14)
    judge, out = Judge(inputs), whole(inputs, torch.float32)
    assert judge.verdict(out).passed
    for item in range(shape.items):
        for head in range(shape.heads):
            wrong = out.clone()
            wrong[item, head] += 1e-3
            assert not judge.verdict(wrong).passed
    assert not judge.verdict(out.where(out > out.min(), torch.nan)).passed


@on_cases
def test_active_pairs(shape: LayerShape, operation: AttentionOperation) -> None:
    inputs = make_inputs(shape, operation, CPU, torch.float32)
    pairs = shape.items * shape.queries * shape.keys
    if not operation.excludes:
        assert active_pairs_of(inputs) == pairs
        return
    region = inputs.query_layout.region
    same = ((region[:, :, None] & region[:, None, :]) != 0).sum() * (shape.items // len(region))
    assert active_pairs_of(inputs) == same <= pairs
    assert same < pairs or shape.motion


def test_areas_are_shares_of_the_frame() -> None:
    region = regions_of(SHAPES[3]).tokens(4, 10).region
    assert [(region == bit).float().mean().item() for bit in (1, 2)] == pytest.approx([0.6, 0.4])


def test_the_same_inputs_each_time() -> None:
    first, second = (make_inputs(SHAPES[1], operations(SHAPES[1])[1], CPU, torch.float32) for _ in range(2))
    assert torch.equal(first.query, second.query) and torch.equal(first.key_weight, second.key_weight)


# Providers


@pytest.fixture
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """FlexAttention by the formula it is defined by: compiling takes seconds a variant."""

    def attend(query, key, value, score_mod=None, block_mask=None, kernel_options=None):
        scores = query @ key.mT * query.shape[-1] ** -0.5
        indices = torch.meshgrid(*(torch.arange(size) for size in scores.shape), indexing="ij")
        if score_mod is not None:
            scores = score_mod(scores, *indices)
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
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name == "ours_triton" else name for name in PROVIDERS]
)
def test_every_provider_passes_the_gate(
    name: str, shape: LayerShape, operation: AttentionOperation, uncompiled: None
) -> None:
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


@pytest.mark.parametrize("name", ["sdpa_bias", "sdpa_low_rank", "xformers", "flex", "flex_sorted"])
def test_a_bias_cannot_express_row_extremes(name: str) -> None:
    """What the README's table leaves empty for others."""
    with pytest.raises(CannotRun, match="extremes of (its|their) row"):
        PROVIDERS[name](make_inputs(SHAPES[0], FAME, CPU, torch.float32))


@pytest.mark.parametrize("shape", SHAPES[:3], ids=lambda shape: shape.name)
def test_xformers_gets_its_layout(shape: LayerShape, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in with its conventions: [B, M, H, K], and a bias [B, H, M, N] with rows of aligned length."""

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
    inputs = make_inputs(LayerShape("one", 2, 8, 8, 1, 16), FAME, CPU, torch.float32)
    assert Judge(inputs).verdict(PROVIDERS["flex_three_pass"](inputs).call()).passed
    torch._dynamo.reset()


def test_matrices_too_large_for_the_memory_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fame_accel.bench.prepared.free_bytes", lambda device: 1000)
    inputs = make_inputs(SHAPES[0], REGION_MASK, CPU, torch.float32)
    for name in ("eager", "compiled", "sdpa_bias"):
        with pytest.raises(CannotRun, match="^out of memory: .* GiB, 0 are free"):
            PROVIDERS[name](inputs)


# The protocol


def test_calls_take_turns() -> None:
    order: list[str] = []
    clock = SimpleNamespace(milliseconds=lambda call: call())
    calls = {"fast": lambda: order.append("fast") or 10.0, "slow": lambda: order.append("slow") or 400.0}
    calls["once"] = lambda: order.append("once") or 30_000.0
    times = interleaved(calls, clock, Effort(seconds=1.2, least=3, most=12, patience=20.0))
    assert {name: len(taken) for name, taken in times.items()} == {"fast": 12, "slow": 3, "once": 1}
    repeats = order[3:]  # the first of each tells how often it may be repeated
    assert "once" not in repeats
    positions = [position for position, name in enumerate(repeats) if name == "slow"]
    assert len(positions) == 3 and min(b - a for a, b in zip(positions, positions[1:], strict=False)) >= 4


def test_rows_of_a_case() -> None:
    """Those that are right are timed; those that are wrong, fail or cannot run have a note alone."""
    called: list[str] = []

    def wrong(inputs: AttentionInputs) -> PreparedCall:
        return PreparedCall(lambda: called.append("wrong") or torch.zeros_like(inputs.query))

    def broken(inputs: AttentionInputs) -> PreparedCall:
        raise MemoryError("no\nroom")

    def unable(inputs: AttentionInputs) -> PreparedCall:
        raise CannotRun("another day")

    inputs = make_inputs(SHAPES[0], REGION_MASK, CPU, torch.float32)
    asked = {name: PROVIDERS[name] for name in ("eager", "sdpa_plain", "ours_sdpa", "sdpa_bias")}
    others = dict(wrong=wrong, broken=broken, unable=unable)
    rows = {row["provider"]: row for row in measure(inputs, asked | others, QUICK, add_extra_columns)}
    medians = {name: float(rows[name]["p50_ms"]) for name in asked}
    assert list(rows) == [*asked, "wrong", "broken", "unable"]
    for name in asked:
        row = rows[name]
        assert float(row["p20_ms"]) <= float(row["p50_ms"]) <= float(row["p80_ms"]) and row["repeats"] == 2
        assert float(row["eager_speedup"]) == pytest.approx(medians["eager"] / medians[name], rel=1e-2)
        assert float(row["floor_ratio"]) == pytest.approx(medians[name] / medians["sdpa_plain"], rel=1e-2)
        assert ("plan_ms" in row) == ("with_plan_ms" in row) == ("tflops" in row) == (name != "sdpa_plain")
        assert 0 < float(row["active_fraction"]) < 1
    assert rows["sdpa_plain"]["note"] == "plain attention, the floor" and "max_error" not in rows["sdpa_plain"]
    assert rows["wrong"]["note"].startswith("WRONG") and "p50_ms" not in rows["wrong"] and called == ["wrong"]
    assert rows["broken"]["note"] == "out of memory: no room" and rows["unable"]["note"] == "another day"
    assert set().union(*rows.values()) <= set(COLUMNS)


def test_peak_in_a_process_of_its_own() -> None:
    shape = LayerShape("one", 2, 16, 16, 2, 16)
    peak = memory.peak_in_process(shape, FAME, PROVIDERS["eager"], torch.float32)
    if peak is None:
        pytest.skip("the system does not tell peaks of resident memory")
    dense = 4 * shape.queries**2 / 2**20  # one float32 matrix of all pairs
    assert 3 * dense < peak < 16 * dense
    with pytest.raises(memory.ProcessDied, match="most likely for its memory"):
        memory.peak_in_process(SHAPES[0], PLAIN, _kill, torch.float32)


def _kill(inputs: AttentionInputs) -> PreparedCall:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def test_an_unknown_peak_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def died(*_: object) -> float:
        raise memory.ProcessDied("ended")

    monkeypatch.setattr(protocol, "peak_in_process", died)
    inputs = make_inputs(SHAPES[1], PLAIN, CPU, torch.float32)
    [row] = measure(inputs, {"ours_sdpa": PROVIDERS["ours_sdpa"]}, Protocol(QUICK.effort, memory=True, run="now"))
    assert row["p50_ms"] and row["note"] == "peak unknown: ended" and "peak_mib" not in row


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


# A sweep within a time


def test_shapes_over_frames() -> None:
    for frames, expected in ((12, [1, 2, 4, 8, 12]), (8, [1, 2, 4, 8]), (1, [1])):
        shapes = over_frames(LayerShape("x", frames, 2, 2, 1, 16))
        assert [shape.frames for shape in shapes] == expected and shapes[-1].name == "x"


def test_what_would_not_fit_the_time_is_left_out() -> None:
    small, large = LayerShape("small", 1, 4, 4, 1, 16), LayerShape("large", 8, 4, 4, 1, 16)
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
    text = LayerShape("text", 8, 4, 4, 1, 16, text=16 * 8)
    assert budget.expected("eager", text) == budget.expected("eager", large)  # it has no pace of its own yet
    budget.learn("eager", text, 10.0)
    assert budget.expected("eager", text) == pytest.approx(0.013)
    spent = Budget(0.0, patience=3.0)
    assert all("are spent" in row["note"] for row in sweep([(small, FAME)], asked, CPU, torch.float32, QUICK, spent))


def test_each_case_is_reported_when_it_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    cases = [(LayerShape(name, 1, 4, 4, 1, 16), FAME) for name in ("one", "huge", "two")]

    def make(shape: LayerShape, *arguments: object) -> AttentionInputs:
        if shape.name == "huge":
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return make_inputs(shape, *arguments)

    monkeypatch.setattr("fame_accel.bench.sweep.make_inputs", make)
    reported: list[list] = []
    asked = {name: PROVIDERS[name] for name in ("eager", "ours_sdpa")}
    rows = sweep(cases, asked, CPU, torch.float32, QUICK, Budget(1e6, patience=3.0), reported.append)
    assert sum(reported, []) == rows and [len(case) for case in reported] == [2, 2, 2]
    assert [bool(row.get("p50_ms")) for row in rows] == [True, True, False, False, True, True]
    assert rows[2]["note"] == "out of memory: DefaultCPUAllocator: can't allocate memory"


# A whole network


@pytest.mark.slow
def test_network() -> None:
    pytest.importorskip("diffusers")
    from benchmarks.network import Network, measure_network
    from fame_accel.demo.pipeline import random_pipeline

    network = Network(random_pipeline().unet, "toy")
    rows = {row["provider"]: row for row in measure_network(network, "denoising_step", 2, 32, QUICK)}
    assert list(rows) == ["eager", "sdpa_plain", "ours_triton", "ours_sdpa"]
    for name in ("eager", "ours_sdpa", "sdpa_plain"):
        assert float(rows[name]["p50_ms"]) > 0 and rows[name]["eager_speedup"]
    assert 0 < float(rows["ours_sdpa"]["max_error"]) < 1e-3 and "max_error" not in rows["sdpa_plain"]
    assert network.unet.dtype == torch.float32 and not hasattr(network.unet.mid_block.attentions[0], "state")


@pytest.mark.slow
def test_a_wrong_network_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("diffusers")
    from benchmarks.network import Network, measure_network
    from fame_accel.adapter import processors
    from fame_accel.demo.pipeline import random_pipeline

    right = processors.run_plan

    def wrong(plan: AttentionPlan, *arguments: object) -> tuple[Tensor, Tensor]:
        out, lse = right(plan, *arguments)
        return out * (1.1 if plan.backend == "sdpa" else 1), lse

    monkeypatch.setattr(processors, "run_plan", wrong)
    measured = measure_network(Network(random_pipeline().unet, "toy"), "unet_block", 2, 64, QUICK)
    rows = {row["provider"]: row for row in measured}
    assert rows["ours_sdpa"]["note"].startswith("WRONG") and "p50_ms" not in rows["ours_sdpa"]
    assert rows["eager"]["p50_ms"]

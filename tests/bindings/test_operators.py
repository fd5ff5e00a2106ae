"""The operators under torch.library.opcheck and torch.compile, and the caching of plans."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
from cases import FRAMES, GPU, MODULATIONS, SDPA, TRITON, Case, Target, layout, make_case, on_backends
from torch import Tensor

from fame_accel import Modulation, bindings, layout_attention
from fame_accel.core import attention

OPERATORS = [
    *("tile_attention", "few_keys_attention", "short_sequences_attention"),
    *("grouped_attention", "chunked_attention"),
]


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def _reaching(operator: str, target: Target) -> list[Case]:
    """Cases that the public function sends to the operator."""
    factors = dict(row_strength=torch.rand(8), key_weight=torch.rand(8))
    batch = 4 if operator == "short_sequences_attention" else 2
    common = dict(target=target, num_queries=8, batch=batch, kind="two")
    plain, time = make_case(**common), make_case(**common, modulation=Modulation.fame(FRAMES))
    weighted = make_case(**common, modulation=Modulation.videograin(FRAMES), **factors)
    if operator == "grouped_attention":
        row_strength = torch.rand(8)
        fame = Modulation.fame(FRAMES)
        many = make_case(**common, num_keys=520, modulation=fame, row_strength=row_strength)
        return [plain, many]
    if operator == "tile_attention":
        return [time, replace(time, query_layout=layout(8, batch=2, device=target.device))]
    return [plain if operator == "few_keys_attention" else time, weighted]


ON_OPERATORS = [
    pytest.param(name, *param.values, id=f"{name}-{param.id}", marks=param.marks)
    for name, targets in zip(OPERATORS, [TRITON, TRITON, TRITON, SDPA, SDPA], strict=True)
    for param in (
        targets[0].param(),
        next(t for t in GPU if t.backend == targets[0].backend).param(),
    )
]


@pytest.mark.parametrize("operator, target", ON_OPERATORS)
def test_opcheck(operator: str, target: Target, monkeypatch: pytest.MonkeyPatch):
    function, calls = getattr(bindings, operator), []
    monkeypatch.setattr(bindings, operator, lambda *given: calls.append(given) or function(*given))
    one, other = _reaching(operator, target)
    one.run(target.backend)
    replace(other, query=other.query.mT.contiguous().mT).run(target.backend)
    assert len(calls) == 2
    for arguments in calls:
        torch.library.opcheck(function, arguments)


def _step(case: Case, query: Tensor, row_strength: Tensor, backend: str) -> tuple[Tensor, Tensor]:
    out, lse = layout_attention(
        query * 2, case.key, case.value, case.query_layout, case.key_layout, case.modulation,
        row_strength=row_strength.clamp(max=0.9), key_weight=case.key_weight, scale=case.scale, return_lse=True,
        backend=backend,
    )  # fmt: skip
    return out + 1, lse


def _assert_compiles(target: Target, compiler: str, name: str) -> None:
    """Whole graph, for two layouts and two modulations of the same shapes, as eager."""

    def make(modulation: Modulation | None) -> Case:
        return make_case(target, num_queries=24, num_keys=30, modulation=modulation)

    compiled = torch.compile(_step, fullgraph=True, backend=compiler)
    row_strength = torch.rand(24, device=target.device)
    first, other = make(MODULATIONS[name](FRAMES)), make(MODULATIONS[name](FRAMES))
    cases = [first, replace(first, query_layout=other.query_layout, key_layout=other.key_layout), first]
    cases.append(replace(first, modulation=Modulation.region_mask(FRAMES, 0.7, leakage=0.5)))
    results = []
    for case in cases:
        wanted = _step(case, first.query, row_strength, target.backend)
        got = compiled(case, first.query, row_strength, target.backend)
        for one, two in zip(got, wanted, strict=True):
            torch.testing.assert_close(one, two)
            assert one.stride() == two.stride()
        results.append(got[0])
    assert name == "plain" or not torch.allclose(results[0], results[1])
    assert not torch.allclose(results[0], results[3])


@on_backends
@pytest.mark.parametrize("compiler", ["eager", "aot_eager"])
@pytest.mark.parametrize("name", ["plain", "videograin", "fame"])
def test_compile(target: Target, compiler: str, name: str):
    _assert_compiles(target, compiler, name)


@on_backends
@pytest.mark.slow
def test_compile_with_inductor(target: Target):
    _assert_compiles(target, "inductor", "fame")


@on_backends
def test_new_strengths_do_not_recompile(target: Target):
    """A schedule is a tensor: its steps share one graph."""
    case = make_case(target, num_queries=24, modulation=Modulation.fame(FRAMES))
    compiled = torch.compile(_step, fullgraph=True, backend="eager")
    compiled(case, case.query, torch.rand(24, device=target.device), target.backend)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for _ in range(3):
            row_strength = torch.rand(24, device=target.device)
            got = compiled(case, case.query, row_strength, target.backend)
            torch.testing.assert_close(got, _step(case, case.query, row_strength, target.backend))


def test_strength_out_of_range_raises_when_compiled():
    case = make_case(SDPA[0], num_queries=24, modulation=Modulation.fame(FRAMES))
    compiled = torch.compile(_step, fullgraph=True, backend="eager")
    with pytest.raises(RuntimeError, match=r"row_strength must lie in \[0, 1\]"):
        compiled(case, case.query, torch.full((24,), -0.5), "sdpa")


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> Counter:
    """How often each kind of plan was built."""
    counts: Counter = Counter()

    def counted(name: str, function: Callable) -> Callable:
        def count(*arguments: object) -> object:
            counts[name] += 1
            return function(*arguments)

        return count

    for name in ("tile_plan", "group_plan", "merge_frames"):
        monkeypatch.setattr(attention, name, counted(name, getattr(attention, name)))
    return counts


on_cpu_backends = pytest.mark.parametrize("target", [SDPA[0].param(), TRITON[0].param()])


@on_cpu_backends
def test_plans_are_built_once(target: Target, built: Counter):
    """Heads, layers, steps and equal modulations share a plan; another key layout does not."""
    plan = "tile_plan" if target.backend == "triton" else "group_plan"
    modulations = [Modulation.region_mask(FRAMES, 0.3) for _ in range(2)]
    case = make_case(target, num_queries=20)
    for modulation in modulations:
        for _ in range(2):
            replace(case, modulation=modulation, query=torch.randn_like(case.query)).run(target.backend)
    assert built == {plan: 1, "merge_frames": 1}
    replace(case, modulation=modulations[0], key_layout=layout(20)).run(target.backend)
    assert built[plan] == 2


@on_cpu_backends
def test_compiled_code_builds_plans_once(target: Target, built: Counter):
    case = make_case(target, num_queries=24, modulation=Modulation.region_mask(FRAMES, 0.3))
    compiled = torch.compile(_step, fullgraph=True, backend="eager")
    for _ in range(3):
        compiled(case, case.query, torch.rand(24), target.backend)
    assert set(built.values()) == {1}

"""The operators under torch.library.opcheck, and the caching of plans."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
from cases import FRAMES, GPU, SDPA, TRITON, Case, Target, layout, make_case

from fame_accel import Modulation, bindings, plan_attention
from fame_accel.core import planning
from fame_accel.core.dispatch import run_plan

OPERATORS = ["tile_attention", "few_keys_attention", "short_sequences_attention", "sdpa_attention"]


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
    if operator == "sdpa_attention":  # by runs with and without strength, and pair by pair
        fame = Modulation.fame(FRAMES)
        many = make_case(**common, num_keys=520, modulation=fame, row_strength=torch.rand(8))
        return [plain, weighted, many]
    if operator == "tile_attention":
        return [time, replace(time, query_layout=layout(8, batch=2, device=target.device))]
    return [plain if operator == "few_keys_attention" else time, weighted]


ON_OPERATORS = [
    pytest.param(
        name,
        *param.values,
        id=f"{name}-{param.id}",
        marks=[*param.marks, pytest.mark.slow] if name == "tile_attention" else param.marks,
    )
    for name, targets in zip(OPERATORS, [TRITON, TRITON, TRITON, SDPA], strict=True)
    for param in (
        targets[0].param(),
        next(t for t in GPU if t.backend == targets[0].backend).param(),
    )
]


@pytest.mark.parametrize("operator, target", ON_OPERATORS)
def test_opcheck(operator: str, target: Target, monkeypatch: pytest.MonkeyPatch):
    function, calls = getattr(bindings, operator), []
    monkeypatch.setattr(bindings, operator, lambda *given: calls.append(given) or function(*given))
    cases = _reaching(operator, target)
    for case in [*cases[:-1], replace(cases[-1], query=cases[-1].query.mT.contiguous().mT)]:
        case.run(target.backend)
    assert len(calls) == len(cases)
    for arguments in calls:
        torch.library.opcheck(function, arguments)
        batch_is_shared = all(len(tensor) == 1 for tensor in arguments[3:6])
        if batch_is_shared:
            plain = {"plain_items": torch.tensor([1])}  # their lse is NaN, which the check of outputs calls unequal
            torch.library.opcheck(function, arguments, plain, test_utils=("test_schema", "test_faketensor"))


@pytest.mark.parametrize("plain", [0, 1, 2])
@pytest.mark.parametrize("target", [SDPA[0].param(), TRITON[0].param()])
def test_plain_items(target: Target, plain: int):
    """The first items get plain attention, the others the operation."""
    case = make_case(target, num_queries=8, batch=2, modulation=Modulation.fame(FRAMES))
    plan = plan_attention(
        case.query_layout, case.key_layout, case.modulation, backend=target.backend, head_dim=16, dtype=target.dtype
    )
    tensors = (case.query, case.key, case.value)
    out, lse = run_plan(plan, *tensors, None, None, 0.25, True, torch.tensor([plain]))
    wanted, wanted_lse = run_plan(plan, *tensors, None, None, 0.25, True)
    plainly = torch.nn.functional.scaled_dot_product_attention(*tensors, scale=0.25)
    torch.testing.assert_close(out, torch.cat([plainly[:plain], wanted[plain:]]))
    assert torch.equal(lse[plain:], wanted_lse[plain:]) and lse[:plain].isnan().all()
    assert out.stride() == case.query.stride()


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> Counter:
    """How often each kind of plan was built."""
    counts: Counter = Counter()

    def counted(name: str, function: Callable) -> Callable:
        def count(*arguments: object) -> object:
            counts[name] += 1
            return function(*arguments)

        return count

    for name in ("tile_plan", "run_plan", "merge_frames"):
        monkeypatch.setattr(planning, name, counted(name, getattr(planning, name)))
    return counts


on_cpu_backends = pytest.mark.parametrize("target", [SDPA[0].param(), TRITON[0].param()])


@on_cpu_backends
def test_plans_are_built_once(target: Target, built: Counter):
    """Heads, layers, steps and equal modulations share a plan; another key layout does not."""
    plan = "tile_plan" if target.backend == "triton" else "run_plan"
    modulations = [Modulation.region_mask(FRAMES, 0.3) for _ in range(2)]
    case = make_case(target, num_queries=20)
    for modulation in modulations:
        for _ in range(2):
            replace(case, modulation=modulation, query=torch.randn_like(case.query)).run(target.backend)
    assert built == {plan: 1, "merge_frames": 1}
    replace(case, modulation=modulations[0], key_layout=layout(20)).run(target.backend)
    assert built[plan] == 2

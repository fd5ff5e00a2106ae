"""Calls that are compiled, exported, traced, batched by vmap or differentiated, and calls with a plan."""

from __future__ import annotations

import gc
import io
import pickle
import threading
import weakref
from collections.abc import Iterator

import pytest
import torch
import torch._dynamo.testing
from cases import SDPA, TRITON
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from fame_accel import AttentionPlan, Modulation, TokenLayout, layout_attention, plan_attention

FRAMES, TOKENS = 3, 12
on_backends = pytest.mark.parametrize(
    "backend", ["sdpa", pytest.param("triton", marks=pytest.mark.slow), "reference"]
)  # triton in the interpreter


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def new_layout(seed: int = 0) -> TokenLayout:
    """Random regions; of seed 0 one region alone, whose plan has the least of everything."""
    bits = torch.randint(1 if seed else 0, 4 if seed else 1, (TOKENS,), generator=torch.manual_seed(seed))
    return TokenLayout(bits, torch.arange(TOKENS) * FRAMES // TOKENS, FRAMES)


@pytest.fixture
def query() -> Tensor:
    return torch.randn(1, 2, TOKENS, 16)


def attend(x: Tensor, layout: TokenLayout | None, modulation: Modulation | None, backend: str, **options) -> Tensor:
    return layout_attention(x * 1.0, x, x, layout, modulation=modulation, backend=backend, **options)


def test_factors_of_all_items_of_a_batch_and_of_each():
    query, layout, modulation = torch.randn(3, 2, TOKENS, 16), new_layout(1), Modulation.fame(FRAMES, 0.2)
    compiled = torch.compile(attend, fullgraph=True, backend="eager")
    for shape in ((TOKENS,), (3, TOKENS)):
        factors = {"row_strength": torch.rand(shape), "key_weight": torch.rand(shape)}
        wanted = attend(query, layout, modulation, "sdpa", **factors)
        torch.testing.assert_close(compiled(query, layout, modulation, "sdpa", **factors), wanted)


@on_backends
@pytest.mark.parametrize("compiler", ["eager", "aot_eager"])
def test_new_masks_and_modulations_share_compiled_code(query: Tensor, backend: str, compiler: str):
    counter = torch._dynamo.testing.CompileCounterWithBackend(compiler)
    compiled = torch.compile(attend, fullgraph=True, backend=counter)
    strength = torch.rand(TOKENS)
    for number in range(4):
        layout, decay = new_layout(number // 2), 0.1 * (number // 3)
        got = compiled(query, layout, Modulation.fame(FRAMES, decay), backend, row_strength=strength)
        modulation = Modulation.fame(FRAMES, decay)
        torch.testing.assert_close(got, attend(query, layout, modulation, backend, row_strength=strength))
    assert counter.frame_count == 1


def test_ten_equal_modulations_are_one_graph(query: Tensor):
    counter = torch._dynamo.testing.CompileCounter()
    compiled = torch.compile(attend, fullgraph=True, backend=counter)
    layout = new_layout(1)
    for _ in range(10):
        compiled(query, layout, Modulation.fame(FRAMES), "sdpa")
    assert counter.frame_count == 1


@on_backends
def test_plans_of_other_masks_share_compiled_code(query: Tensor, backend: str):
    """Whatever their numbers of runs, tiles and pairs are, from the first plan on."""

    def step(x: Tensor, plan, strength: Tensor) -> Tensor:
        return layout_attention(x * 1.0, x, x, plan=plan, row_strength=strength)

    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(step, fullgraph=True, backend=counter)
    modulation = Modulation.region_mask(FRAMES, 0.3, leakage=0.2)
    for seed in range(12 if backend == "sdpa" else 4):
        plan = plan_attention(
            new_layout(seed), modulation=modulation, backend=backend, head_dim=16, dtype=torch.float32
        )
        strength = torch.rand(TOKENS)
        torch.testing.assert_close(compiled(query, plan, strength), step(query, plan, strength))
    assert counter.frame_count == 1


@pytest.mark.slow
def test_inductor(query: Tensor):
    compiled = torch.compile(attend, fullgraph=True)
    for seed in (1, 2):
        layout, modulation = new_layout(seed), Modulation.fame(FRAMES)
        torch.testing.assert_close(
            compiled(query, layout, modulation, "sdpa"), attend(query, layout, modulation, "sdpa")
        )


@on_backends
def test_modulation_made_in_compiled_code(query: Tensor, backend: str):
    layout = new_layout(1)

    def step(x: Tensor) -> Tensor:
        return attend(x, layout, Modulation.fame(FRAMES), backend)

    torch.testing.assert_close(torch.compile(step, fullgraph=True, backend="eager")(query), step(query))


def test_strength_out_of_range_raises_when_compiled(query: Tensor):
    compiled = torch.compile(attend, fullgraph=True, backend="eager")
    bad = torch.full((TOKENS,), -0.5)
    with pytest.raises(RuntimeError, match=r"row_strength must lie in \[0, 1\]"):
        compiled(query, new_layout(1), Modulation.fame(FRAMES), "sdpa", row_strength=bad)


class Layer(torch.nn.Module):
    """Attention that holds its layout, which no call has used yet."""

    def __init__(self, backend: str) -> None:
        super().__init__()
        self.layout, self.modulation, self.backend = new_layout(1), Modulation.fame(FRAMES), backend

    def forward(self, x: Tensor) -> Tensor:
        return attend(x, self.layout, self.modulation, self.backend)


@on_backends
@pytest.mark.parametrize("strict", [False, True])
def test_export(query: Tensor, backend: str, strict: bool):
    layer = Layer(backend)
    exported = torch.export.export(layer, (query,), strict=strict)
    other = torch.randn_like(query)
    torch.testing.assert_close(exported.module()(other), layer(other))


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_exported_with_a_plan_as_input_and_saved(query: Tensor):
    class Planned(torch.nn.Module):
        def forward(self, x: Tensor, plan) -> Tensor:
            return layout_attention(x, x, x, plan=plan)

    plans = [plan_attention(new_layout(seed), modulation=Modulation.fame(FRAMES), backend="sdpa") for seed in (1, 1)]
    file = io.BytesIO()
    torch.export.save(torch.export.export(Planned(), (query, plans[0])), file)
    file.seek(0)
    loaded = torch.export.load(file).module()
    torch.testing.assert_close(loaded(query, plans[1]), Planned()(query, plans[1]))


@on_backends
def test_fake_tensors(query: Tensor, backend: str):
    layout, modulation = new_layout(1), Modulation.fame(FRAMES)
    plan = plan_attention(layout, modulation=modulation, backend=backend)
    with FakeTensorMode():
        x = torch.empty(query.shape)
        fake_layout = TokenLayout(torch.ones(TOKENS).int(), torch.zeros(TOKENS).int(), FRAMES)
        calls = [
            layout_attention(x, x, x, layout, modulation=modulation, backend=backend, return_lse=True),
            layout_attention(x, x, x, plan=plan, return_lse=True),
            layout_attention(
                x, x, x, fake_layout, modulation=Modulation.fame(FRAMES), row_strength=torch.ones(TOKENS),
                backend=backend, return_lse=True,
            ),
        ]  # fmt: skip
    for out, lse in calls:
        assert out.shape == query.shape and lse.shape == query.shape[:3] and lse.dtype == torch.float32


def test_meta_device(query: Tensor):
    x, nothing = query.to("meta"), torch.zeros(TOKENS, dtype=torch.int32, device="meta")
    out = layout_attention(x, x, x, TokenLayout(nothing, nothing, FRAMES), modulation=Modulation.fame(FRAMES))
    assert out.is_meta and out.shape == x.shape


@on_backends
@pytest.mark.parametrize("mode", ["real", "fake", "symbolic"])
@pytest.mark.parametrize("inside", [False, True], ids=["modulation outside", "modulation inside"])
def test_make_fx(query: Tensor, backend: str, mode: str, inside: bool):
    layout, modulation = new_layout(1), Modulation.fame(FRAMES)

    def step(x: Tensor) -> Tensor:
        return attend(x, layout, Modulation.fame(FRAMES) if inside else modulation, backend)

    traced = make_fx(step, tracing_mode=mode)(query)
    other = torch.randn_like(query)
    torch.testing.assert_close(traced(other), step(other))


@on_backends
@pytest.mark.filterwarnings("ignore")
def test_jit_trace(query: Tensor, backend: str):
    layer = Layer(backend)
    traced = torch.jit.trace(layer, (query,), check_trace=False)
    other = torch.randn_like(query)
    torch.testing.assert_close(traced(other), layer(other))


@on_backends
@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_vmap(backend: str):
    layout, modulation = new_layout(1), Modulation.fame(FRAMES)
    queries = torch.randn(2, 1, 2, TOKENS, 16)
    strengths, weights = torch.rand(2, TOKENS), torch.rand(2, TOKENS)

    def of_query(x: Tensor) -> Tensor:
        return attend(x, layout, modulation, backend)

    def of_factors(strength: Tensor, weight: Tensor) -> Tensor:
        return attend(queries[0], layout, modulation, backend, row_strength=strength, key_weight=weight)

    torch.testing.assert_close(torch.func.vmap(of_query)(queries), torch.stack([of_query(x) for x in queries]))
    wanted = torch.stack([of_factors(*factors) for factors in zip(strengths, weights, strict=True)])
    torch.testing.assert_close(torch.func.vmap(of_factors)(strengths, weights), wanted)
    with pytest.raises(ValueError, match=r"row_strength must lie in \[0, 1\]"):
        torch.func.vmap(of_factors)(strengths + 1, weights)


@on_backends
@pytest.mark.parametrize("name", ["query", "key", "value", "row_strength", "key_weight"])
def test_forward_mode_derivatives_are_refused(query: Tensor, backend: str, name: str):
    layout, modulation = new_layout(1), Modulation.fame(FRAMES)
    factor = torch.rand(TOKENS)

    def step(x: Tensor) -> Tensor:
        arguments = {"query": query, "key": query, "value": query, name: x}
        return layout_attention(**arguments, query_layout=layout, modulation=modulation, backend=backend)

    x = factor if name in ("row_strength", "key_weight") else query
    with pytest.raises(RuntimeError, match=f"{name} carries a tangent of forward-mode AD.*primal"):
        torch.func.jvp(step, (x,), (x,))
    with torch.autograd.forward_ad.dual_level(), pytest.raises(RuntimeError, match=f"{name} carries a tangent"):
        step(torch.autograd.forward_ad.make_dual(x, x))


@on_backends
def test_autocast_changes_nothing(query: Tensor, backend: str):
    layout, modulation = new_layout(1), Modulation.fame(FRAMES)
    wanted = attend(query, layout, modulation, backend)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = attend(query, layout, modulation, backend)
        halves = attend(query.half(), layout, modulation, backend)
    assert torch.equal(got, wanted) and halves.dtype == torch.float16


@pytest.fixture
def strange_defaults() -> Iterator[None]:
    """A device on which nothing has values, and a dtype that nothing here has."""
    torch.set_default_device("meta")
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_device(None)
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize(
    "backend, tokens",  # the kernels in the interpreter take few tokens
    [
        ("sdpa", TOKENS),
        ("sdpa", 600),
        ("reference", TOKENS),
        ("reference", 600),
        pytest.param("triton", TOKENS, marks=pytest.mark.slow),
    ],
)
def test_default_device_and_dtype_do_not_matter(backend: str, tokens: int, strange_defaults: None):
    from fame_accel import SpaceTimeLayout

    cpu = dict(device="cpu")
    layout = TokenLayout(torch.arange(tokens, **cpu) % 2, torch.arange(tokens, **cpu) * FRAMES // tokens, FRAMES)
    sampled = SpaceTimeLayout.from_masks(torch.ones(2, FRAMES, 8, 8, dtype=torch.bool, **cpu)).tokens(4, 5)
    assert sampled.size_regularization().dtype == torch.float32
    x = torch.randn(1, 2, tokens, 16, dtype=torch.float32, **cpu)
    for modulation in (
        Modulation.fame(FRAMES, 0.2), Modulation.fame(FRAMES, decay_on="strength"), Modulation.videograin(FRAMES),
        Modulation.region_mask(FRAMES, 0.1), Modulation.frames(FRAMES, "first"), Modulation.frames(FRAMES, [0, 2]),
    ):  # fmt: skip
        out = layout_attention(x, x, x, layout, modulation=modulation, backend=backend)
        exact = layout_attention(x.double(), x.double(), x.double(), layout, modulation=modulation, backend="reference")
        assert out.dtype == torch.float32 and out.device.type == "cpu"
        torch.testing.assert_close(out, exact.float(), rtol=1e-5, atol=1e-5)


def test_a_layout_dies_with_its_last_reference(query: Tensor):
    gc.disable()
    try:
        layout, other = new_layout(1), new_layout(2)
        attend(query, layout, Modulation.fame(FRAMES), "sdpa")
        layout_attention(query, query, query, layout, other, modulation=Modulation.fame(FRAMES))
        references = [weakref.ref(layout), weakref.ref(layout.region), weakref.ref(other)]
        del layout, other
        assert [reference() for reference in references] == [None] * 3
    finally:
        gc.enable()


def test_compiled_code_keeps_no_layout_alive(query: Tensor):
    layout = new_layout(1)
    torch.compile(attend, fullgraph=True, backend="eager")(query, layout, None, "sdpa")
    references = [weakref.ref(layout), weakref.ref(layout.region)]
    del layout
    torch._dynamo.reset()
    gc.collect()
    assert [reference() for reference in references] == [None] * 2


@pytest.mark.slow
def test_a_stream_of_clips_leaves_nothing_behind(query: Tensor):
    compiled = torch.compile(attend, fullgraph=True, backend="eager")

    def of_us() -> int:
        gc.collect()
        return sum(isinstance(one, TokenLayout | AttentionPlan | Modulation) for one in gc.get_objects())

    counts = []
    for clip in range(12):
        layout, text = new_layout(clip), new_layout(clip + 1)
        for key_layout in (None, text):
            modulation = Modulation.fame(FRAMES, 0.01 * clip)
            layout_attention(query, query, query, layout, key_layout, modulation, backend="sdpa")
        compiled(query, layout, Modulation.fame(FRAMES), "sdpa")
        counts.append(of_us())
    assert max(counts[3:]) <= counts[2]


def test_threads_share_a_layout(query: Tensor):
    layout = new_layout(1)
    modulations = [Modulation.region_mask(FRAMES, 0.01 * number, leakage=0.1) for number in range(40)]
    wanted = [attend(query, new_layout(1), modulation, "sdpa") for modulation in modulations]
    failures: list[object] = []

    def work() -> None:
        try:
            for modulation, out in zip(modulations, wanted, strict=True):
                torch.testing.assert_close(attend(query, layout, modulation, "sdpa"), out)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


@pytest.mark.slow
@pytest.mark.parametrize("target", [SDPA[0].param(), TRITON[0].param()])
def test_plans_are_pytrees(target, query: Tensor):
    plan = plan_attention(
        new_layout(1), modulation=Modulation.fame(FRAMES), backend=target.backend, head_dim=16, dtype=torch.float32
    )
    leaves, structure = torch.utils._pytree.tree_flatten(plan)
    assert all(isinstance(leaf, Tensor) for leaf in leaves if leaf is not None)
    again = torch.utils._pytree.tree_unflatten([None if x is None else x.clone() for x in leaves], structure)
    outs = [layout_attention(query, query, query, plan=one) for one in (plan, again, pickle.loads(pickle.dumps(plan)))]
    assert torch.equal(outs[0], outs[1]) and torch.equal(outs[0], outs[2])


def test_mistakes_with_plans(query: Tensor):
    layout = new_layout(1)
    plan = plan_attention(layout, modulation=Modulation.fame(FRAMES), backend="sdpa")
    mistakes = [
        (dict(plan=plan, query_layout=layout), ValueError, "plan replaces query_layout"),
        (dict(plan=plan, modulation=Modulation()), ValueError, "plan replaces query_layout"),
        (dict(plan="plan"), TypeError, "plan must be a fame_accel.AttentionPlan or None, got str"),
        (dict(plan=plan, backend="reference"), ValueError, "backend must be 'auto' or that of the plan, 'sdpa'"),
        (dict(), TypeError, "query_layout must be a fame_accel.TokenLayout, got NoneType"),
        (dict(plan=plan, query=query[:, :, :5]), ValueError, "plan is for 12 queries, got 5"),
        (dict(plan=plan, key=query[:, :, :5], value=query[:, :, :5]), ValueError, "plan is for 12 keys, got 5"),
    ]
    for arguments, kind, message in mistakes:
        with pytest.raises(kind, match=message):
            layout_attention(**{"query": query, "key": query, "value": query} | arguments)
    batched = TokenLayout(layout.region.expand(2, -1), layout.frame.expand(2, -1), FRAMES)
    with pytest.raises(ValueError, match="plan is for a batch of 2, but query has batch 1"):
        layout_attention(query, query, query, plan=plan_attention(batched))
    three = TokenLayout(layout.region.expand(3, -1), layout.frame.expand(3, -1), FRAMES)
    with pytest.raises(ValueError, match="key_layout has batch 3, but query_layout has batch 2"):
        plan_attention(batched, three)
    with pytest.raises(ValueError, match="modulation has tables for .* frames"):
        plan_attention(layout, modulation=Modulation.fame(FRAMES + 1))
    with pytest.raises(TypeError, match="query_layout must be a fame_accel.TokenLayout, got Tensor"):
        plan_attention(layout.region)
    with pytest.raises(ValueError, match="backend must be one of"):
        plan_attention(layout, backend="flash")

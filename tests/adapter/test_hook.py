"""hook_attention: what it replaces, what it refuses, and that it lasts and goes."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import diffusers
import pytest
import torch
from peft import LoraConfig
from torch import Tensor
from torch._dynamo.utils import counters
from torch.nn.functional import scaled_dot_product_attention
from video_models import VIDEO_MODELS, run, without_zeros

from fame_accel import hook_attention
from fame_accel.core.parity import error


@pytest.fixture(autouse=True)
def no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


def _plain(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float | None) -> Tensor:
    return scaled_dot_product_attention(query, key, value, mask, scale=scale)


def _halved(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float | None) -> Tensor:
    return _plain(query, key, value, mask, scale) / 2


def _decline(*_: Any) -> None:
    return None


def _case(name: str) -> tuple[torch.nn.Module, dict[str, Any]]:
    case = VIDEO_MODELS[name]()
    torch.manual_seed(0)
    return without_zeros(case.make()), case.inputs


BOTH_WAYS = pytest.mark.parametrize("name", ["Wan T2V", "CogVideoX"])  # by diffusers' dispatcher, and not


@BOTH_WAYS
def test_layers_are_replaced_and_restored(name: str):
    model, inputs = _case(name)
    plain = run(model, inputs)
    before = {layer: module.processor for layer, module in model.named_modules() if hasattr(module, "processor")}
    with hook_attention(model, lambda layer: _plain) as hook:
        assert set(hook.layers) == set(before)
        assert error(run(model, inputs), plain)[0] <= 2e-6
    with hook_attention(model, lambda layer: _halved if layer.endswith("attn1") else None) as hook:
        assert all(layer.endswith("attn1") for layer in hook.layers)
        assert error(run(model, inputs), plain)[0] > 1e-3
    with hook_attention(model, lambda layer: _decline):
        assert torch.equal(run(model, inputs), plain)
    hook.restore()  # again: nothing happens
    after = {layer: module.processor for layer, module in model.named_modules() if hasattr(module, "processor")}
    assert all(after[layer] is processor for layer, processor in before.items())
    assert all(getattr(processor, "_attention_backend", None) is None for processor in after.values())
    assert torch.equal(run(model, inputs), plain)


def test_a_layers_own_backend_comes_back():
    from diffusers.models.attention_dispatch import AttentionBackendName, _AttentionBackendRegistry

    model, inputs = _case("Wan T2V")
    model.set_attention_backend("_native_math")
    members = set(_AttentionBackendRegistry._backends)
    with hook_attention(model, lambda layer: _decline):
        run(model, inputs)
        assert set(_AttentionBackendRegistry._backends) > members
    assert set(_AttentionBackendRegistry._backends) == members
    assert model.blocks[0].attn1.processor._attention_backend is AttentionBackendName._NATIVE_MATH


@BOTH_WAYS
def test_what_replaces_the_hook_is_noticed(name: str):
    model, _ = _case(name)
    with hook_attention(model, lambda layer: _plain) as hook:
        hook.check()
        layer = next(iter(hook.layers.values()))
        if name == "Wan T2V":
            model.set_attention_backend("native")
        else:
            layer.processor = type(layer.processor).__mro__[1]()
        with pytest.raises(RuntimeError, match="is gone from 1 layers|is gone from 2 layers"):
            hook.check()


def test_two_hooks_on_one_model_are_refused():
    model, _ = _case("Wan T2V")
    with hook_attention(model, lambda layer: _plain), pytest.raises(RuntimeError, match="hooked already"):
        hook_attention(model, lambda layer: _plain)
    hook_attention(model, lambda layer: _plain).restore()


@pytest.mark.parametrize(
    ("model", "select", "kind", "message"),
    [
        (None, lambda layer: _plain, TypeError, "model must be a torch.nn.Module, got NoneType"),
        (
            torch.nn.Linear(1, 1),
            lambda layer: _plain,
            ValueError,
            "choose an attention layer of the Linear",
        ),
        (torch.nn.Linear(1, 1), None, TypeError, "select must be a function"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(model: Any, select: Any, kind: type[Exception], message: str):
    with pytest.raises(kind, match=message):
        hook_attention(model, select)


def test_functions_that_do_not_fit_are_refused():
    model, inputs = _case("Wan T2V")
    with pytest.raises(TypeError, match="select must return a function or None for each layer, got str for blocks.0"):
        hook_attention(model, lambda layer: "function")
    with hook_attention(model, lambda layer: lambda query, *_: query[:, :1]):
        with pytest.raises(ValueError, match=r"attend must return the shape of query, \(1, 2, 32, 12\), got \(1, 1"):
            run(model, inputs)


def test_linear_attention_is_refused_by_name():
    model = diffusers.SanaVideoTransformer3DModel(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=12, num_layers=1,
        num_cross_attention_heads=2, cross_attention_head_dim=12, cross_attention_dim=24, caption_channels=8,
        mlp_ratio=2, rope_max_seq_len=32,
    )  # fmt: skip
    with pytest.raises(RuntimeError, match=r"attn1 cannot be hooked: its SanaLinear\w+ makes no call of softmax"):
        hook_attention(model, lambda layer: _plain)


def test_windows_of_frames_are_refused_by_name():
    class FreeNoiseTransformerBlock(torch.nn.Module):
        pass

    model, _ = _case("Wan T2V")
    model.windows = FreeNoiseTransformerBlock()
    with pytest.raises(RuntimeError, match="windows attends in windows of frames, as FreeNoise does"):
        hook_attention(model, lambda layer: _plain)


def test_grouped_queries_are_refused():
    class Processor:
        def __call__(self, attn: Any, x: Tensor) -> Tensor:
            return scaled_dot_product_attention(x, x[:, :1], x[:, :1], enable_gqa=True)

    class Layer(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.processor = Processor()

        def forward(self, x: Tensor) -> Tensor:
            return self.processor(self, x)

    model = torch.nn.Sequential(Layer())
    with hook_attention(model, lambda layer: _plain), pytest.raises(ValueError, match="key has 1 heads and query 2"):
        model(torch.randn(1, 2, 4, 8))


def test_a_layer_that_never_calls_its_function_is_noticed():
    class Processor:
        def __call__(self, attn: Any, x: Tensor) -> Tensor:
            return x if attn.fast else scaled_dot_product_attention(x, x, x)

    class Layer(torch.nn.Module):
        def __init__(self, fast: bool) -> None:
            super().__init__()
            self.fast, self.processor = fast, Processor()

        def forward(self, x: Tensor) -> Tensor:
            return self.processor(self, x)

    model = torch.nn.Sequential(Layer(False), Layer(True))
    with hook_attention(model, lambda layer: _plain), pytest.raises(RuntimeError, match="^1 never made the attention"):
        model(torch.randn(1, 2, 4, 8))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "how"),
    [("Wan T2V", "whole"), ("Wan T2V", "in place"), ("Wan T2V", "blocks"), ("CogVideoX", "whole"),
     ("CogVideoX", "in place")],
)  # fmt: skip
def test_one_graph(name: str, how: str):
    class Scaled:
        def __init__(self) -> None:
            self.factor = torch.rand(())

        def attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Any, scale: Any) -> Tensor:
            return _plain(query, key, value, mask, scale) * self.factor

    model, inputs = _case(name)
    eager = copy.deepcopy(model)
    torch.compiler.reset()
    counters.clear()
    called = model
    if how == "whole":
        called = torch.compile(model, backend="eager", fullgraph=True)
    elif how == "in place":
        model.compile(backend="eager", fullgraph=True)
    else:
        model.compile_repeated_blocks(backend="eager", fullgraph=True)
    for _ in range(3):
        scaled = Scaled()
        with hook_attention(model, lambda layer, scaled=scaled: scaled.attend):
            got = run(called, inputs)
        with hook_attention(eager, lambda layer, scaled=scaled: scaled.attend):
            assert error(got, run(eager, inputs))[0] <= 2e-6
        assert counters["stats"]["unique_graphs"] == 1


@BOTH_WAYS
def test_fused_projections_and_lora(name: str):
    model, inputs = _case(name)
    model.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_k"], init_lora_weights=False))
    plain = run(model, inputs)
    with hook_attention(model, lambda layer: _plain):
        assert error(run(model, inputs), plain)[0] <= 2e-6
    model.delete_adapters("default")
    model.fuse_qkv_projections()
    fused = run(model, inputs)
    with hook_attention(model, lambda layer: _plain):
        assert error(run(model, inputs), fused)[0] <= 2e-6
    assert error(plain, fused)[0] > 1e-3


@BOTH_WAYS
def test_layerwise_casting(name: str):
    model, inputs = _case(name)
    model.enable_layerwise_casting(storage_dtype=torch.bfloat16, compute_dtype=torch.float32)
    plain = run(model, inputs)
    with hook_attention(model, lambda layer: _plain):
        assert error(run(model, inputs), plain)[0] <= 2e-6


@BOTH_WAYS
def test_group_offload(name: str):
    model, inputs = _case(name)
    plain = run(model, inputs)
    device = torch.device("cpu")
    model.enable_group_offload(onload_device=device, offload_device=device, offload_type="leaf_level")
    with hook_attention(model, lambda layer: _plain):
        assert error(run(model, inputs), plain)[0] <= 2e-6

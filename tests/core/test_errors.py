"""Bad calls: each error names the argument, what came and what was wanted. No backend is swapped for another.

Bad tables are in test_modulation.py, bad layouts and masks in test_layout.py.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from cases import FRAMES, MODULATIONS, SDPA, TRITON, Target, layout, make_case
from torch import Tensor, full, ones

from fame_accel import Modulation, bindings, layout_attention, reference
from fame_accel.core import dispatch

B, H, N, K, D = 2, 3, 12, 9, 16


def _arguments(**changed: object) -> dict[str, object]:
    """Good arguments but for those changed."""
    good = dict(
        query=torch.randn(B, H, N, D), key=torch.randn(B, H, K, D), value=torch.randn(B, H, K, D),
        query_layout=layout(N), key_layout=layout(K), modulation=Modulation.fame(FRAMES),
        row_strength=torch.rand(N), key_weight=torch.rand(B, K),
    )  # fmt: skip
    return {**good, **changed}


def _qkv(change: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    arguments = _arguments()
    return {name: change(arguments[name]) for name in ("query", "key", "value")}


TENSORS = {
    "query not a tensor": (dict(query=[1.0]), TypeError, "query must be a tensor, got list"),
    "key not a tensor": (dict(key=None), TypeError, "key must be a tensor, got NoneType"),
    "query of integers": (dict(query=ones(B, H, N, D).int()), TypeError, "query.*float16.*int32"),
    "value of integers": (dict(value=ones(B, H, K, D).int()), TypeError, "value.*float16.*int32"),
    "key of another dtype": (dict(key=ones(B, H, K, D).half()), TypeError, "key.*float32.*float16"),
    "value of another dtype": (dict(value=ones(B, H, K, D).half()), TypeError, "value.*float32.*float16"),
    "query of three axes": (dict(query=ones(B, N, D)), ValueError, r"query.*\[B, H, N, D\].*\(2, 12, 16"),
    "key of five axes": (dict(key=ones(1, B, H, K, D)), ValueError, r"key.*\[B, H, N, D\].*\(1, 2, 3"),
    "key batch": (dict(key=ones(B + 1, H, K, D)), ValueError, r"key.*\(2, 3, 9, 16\).*\(3, 3, 9, 16\)"),
    "key heads": (dict(key=ones(B, 1, K, D)), ValueError, r"key.*\(2, 3, 9, 16\).*\(2, 1, 9, 16\)"),
    "key head_dim": (dict(key=ones(B, H, K, 8)), ValueError, r"key.*\(2, 3, 9, 16\).*\(2, 3, 9, 8\)"),
    "value length": (dict(value=ones(B, H, 8, D)), ValueError, r"value.*\(2, 3, 9, 16\).*\(2, 3, 8, 16\)"),
    "value head_dim": (dict(value=ones(B, H, K, 8)), ValueError, r"value.*\(2, 3, 9, 16\).*\(2, 3, 9, 8\)"),
    "head_dim 0": (_qkv(lambda x: x[..., :0]), ValueError, "query.*head_dim from 1 to 256, got 0"),
    "head_dim 257": (_qkv(lambda x: x[..., :1].repeat(1, 1, 1, 257)), ValueError, "query.*256, got 257"),
    "key on another device": (dict(key=ones(B, H, K, D, device="meta")), ValueError, "key.*cpu.*meta"),
    "value on another device": (dict(value=ones(B, H, K, D, device="meta")), ValueError, "value.*cpu.*meta"),
    "all on another device": (_qkv(lambda x: x.to("meta")), ValueError, "query_layout is on cpu.*meta"),
}
LAYOUTS = {
    "query_layout absent": (dict(query_layout=None), TypeError, "query_layout.*TokenLayout.*NoneType"),
    "key_layout a tensor": (dict(key_layout=torch.zeros(K)), TypeError, "key_layout.*TokenLayout.*Tensor"),
    "query_layout length": (dict(query_layout=layout(N + 1)), ValueError, "query_layout has 13 tokens.*12"),
    "key_layout length": (dict(key_layout=layout(K + 1)), ValueError, "key_layout has 10 tokens.*9"),
    "key_layout left out": (dict(key_layout=None), ValueError, "key_layout has 12 tokens.*9"),
    "query_layout batch": (dict(query_layout=layout(N, batch=3)), ValueError, "query_layout has batch 3.*2"),
    "key_layout batch": (dict(key_layout=layout(K, batch=1)), ValueError, "key_layout has batch 1.*2"),
    "modulation a table": (dict(modulation=ones(2, 2, 2)), TypeError, "modulation.*Modulation.*Tensor"),
    "modulation query frames": (dict(query_layout=layout(N, 3)), ValueError, r"modulation.*\(2, 2\).*\(3, 2"),
    "modulation key frames": (dict(key_layout=layout(K, 1)), ValueError, r"modulation.*\(2, 2\).*\(2, 1\)"),
}
FACTORS = {
    "row_strength a number": (dict(row_strength=0.5), TypeError, "row_strength.*floating tensor.*float"),
    "row_strength integer": (dict(row_strength=ones(N).int()), TypeError, "row_strength.*int32"),
    "row_strength shape": (dict(row_strength=ones(K)), ValueError, r"row_strength.*\[12\].*\[2, 12\].*9"),
    "row_strength batch": (dict(row_strength=ones(3, N)), ValueError, r"row_strength.*\[2, 12\].*\(3, 12\)"),
    "row_strength device": (dict(row_strength=ones(N, device="meta")), ValueError, "row_strength.*cpu.*meta"),
    "row_strength above 1": (dict(row_strength=full((N,), 1.5)), ValueError, r"row_strength.*\[0, 1\].*1.5"),
    "row_strength below 0": (dict(row_strength=full((N,), -0.1)), ValueError, r"row_strength.*\[0, 1.*-0.1"),
    "row_strength NaN": (dict(row_strength=full((N,), math.nan)), ValueError, r"row_strength.*NaN.*nan"),
    "key_weight a list": (dict(key_weight=[1.0] * K), TypeError, "key_weight.*floating tensor.*list"),
    "key_weight shape": (dict(key_weight=ones(N)), ValueError, r"key_weight.*\[9\].*\[2, 9\].*\(12,\)"),
    "key_weight device": (dict(key_weight=ones(K, device="meta")), ValueError, "key_weight.*cpu.*meta"),
    "key_weight above 1": (dict(key_weight=full((K,), 2.0)), ValueError, r"key_weight.*\[0, 1\].*2"),
    "key_weight NaN": (dict(key_weight=full((K,), math.nan)), ValueError, r"key_weight.*NaN.*nan"),
    "scale text": (dict(scale="1"), TypeError, "scale.*number.*str"),
    "scale a tensor": (dict(scale=torch.tensor(1.0)), TypeError, "scale.*number.*Tensor"),
    "scale bool": (dict(scale=True), TypeError, "scale.*number.*bool"),
    "scale 0": (dict(scale=0.0), ValueError, "scale.*> 0.*0.0"),
    "scale negative": (dict(scale=-1), ValueError, "scale.*> 0.*-1"),
    "scale NaN": (dict(scale=math.nan), ValueError, "scale.*finite.*nan"),
    "scale infinite": (dict(scale=math.inf), ValueError, "scale.*finite.*inf"),
    "scale that overflows": (dict(scale=1e30), ValueError, r"scale.*at most 1e\+25, got 1e\+30"),
    "scale past floats": (dict(scale=10**400), ValueError, "scale.*at most 1e.25, got 1000"),
}
BAD = {**TENSORS, **LAYOUTS, **FACTORS}


@pytest.mark.parametrize("backend", ["sdpa", "triton", "reference"])
@pytest.mark.parametrize("changed, kind, message", BAD.values(), ids=BAD)
def test_bad_arguments(changed: dict[str, object], kind: type[Exception], message: str, backend: str):
    with pytest.raises(kind, match=message):
        layout_attention(**_arguments(**changed), backend=backend)


@pytest.mark.parametrize("changed, kind, message", BAD.values(), ids=BAD)
def test_bad_arguments_of_the_reference(changed: dict[str, object], kind: type[Exception], message: str):
    with pytest.raises(kind, match=message):
        reference.layout_attention(**_arguments(**changed))


def test_good_arguments():
    """What the cases above change is good as it stands."""
    for backend in ("auto", "sdpa", "reference"):
        assert layout_attention(**_arguments(), backend=backend).isfinite().all()


@pytest.mark.parametrize("name", ["query", "key", "value", "row_strength", "key_weight"])
def test_no_backward(name: str):
    arguments = _arguments()
    arguments[name] = arguments[name].clone().requires_grad_()
    with pytest.raises(RuntimeError, match=f"{name} requires grad.*no backward"):
        layout_attention(**arguments)
    with torch.no_grad():
        assert not layout_attention(**arguments).requires_grad
    with torch.inference_mode():
        layout_attention(**arguments)


@pytest.mark.parametrize("backend", ["cuda", "", None, "SDPA"])
def test_unknown_backend(backend: object):
    with pytest.raises(ValueError, match=f"backend must be one of auto, triton, sdpa.* got {backend!r}"):
        layout_attention(**_arguments(), backend=backend)


@pytest.mark.parametrize("backend", ["sdpa", "triton", "auto"])
def test_float64_is_for_the_reference(backend: str):
    arguments = _arguments(**_qkv(Tensor.double))
    with pytest.raises(TypeError, match="query must be one of float16, bfloat16, float32, got torch.float64"):
        layout_attention(**arguments, backend=backend)
    assert layout_attention(**arguments, backend="reference").dtype == torch.float64


# A named backend runs or raises


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="needs TRITON_INTERPRET=1")
def test_triton_refuses_bfloat16_in_the_interpreter():
    case = make_case(Target("triton", torch.bfloat16), num_queries=8)
    with pytest.raises(RuntimeError, match="backend='triton'.*bfloat16.*float16 or float32"):
        case.run("triton")


CALL = """
import torch, fame_accel
x, layout = torch.randn(1, 1, 4, 16), fame_accel.TokenLayout(torch.zeros(4).int(), torch.zeros(4).int(), 1)
assert torch.equal(
    fame_accel.layout_attention(x, x, x, layout), fame_accel.layout_attention(x, x, x, layout, backend="sdpa")
)
try:
    fame_accel.layout_attention(x, x, x, layout, backend="triton")
except RuntimeError as error:
    print(error)
"""


def _refusal_of_triton(before: str = "") -> str:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", before + CALL], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_triton_refuses_a_cpu_without_the_interpreter():
    pytest.importorskip("triton")
    refusal = _refusal_of_triton()
    assert "backend='triton' cannot run here" in refusal and "TRITON_INTERPRET=1" in refusal


def test_triton_refuses_without_triton():
    refusal = _refusal_of_triton("import sys; sys.modules['triton'] = None\n")
    assert "backend='triton' cannot run here" in refusal and "pip install triton" in refusal


@pytest.mark.parametrize("name", MODULATIONS)
@pytest.mark.parametrize("target", [SDPA[0].param(), TRITON[0].param()])
def test_a_failing_backend_is_not_swapped(target: Target, name: str, monkeypatch: pytest.MonkeyPatch):
    """Every operator fails, and so does the call: whatever runs in its place would hide it."""

    def fail(*_: object) -> None:
        raise RuntimeError("the operator failed")

    for operator in ("tile_attention", "few_keys_attention", "sdpa_attention"):
        monkeypatch.setattr(bindings, operator, fail)
    case = make_case(target, num_queries=12, modulation=MODULATIONS[name](FRAMES))
    with pytest.raises(RuntimeError, match="the operator failed"):
        case.run(target.backend)


@pytest.mark.parametrize("name", MODULATIONS)
@pytest.mark.parametrize("target", [SDPA[0].param(), TRITON[0].param()])
def test_a_backend_runs_its_own_operators(target: Target, name: str, monkeypatch: pytest.MonkeyPatch):
    def fail(*_: object) -> None:
        raise AssertionError("an operator of another backend ran")

    triton = ("tile_attention", "few_keys_attention")
    for operator in ("sdpa_attention",) if target.backend == "triton" else triton:
        monkeypatch.setattr(bindings, operator, fail)
    monkeypatch.setattr(dispatch, "reference_attention", fail)
    make_case(target, num_queries=12, modulation=MODULATIONS[name](FRAMES)).run(target.backend)

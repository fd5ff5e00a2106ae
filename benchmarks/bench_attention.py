"""The providers as suites of pytest-benchmark: `make bench`, JSON in benchmarks/results/pytest_benchmark.json.

Each provider is held against the reference before it is timed. One that cannot run is skipped with its reason.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from benchmarks.providers import PROVIDERS
from benchmarks.shapes import MAIN
from fame_accel.bench.inputs import make_inputs
from fame_accel.bench.judge import Judge
from fame_accel.bench.prepared import CannotRun
from fame_accel.bench.protocol import describe
from fame_accel.bench.workload import AttentionOperation, LayerShape, operations
from fame_accel.tools.measure import now

ON_GPU = torch.cuda.is_available()
DEVICE, DTYPE = torch.device("cuda" if ON_GPU else "cpu"), torch.float16 if ON_GPU else torch.float32
_ON_A_CPU = (
    LayerShape("sd15-16x16-f8", 8, 16, 16, 8, 80),
    LayerShape("sd15-32x32-f8-text77", 8, 32, 32, 8, 40, text=77),
    LayerShape("motion-16x16-f16", 16, 16, 16, 8, 40, motion=True),
)
MEASURED = MAIN if ON_GPU else _ON_A_CPU
CASES = [(shape, operation) for shape in MEASURED for operation in operations(shape)]


@pytest.mark.parametrize("shape, operation", CASES, ids=lambda item: item.name)
@pytest.mark.parametrize("provider", PROVIDERS)
@torch.no_grad()
def test_attention(benchmark: Callable, provider: str, shape: LayerShape, operation: AttentionOperation) -> None:
    torch.compiler.reset()
    inputs = make_inputs(shape, operation, DEVICE, DTYPE)
    try:
        prepared = PROVIDERS[provider](inputs)
    except CannotRun as reason:
        pytest.skip(str(reason))
    if prepared.judged:
        assert Judge(inputs).verdict(prepared.call()).passed
    benchmark.group = f"{shape.name} {operation.name}"
    benchmark.extra_info.update(describe(shape, operation, DEVICE, DTYPE, provider, ""))

    def call() -> None:
        prepared.call()
        now(DEVICE)

    benchmark.pedantic(call, rounds=7, warmup_rounds=2)

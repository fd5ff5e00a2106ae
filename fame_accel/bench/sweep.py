"""Measuring many cases within a time: what would not fit it is left out, with a note."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch

from fame_accel.bench.inputs import make_inputs
from fame_accel.bench.prepared import Provider
from fame_accel.bench.protocol import Protocol, describe, measure, reason
from fame_accel.bench.rows import Row
from fame_accel.bench.workload import AttentionOperation, LayerShape

# Calls of a provider in one case: judged, for the peak, to warm up, and repeats; of a slow call fewer (Effort.patience)
_CALLS, _SLOW_CALLS = 8, 3
_MARGIN = 1.3  # caches hold less of larger shapes


class Budget:
    """The time that measuring may take, and what calls will take by the pace of the case before.

    Args:
        seconds: in all.
        patience: seconds of a call past which it runs once (Effort.patience).
    """

    def __init__(self, seconds: float, patience: float) -> None:
        self.seconds, self._patience = seconds, patience
        self._start = time.monotonic()
        self._pace: dict[tuple[str, bool], float] = {}  # seconds for each pair

    @property
    def left(self) -> float:
        """Seconds that are left."""
        return self.seconds - (time.monotonic() - self._start)

    def expected(self, provider: str, shape: LayerShape) -> float | None:
        """Seconds of a call; None where the provider has not run yet. Cross-attention has a pace of its own."""
        pace = self._pace.get((provider, shape.text is not None), self._pace.get((provider, False)))
        return None if pace is None else pace * _MARGIN * shape.pairs

    def refusal(self, provider: str, shape: LayerShape) -> str | None:
        """Why a provider is not measured at a shape; None where its calls fit the time that is left."""
        if self.left <= 0:
            return f"not measured: the {self.seconds:.0f} s of --seconds are spent"
        call = self.expected(provider, shape)
        if call is None or call * (_CALLS if call <= self._patience else _SLOW_CALLS) <= self.left:
            return None
        return (
            f"not measured: a call is expected to take {call:.0f} s, which does not fit the {self.seconds:.0f} s of "
            "--seconds"
        )

    def learn(self, provider: str, shape: LayerShape, milliseconds: float) -> None:
        """Keep the pace of a call."""
        self._pace[provider, shape.text is not None] = milliseconds / 1e3 / shape.pairs


@torch.no_grad()
def sweep(
    cases: Sequence[tuple[LayerShape, AttentionOperation]],
    providers: Mapping[str, Provider],
    device: torch.device,
    dtype: torch.dtype,
    protocol: Protocol,
    budget: Budget,
    report: Callable[[list[Row]], object] = lambda rows: None,
) -> list[Row]:
    """Measure all cases, in their order: small ones should come first, as they tell what larger ones will take.

    Args:
        cases: shapes and operations.
        providers: by name.
        device: where the inputs are made.
        dtype: of the inputs.
        protocol: how a case is measured.
        budget: what the calls may take.
        report: called with the rows of each case when it is done.

    Returns:
        A row of every provider at every case.
    """
    rows: list[Row] = []
    for shape, operation in cases:
        case = {name: describe(shape, operation, device, dtype, name, protocol.run) for name in providers}
        for name, row in case.items():
            row["note"] = budget.refusal(name, shape)
        fitting = {name: provider for name, provider in providers.items() if case[name]["note"] is None}
        if fitting:
            try:
                inputs = make_inputs(shape, operation, device, dtype)
            except (RuntimeError, MemoryError) as error:  # they do not fit the memory
                for name in fitting:
                    case[name]["note"] = reason(error)
            else:
                case |= {row["provider"]: row for row in measure(inputs, fitting, protocol)}
        for name, row in case.items():
            if row.get("p50_ms"):
                budget.learn(name, shape, float(row["p50_ms"]))
        report(list(case.values()))
        rows += case.values()
    return rows


def over_frames(shape: LayerShape) -> list[LayerShape]:
    """The shape at 1, 2, 4 ... frames; itself is the last."""
    fewer = [1 << power for power in range(shape.frames.bit_length()) if 1 << power < shape.frames]
    return [*(replace(shape, name=f"{shape.name}-f{number}", frames=number) for number in fewer), shape]

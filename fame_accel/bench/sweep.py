"""Measuring the layers of a network within a time: what would not fit it is left out, and said."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch

from fame_accel.bench.cases import Operation, Shape
from fame_accel.bench.group import Protocol, bare, measure, said
from fame_accel.bench.inputs import make_inputs
from fame_accel.bench.providers import Provider
from fame_accel.bench.rows import Row

# Calls of a provider: the gate, the peak, one to warm up, repeats and plans; of a slow one fewer (timing.Effort).
_CALLS, _SLOW_CALLS = 10, 3
_UNSURE = 1.3  # caches hold less of larger shapes


@dataclass
class Budget:
    """seconds in all; what is left, and whether a provider's next case fits, by its pace in the case before."""

    seconds: float
    patience: float
    _start: float = field(default_factory=time.monotonic)
    _pace: dict[tuple[str, bool], float] = field(default_factory=dict)  # seconds per pair and head

    @property
    def left(self) -> float:
        return self.seconds - (time.monotonic() - self._start)

    def expected(self, provider: str, shape: Shape) -> float | None:
        """Seconds of a call; None where the provider has not run yet. Cross-attention has its own pace once it ran."""
        pace = self._pace.get((provider, shape.text is not None), self._pace.get((provider, False)))
        return None if pace is None else pace * _UNSURE * _pairs(shape)

    def refusal(self, provider: str, shape: Shape) -> str | None:
        """Why a provider is not measured at a shape."""
        once = self.expected(provider, shape)
        if self.left <= 0:
            return f"not measured: the {self.seconds:.0f} s of --seconds are spent"
        if once is None:
            return None
        needed = once * (_CALLS if once <= self.patience else _SLOW_CALLS)
        if needed <= self.left:
            return None
        return (
            f"not measured: a call is expected to take {once:.0f} s, which would not fit the {self.seconds:.0f} s of "
            "--seconds"
        )

    def learn(self, provider: str, shape: Shape, milliseconds: float) -> None:
        self._pace[provider, shape.text is not None] = milliseconds / 1e3 / _pairs(shape)


def _pairs(shape: Shape) -> int:
    return shape.items * shape.heads * shape.queries * shape.keys


@torch.no_grad()
def sweep(
    cases: Sequence[tuple[Shape, Operation]],
    providers: Mapping[str, Provider],
    device: torch.device,
    dtype: torch.dtype,
    protocol: Protocol,
    budget: Budget,
    report: Callable[[list[Row]], object] = lambda rows: None,
) -> list[Row]:
    """Rows of every provider at every case, in the cases' order: the smaller ones first, as they tell what larger ones
    will take. `report` is called with those of each case when it is done."""
    rows: list[Row] = []
    for shape, operation in cases:
        torch.compiler.reset()
        notes = {name: budget.refusal(name, shape) for name in providers}
        fitting = {name: provider for name, provider in providers.items() if notes[name] is None}
        found: dict[str, Row] = {}
        if fitting:
            try:
                inputs = make_inputs(shape, operation, device, dtype)
            except (RuntimeError, MemoryError) as error:  # they do not fit
                notes |= dict.fromkeys(fitting, said(error))
            else:
                found = {str(row["provider"]): row for row in measure(inputs, fitting, protocol)}
        case = [
            found.get(name) or bare(shape, operation, device, dtype, name, protocol.run) | {"note": notes[name]}
            for name in providers
        ]
        for row in case:
            if row.get("p50_ms"):
                budget.learn(str(row["provider"]), shape, float(row["p50_ms"]))
        report(case)
        rows += case
    return rows


def over_frames(shape: Shape) -> list[Shape]:
    """The shape at 1, 2, 4 ... frames, itself the last."""
    fewer = [1 << power for power in range(shape.frames.bit_length()) if 1 << power < shape.frames]
    return [*(replace(shape, name=f"{shape.name}-f{number}", frames=number) for number in fewer), shape]

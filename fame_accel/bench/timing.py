"""The protocol of timing: after a warm-up, calls in turn, so that what disturbs a machine disturbs all alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

QUANTILES = (0.2, 0.5, 0.8)
_L2_BYTES = 256 << 20  # more than any GPU's L2 cache holds

Call = Callable[[], object]


@dataclass(frozen=True)
class Effort:
    """seconds: what the repeats of one call may take; least, most: their number; patience: seconds that a call must
    stay under for the least number to hold, and of a longer one there is one repeat."""

    seconds: float = 1.0
    least: int = 3
    most: int = 25
    patience: float = 20.0

    def repeats(self, once: float) -> int:
        """Of a call that took `once` seconds."""
        if once > self.patience:
            return 1
        return max(self.least, min(self.most, int(self.seconds / max(once, 1e-6))))


class Clock:
    """Milliseconds of calls on a device; on a GPU between events, the L2 cache emptied before."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._cache = None
        if device.type == "cuda":
            torch.cuda.set_device(device)  # whose stream the events are of
            self._cache = torch.empty(_L2_BYTES, dtype=torch.int8, device=device)

    def milliseconds(self, call: Call) -> float:
        if self._cache is None:
            start = time.perf_counter()
            call()
            return 1e3 * (time.perf_counter() - start)
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        self._cache.zero_()  # the calls below are enqueued while it runs
        begin.record()
        call()
        end.record()
        torch.cuda.synchronize(self._device)
        return begin.elapsed_time(end)


def interleaved(calls: Mapping[str, Call], clock: Clock, effort: Effort) -> dict[str, list[float]]:
    """Milliseconds of each call's repeats, the calls in turn. Each has run before, and runs once more to tell how often
    it may; where that is once, this run is the one that counts."""
    once = {name: clock.milliseconds(call) for name, call in calls.items()}
    repeats = {name: effort.repeats(ms / 1e3) for name, ms in once.items()}
    times = {name: [once[name]] if repeats[name] == 1 else [] for name in calls}
    rounds = max((number for number in repeats.values() if number > 1), default=0)
    for turn in range(rounds):
        for name, call in list(calls.items())[:: 1 if turn % 2 else -1]:  # who follows whom changes
            # a slow call takes part in some of the rounds, evenly spread
            if repeats[name] > 1 and turn * repeats[name] // rounds != (turn - 1) * repeats[name] // rounds:
                times[name].append(clock.milliseconds(call))
    return times


def quantiles(times: list[float]) -> list[float]:
    """At QUANTILES."""
    at = torch.tensor(QUANTILES, dtype=torch.float64)
    return torch.tensor(times, dtype=torch.float64).quantile(at).tolist()


def graph_ms(call: Call, clock: Clock, repeats: int = 25) -> float:
    """Median milliseconds of the call replayed from a CUDA graph: without what launching costs."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return quantiles([clock.milliseconds(graph.replay) for _ in range(repeats)])[1]

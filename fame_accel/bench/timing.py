"""How calls are timed: after a warm-up and in turn, so that what disturbs a machine disturbs all of them alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

QUANTILES = (0.2, 0.5, 0.8)
_L2_BYTES = 256 << 20  # more than any GPU's L2 cache holds

Call = Callable[[], object]


@dataclass(frozen=True)
class Effort:
    """How often a call is repeated.

    Attributes:
        seconds: what the repeats of one call may take.
        least: fewest repeats.
        most: most repeats.
        patience: seconds of a call past which it runs once.
    """

    seconds: float = 1.0
    least: int = 3
    most: int = 25
    patience: float = 20.0

    def repeats(self, seconds: float) -> int:
        """The number of repeats of a call that took `seconds`."""
        if seconds > self.patience:
            return 1
        return max(self.least, min(self.most, int(self.seconds / max(seconds, 1e-6))))


class Clock:
    """Takes the time of calls on a device; on a GPU between events, with the L2 cache emptied before."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._cache: torch.Tensor | None = None
        if device.type == "cuda":
            torch.cuda.set_device(device)  # events are recorded on its stream
            self._cache = torch.empty(_L2_BYTES, dtype=torch.int8, device=device)

    def milliseconds(self, call: Call) -> float:
        """The milliseconds that one call takes."""
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
    """Time calls in turn.

    Each call must have run before. It runs once more to tell how often it may be repeated; where that is once, this run
    counts. A slow call takes part in some of the rounds, evenly spread, and the order is reversed from round to round.

    Returns:
        The milliseconds of each call's repeats.
    """
    first = {name: clock.milliseconds(call) for name, call in calls.items()}
    repeats = {name: effort.repeats(ms / 1e3) for name, ms in first.items()}
    times = {name: [first[name]] if repeats[name] == 1 else [] for name in calls}
    rounds = max((number for number in repeats.values() if number > 1), default=0)
    for turn in range(rounds):
        for name, call in list(calls.items())[:: 1 if turn % 2 else -1]:
            due = turn * repeats[name] // rounds != (turn - 1) * repeats[name] // rounds
            if repeats[name] > 1 and due:
                times[name].append(clock.milliseconds(call))
    return times


def quantiles(times: Sequence[float]) -> list[float]:
    """The 20%, 50% and 80% quantiles."""
    levels = torch.tensor(QUANTILES, dtype=torch.float64)
    return torch.tensor(times, dtype=torch.float64).quantile(levels).tolist()


def median(times: Sequence[float]) -> float:
    """The 50% quantile."""
    return quantiles(times)[1]

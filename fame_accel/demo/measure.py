"""Time in attention layers and peak memory of a run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

from fame_accel.tools.measure import now, peak_bytes, reset_peak


@dataclass
class Measurement:
    """Time and memory of a run.

    seconds: of the whole run. attention_s: in attention layers, with their projections. peak_mib: peak memory above the
    level before the run, None where the system does not report it.
    """

    seconds: float = 0.0
    attention_s: float = 0.0
    peak_mib: float | None = None
    _started: list[float] = field(default_factory=list)


@contextmanager
def measured(unet: torch.nn.Module) -> Iterator[Measurement]:
    """Measure the body of the with statement, and the time in every attn1 and attn2 module of the UNet."""
    device = next(unet.parameters()).device
    result = Measurement()

    def before(*_: object) -> None:
        result._started.append(now(device))

    def after(*_: object) -> None:
        result.attention_s += now(device) - result._started.pop()

    hooks = []
    for name, module in unet.named_modules():
        if name.endswith((".attn1", ".attn2")):
            hooks += [module.register_forward_pre_hook(before), module.register_forward_hook(after)]
    base = reset_peak(device)
    start = now(device)
    try:
        yield result
    finally:
        result.seconds = now(device) - start
        peak = peak_bytes(device)
        result.peak_mib = None if peak is None or base is None else (peak - base) / 2**20
        for hook in hooks:
            hook.remove()

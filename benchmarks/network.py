"""A UNet's first block and its whole denoising step with FAME attention, by each backend, on random weights.

A step is one call of the network at a modulated timestep, without guidance. The block ends where the second level
begins. Times and memory are those of real layers. Correctness is judged at two frames, whose step fits in float64.
Eager is the formula as VideoGrain runs it, in place of `layout_attention`; its masks are kept from call to call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fame_accel import bindings
from fame_accel.bench.dense import dense_attention, dense_formula, dense_masks
from fame_accel.bench.environment import environment
from fame_accel.bench.inputs import AttentionInputs
from fame_accel.bench.memory import peak_mib
from fame_accel.bench.prepared import CannotRun
from fame_accel.bench.protocol import Protocol, add_errors, add_times, reason
from fame_accel.bench.providers import EAGER, FLOOR
from fame_accel.bench.rows import Row
from fame_accel.bench.timing import Clock, interleaved
from fame_accel.bench.workload import FAME, LayerShape
from fame_accel.core.layout import TokenLayout
from fame_accel.core.limits import VAE_SCALE_FACTOR
from fame_accel.core.modulation import Modulation
from fame_accel.core.parity import Verdict, error
from fame_accel.core.planning import AttentionPlan
from fame_accel.media.packages import require
from fame_accel.tools.measure import freed_memory_is_kept
from fame_accel.tools.parity_cases import text_layout, three_regions
from fame_accel.tools.planner.network import FAMILIES

BACKENDS = {EAGER: "reference", FLOOR: "sdpa", "ours_triton": "triton", "ours_sdpa": "sdpa"}
OPERATIONS = ("unet_block", "denoising_step")
# Beside what plan needs, of the published configurations: width of the text embeddings.
TEXT_WIDTHS = {"sd15": 768, "sd21": 1024}
_TEXT, _TIMESTEP, _JUDGED_FRAMES = 77, 981, 2


@dataclass(frozen=True)
class Network:
    """A UNet2DConditionModel, and its name in rows of results."""

    unet: Any
    name: str

    @classmethod
    def random(cls, family: str, device: torch.device, dtype: torch.dtype) -> Network:
        """The UNet of a family (sd15, sd21) with seeded random weights; raises ImportError without diffusers."""
        diffusers = require("diffusers", "diffusers")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            unet = diffusers.UNet2DConditionModel(**FAMILIES[family], cross_attention_dim=TEXT_WIDTHS[family])
        return cls(unet.eval().to(device, dtype), family)


@dataclass(frozen=True)
class _NetworkCase:
    network: Network
    operation: str
    frames: int
    side: int  # of the latents
    # of eager, by resolution
    layouts: dict[tuple, tuple[TokenLayout, TokenLayout, Modulation]] = field(default_factory=dict)
    masks: dict[tuple, dict[str, Tensor]] = field(default_factory=dict)

    def inputs(self) -> tuple[Tensor, Tensor]:
        """Latents [frames, 4, side, side] and text embeddings [frames, 77, width], the same in every dtype."""
        unet = self.network.unet
        generator = torch.Generator().manual_seed(0)
        sample = torch.randn(self.frames, 4, self.side, self.side, generator=generator)
        text = torch.randn(1, _TEXT, unet.config.cross_attention_dim, generator=generator)
        # rounded to float16, which every dtype but bfloat16 represents
        return tuple(x.half().to(unet.device, unet.dtype) for x in (sample, text.expand(self.frames, -1, -1)))

    def calls(self) -> dict[str, Callable[[], Tensor]]:
        """The calls by provider; the layouts' plans are kept from call to call."""
        from fame_accel.adapter import FameConfig

        layout = three_regions(self.frames, self.side)
        words = text_layout(_TEXT, torch.device("cpu")).region[0]
        inputs = self.inputs()
        calls = {}
        for provider, backend in BACKENDS.items():
            config = FameConfig(layout, Modulation.fame(self.frames), token_regions=words, backend=backend)
            calls[provider] = partial(_run, self, config, *inputs, provider)
        return calls


class _BlockDone(Exception):
    """Carries the block's result out of the network."""


def measure_network(network: Network, operation: str, frames: int, size: int, protocol: Protocol) -> list[Row]:
    """Measure an operation at frames of size x size pixels.

    Returns:
        A row of each provider; the note of one that does not run here says why.
    """
    case = _NetworkCase(network, operation, frames, size // VAE_SCALE_FACTOR)
    rows = {provider: _described(case, provider, protocol.run) for provider in BACKENDS}
    device = network.unet.device
    calls, verdicts = case.calls(), _verdicts(case, rows)
    ready, outs = {}, {}
    for provider, call in calls.items():
        if provider in verdicts and not add_errors(rows[provider], verdicts[provider]):
            continue
        try:
            if rows[provider].get("note"):
                continue
            outs[provider] = call()
        except Exception as failure:  # whatever a backend cannot do is a result
            rows[provider]["note"] = reason(failure)
            continue
        ready[provider] = call
        if protocol.memory and not freed_memory_is_kept():  # which would count with what is held
            peak = peak_mib(call, device)
            rows[provider]["peak_mib"] = "" if peak is None else f"{peak:.1f}"
    add_times(rows, interleaved(ready, Clock(device), protocol.effort))
    for provider in ready:
        rows[provider]["note"] = "plain attention, the floor" if provider == FLOOR else "judged at 2 frames"
        if provider not in (EAGER, FLOOR) and EAGER in outs:
            apart = (outs[provider].double() - outs[EAGER].double()).abs().max().item()
            rows[provider]["note"] += f"; at {frames} off eager's by {apart:.1e} at most"
    return list(rows.values())


@torch.no_grad()
def _run(case: _NetworkCase, config: Any, sample: Tensor, text: Tensor, provider: str) -> Tensor:
    from fame_accel.adapter import apply_fame

    unet = case.network.unet
    with ExitStack() as within:
        handle = within.enter_context(apply_fame(unet, config))
        within.enter_context(_stopped(unet, case.operation))
        if provider == FLOOR:
            within.enter_context(handle.paused())
        if provider == EAGER:
            within.enter_context(_eagerly(case))
        try:
            return unet(sample, _TIMESTEP, text).sample
        except _BlockDone as done:
            return done.args[0]


@contextmanager
def _eagerly(case: _NetworkCase) -> Iterator[None]:
    """Replace the processors' attention by the dense formula within the context."""
    from fame_accel.adapter import processors

    def attend(
        plan: AttentionPlan,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        row_strength: Tensor,
        key_weight: Tensor | None,
        scale: float,
        *_: object,
    ) -> tuple[Tensor, None]:
        batch, heads, tokens, head_dim = query.shape
        if scale != head_dim**-0.5:
            raise ValueError(f"scale must be head_dim ** -0.5, got {scale}")
        text = None if key.shape[2] == tokens else key.shape[2]
        resolution = (tokens, text, query.dtype)
        if resolution not in case.layouts:
            case.layouts[resolution] = _layouts_of(plan)
        shape = LayerShape("layer", case.frames, 1, tokens // case.frames, heads, head_dim, text=text, batch=batch)
        inputs = AttentionInputs(
            shape, FAME, query, key, value, *case.layouts[resolution], row_strength, key_weight
        )  # fmt: skip
        if resolution not in case.masks:
            case.masks[resolution] = dense_masks(inputs)
        return dense_attention(inputs, case.masks[resolution], dense_formula), None

    original, processors.run_plan = processors.run_plan, attend
    try:
        yield
    finally:
        processors.run_plan = original


def _layouts_of(plan: AttentionPlan) -> tuple[TokenLayout, TokenLayout, Modulation]:
    """The layouts and the modulation that a plan was made of."""
    table = plan.strength if plan.bias is None else plan.bias
    sides = ((plan.query_region, plan.query_frame), (plan.key_region, plan.key_frame))
    query_layout, key_layout = (
        TokenLayout(region[0], frame[0], frames) for (region, frame), frames in zip(sides, table.shape[1:], strict=True)
    )
    return query_layout, key_layout, Modulation(plan.strength, plan.bias)


@contextmanager
def _stopped(unet: Any, operation: str) -> Iterator[None]:
    """End a call after the first block within the context, for the operation that is one block."""
    if operation != "unet_block":
        yield
        return

    def done(_: torch.nn.Module, __: tuple, output: tuple) -> None:
        raise _BlockDone(output[0])

    hook = unet.down_blocks[0].register_forward_hook(done)
    try:
        yield
    finally:
        hook.remove()


def _verdicts(case: _NetworkCase, rows: dict[str, Row]) -> dict[str, Verdict]:
    """Judge the providers at few frames against the reference in float64; one that fails there gets a note."""
    unet, dtype = case.network.unet, case.network.unet.dtype
    small = _NetworkCase(case.network, case.operation, _JUDGED_FRAMES, case.side)
    calls, outs = small.calls(), {}
    for provider in (EAGER, "ours_triton", "ours_sdpa"):
        try:
            if provider == "ours_triton" and (missing := bindings.triton_unavailable(unet.device, dtype)):
                raise CannotRun(missing)
            outs[provider] = calls[provider]()
        except Exception as failure:
            rows[provider]["note"] = reason(failure)

    def exact() -> Tensor:
        _, config, *_ = small.calls()[EAGER].args  # its backend is the reference
        return _run(small, config, *small.inputs(), "reference")

    bound = exact()
    unet.double()
    try:
        truth = exact()
    finally:
        unet.to(dtype)
    eager = error(bound, truth)
    return {provider: Verdict(error(out, truth), eager) for provider, out in outs.items()}


def _described(case: _NetworkCase, provider: str, run: str) -> Row:
    unet = case.network.unet
    return {
        "run": run,
        **environment(unet.device),
        "shape": f"{case.network.name}-{case.side}x{case.side}-f{case.frames}",
        "operation": case.operation,
        "frames": case.frames,
        "height": case.side,
        "width": case.side,
        "keys": _TEXT,
        "batch": 1,
        "regions": 3,
        "dtype": str(unet.dtype).removeprefix("torch."),
        "provider": provider,
    }

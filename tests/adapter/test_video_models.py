"""FAME attention in every family of video transformers, on tiny random models."""

from __future__ import annotations

import copy
import itertools
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters
from video_models import (
    FRAMES,
    HEIGHT,
    VIDEO_MODELS,
    WIDTH,
    Row,
    VideoModel,
    doubled,
    run,
    without_zeros,
)

from fame_accel import FameConfig, Modulation, SpaceTimeLayout, apply_fame, hook_attention
from fame_accel.adapter.families import FAMILIES
from fame_accel.core.parity import Verdict, error

FAST = ("Wan T2V", "Wan VACE", "HunyuanVideo", "CogVideoX", "LTX", "Mochi", "MiniMax H3")  # each way of joining text
ON_ALL = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in FAST else [pytest.mark.slow]) for name in VIDEO_MODELS]
)
SELF_FACTOR, CROSS_FACTOR, NOISE = 0.8, 0.9, 0.5


@pytest.fixture(autouse=True)
def no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


def _masks() -> Tensor:
    masks = torch.zeros(2, FRAMES, HEIGHT, WIDTH, dtype=torch.bool)
    for frame in range(FRAMES):
        masks[0, frame, :, frame : frame + 2] = True
    masks[1] = ~masks[0]
    masks[1, :, 0, 0] = True
    return masks


def _regions(tokens: int) -> Tensor:
    return torch.tensor(([3, 1, 2, 0] * tokens)[:tokens])


def _config(case: VideoModel, modulation: Modulation | None = None, **more: Any) -> FameConfig:
    tokens = case.inputs["encoder_hidden_states"].shape[1]
    settings = {
        "token_regions": _regions(tokens), "token_weights": torch.linspace(0.5, 1, tokens), "self_factor": SELF_FACTOR,
        "cross_factor": CROSS_FACTOR, "power": 1.0, "active_fraction": 1.0, "guidance": "all",
    }  # fmt: skip
    modulation = Modulation.fame(FRAMES, decay=0.3) if modulation is None else modulation
    settings = {"layout": SpaceTimeLayout.from_masks(_masks()), "self_modulation": modulation} | settings | more
    return FameConfig(**settings)


def _neutral() -> tuple[Modulation, Modulation]:
    """Tables of zeros: the kernels run, and change nothing."""
    return Modulation(torch.zeros(2, FRAMES, FRAMES)), Modulation(torch.zeros(2, FRAMES, 1))


def _model(case: VideoModel) -> torch.nn.Module:
    torch.manual_seed(0)
    return without_zeros(case.make())


@ON_ALL
def test_neutral_modulation_changes_nothing(name: str):
    case = VIDEO_MODELS[name]()
    model = _model(case)
    plain = run(model, case.inputs)
    to_self, to_text = _neutral()
    with apply_fame(model, _config(case, to_self, cross_modulation=to_text)) as handle:
        assert len(handle.layers) == case.layers
        assert error(run(model, case.inputs), plain)[0] <= 2e-6
    assert torch.equal(run(model, case.inputs), plain)


@ON_ALL
def test_modulation_equals_the_formula_on_tokens_written_out_by_hand(name: str):
    case = VIDEO_MODELS[name]()
    model = _model(case)
    plain = run(model, case.inputs)
    with apply_fame(model, _config(case)):
        fused = run(model, case.inputs)
    with apply_fame(model, _config(case, backend="reference")):
        eager = run(model, case.inputs)
    assert torch.equal(run(model, case.inputs), plain)
    exact_model, inputs = model, case.inputs
    if case.doubles:
        exact_model, inputs = copy.deepcopy(model).double(), doubled(case.inputs)
    with hook_attention(exact_model, _by_hand(case)):
        exact = run(exact_model, inputs)
    assert error(exact, plain)[0] > 1e-3  # the modulation is seen
    assert Verdict(error(fused, exact), error(eager, exact)).passed
    if case.doubles:
        with apply_fame(exact_model, _config(case, backend="reference")):
            assert error(run(exact_model, inputs), exact)[0] < 1e-6  # tables and strengths are float32


def _by_hand(case: VideoModel) -> Callable[[str], Any]:
    """The attention of both kinds of layers, in eager words of our own."""

    def attend(rows: tuple[Row, ...]) -> Any:
        calls = itertools.count()

        def attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float | None) -> Any:
            if not rows[0].video and key.shape[2] < max(rows[0].text) + 1:
                return None  # the keys of an image
            if len(query) < len(rows):
                return _item(case, rows[next(calls) % len(rows)], query, key, value)
            items = [slice(i, i + 1) for i in range(len(query))]
            outs = [_item(case, rows[i % len(rows)], query[of], key[of], value[of]) for i, of in enumerate(items)]
            return torch.cat(outs)

        return attention

    to_self, to_text = attend(case.row), None if case.cross is None else attend(case.cross)
    family = next(family for family in FAMILIES if set(family.models) & {type(case.make()).__name__})
    return lambda name: (
        to_self
        if re.fullmatch(family.layers, name)
        else to_text
        if family.cross is not None and re.fullmatch(family.cross, name)
        else None
    )


def _item(case: VideoModel, row: Row, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Modulated attention of one batch item."""
    masks = _masks()
    region = (masks[0].long() + 2 * masks[1].long()).flatten()
    frame = torch.arange(FRAMES).repeat_interleave(HEIGHT * WIDTH)
    logits = query.shape[-1] ** -0.5 * query @ key.transpose(-1, -2)
    z = torch.full_like(logits, -torch.inf)
    z[..., [*row.video, *row.text, *row.others]] = logits[..., [*row.video, *row.text, *row.others]]
    queries = torch.tensor(row.video or range(query.shape[2] - len(region), query.shape[2]))[:, None]
    if row.video:
        same = (region[:, None] & region[None, :]) != 0
        apart = (frame[:, None] - frame[None, :]).abs()
        bias = -0.3 * apart.to(logits)
        if case.block:
            bias = bias.masked_fill(frame[None, :] // case.block > frame[:, None] // case.block, -torch.inf)
        size = 1 - same.to(logits).mean(1)
        strength = SELF_FACTOR * NOISE * size[:, None]
        z[:, :, queries, row.video] = _moved(logits[:, :, queries, row.video], strength, same, bias)
    if row.text:
        tokens = case.inputs["encoder_hidden_states"].shape[1]
        regions, weights = _regions(tokens)[row.prompt], torch.linspace(0.5, 1, tokens)[row.prompt].to(logits)
        same = (region[:, None] & regions[None, :]) != 0
        size = 1 - same.to(logits).mean(1)
        strength = CROSS_FACTOR * NOISE * size[:, None] * weights
        z[:, :, queries, row.text] = _moved(logits[:, :, queries, row.text], strength, same, torch.zeros(()))
    return z.softmax(-1) @ value


def _moved(s: Tensor, strength: Tensor, same: Tensor, bias: Tensor) -> Tensor:
    """Logits moved toward the extremes over the keys that are not excluded."""
    excluded = (bias == -torch.inf).expand(s.shape)
    high = s.masked_fill(excluded, -torch.inf).amax(-1, keepdim=True)
    low = s.masked_fill(excluded, torch.inf).amin(-1, keepdim=True)
    return s + strength * (torch.where(same, high, low) - s) + bias


@pytest.mark.slow
@ON_ALL
def test_clips_of_one_size_compile_once(name: str):
    case = VIDEO_MODELS[name]()
    model = _model(case)
    with apply_fame(model, _config(case)):
        wanted = run(model, case.inputs)
    torch.compiler.reset()
    counters.clear()
    compiled = torch.compile(model, backend="eager", fullgraph=not case.graph_breaks)
    graphs = []
    for clip in range(3):
        masks = _masks().roll(clip, -1)
        config = _config(case, layout=SpaceTimeLayout.from_masks(masks))
        with apply_fame(compiled, config):
            got = run(compiled, case.inputs)
        graphs.append(counters["stats"]["unique_graphs"])
        if clip == 0:
            assert error(got, wanted)[0] < 1e-5
    assert len(set(graphs)) == 1 and graphs[0] >= 1

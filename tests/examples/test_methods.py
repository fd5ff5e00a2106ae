"""The attention of other methods, written out as their code does it, against examples/methods.

The formulas are plain torch in float64. Each example runs in float64 by the reference and in float32 by
layout_attention.
"""

from __future__ import annotations

import functools
import importlib
from pathlib import Path
from types import ModuleType

import pytest
import torch
from support import ROOT
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

import fame_accel
from fame_accel import Modulation, TokenLayout, reference
from fame_accel.core.parity import error

FRAMES, PIXELS, HEADS, D = 4, 16, 2, 16
N = FRAMES * PIXELS
FILES = sorted((ROOT / "examples/methods").glob("*.py"))


def _import(name: str) -> ModuleType:
    return importlib.import_module(f"examples.methods.{name}")


class Arithmetic:
    """How the examples compute: in float64 by the reference, or in float32 by layout_attention."""

    def __init__(self, exact: bool, monkeypatch: pytest.MonkeyPatch) -> None:
        self.exact = exact
        self.attend = reference.layout_attention if exact else fame_accel.layout_attention
        self._monkeypatch = monkeypatch

    def example(self, name: str) -> ModuleType:
        """The example, whose calls compute in this arithmetic."""
        module = _import(name)
        if self.exact:
            self._monkeypatch.setattr(module, "layout_attention", self.attend)
            if hasattr(module, "attention_mass"):
                by_reference = functools.partial(fame_accel.attention_mass, backend="reference")
                self._monkeypatch.setattr(module, "attention_mass", by_reference)
        return module

    def random(self, *tokens: int, batch: int = 1) -> list[Tensor]:
        dtype = torch.float64 if self.exact else torch.float32
        return [torch.randn(batch, HEADS, count, D, dtype=dtype) for count in tokens]

    def check(self, got: Tensor, wanted: Tensor, float32_tables: bool = False) -> None:
        """Compare with the formula; tables and row strengths are float32 where they hold more than 0, 1 and -inf."""
        assert got.dtype == (torch.float64 if self.exact else torch.float32)
        assert error(got, wanted)[0] < (1e-5 if not self.exact else 1e-6 if float32_tables else 1e-12)


@pytest.fixture(params=[True, False], ids=["float64-reference", "float32-fused"])
def arithmetic(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Arithmetic:
    return Arithmetic(request.param, monkeypatch)


def _plain(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    return scaled_dot_product_attention(query.double(), key.double(), value.double(), attn_mask=mask)


def _video(region: Tensor | None = None, frames: int = FRAMES) -> TokenLayout:
    region = torch.zeros(frames * PIXELS, dtype=torch.int32) if region is None else region
    return TokenLayout(region, torch.arange(frames).repeat_interleave(PIXELS), frames)


def _concatenated(query: Tensor, key: Tensor, value: Tensor, frames: list[list[int]]) -> Tensor:
    """Each frame's attention to the concatenated keys of the frames named for it, repeated ones too."""
    queries, keys, values = (side.unflatten(2, (FRAMES, PIXELS)) for side in (query, key, value))
    outs = [
        _plain(queries[:, :, frame], keys[:, :, named].flatten(2, 3), values[:, :, named].flatten(2, 3))
        for frame, named in enumerate(frames)
    ]
    return torch.cat(outs, 2)


@pytest.mark.parametrize("file", FILES, ids=[file.stem for file in FILES])
def test_every_example_runs(file: Path, capsys: pytest.CaptureFixture[str]):
    _import(file.stem).main()
    lines = capsys.readouterr().out.splitlines()
    assert lines and all(": (" in line for line in lines)


@pytest.mark.parametrize(
    ("method", "frames"),
    [
        ("tune-a-video", [[0, 0], [0, 0], [0, 1], [0, 2]]),
        ("pix2video", [[0], [0, 0], [0, 1], [0, 2]]),
        ("text2video-zero", [[0], [0], [0], [0]]),
        ("vid2vid-zero", [[0, 1, 2, 3]] * 4),
    ],
    ids=["tune-a-video", "pix2video", "text2video-zero", "vid2vid-zero"],
)
def test_key_frames(arithmetic: Arithmetic, method: str, frames: list[list[int]]):
    query, key, value = arithmetic.random(N, N, N)
    modulation = arithmetic.example("key_frames").key_frames(method, FRAMES)
    got = arithmetic.attend(query, key, value, _video(), modulation=modulation)
    arithmetic.check(got, _concatenated(query, key, value, frames))


@pytest.mark.parametrize(
    ("positions", "frames"),
    [
        ([-1, "first"], [[0, 0], [0, 0], [1, 0], [2, 0]]),
        (["mid"], [[1], [1], [1], [1]]),
        ([-1, 1, "first", "last"], [[0, 1, 0, 3], [0, 2, 0, 3], [1, 3, 0, 3], [2, 3, 0, 3]]),
        ([0, -1, "first"], [[0, 0, 0], [1, 0, 0], [2, 1, 0], [3, 2, 0]]),
    ],
)
def test_fatezero(arithmetic: Arithmetic, positions: list[int | str], frames: list[list[int]]):
    query, key, value = arithmetic.random(N, N, N)
    modulation = arithmetic.example("key_frames").fatezero(FRAMES, positions)
    got = arithmetic.attend(query, key, value, _video(), modulation=modulation)
    arithmetic.check(got, _concatenated(query, key, value, frames), float32_tables=True)


def test_fatezero_takes_the_lower_of_two_middle_frames():
    assert _import("key_frames").fatezero(8, ["mid"]) == Modulation.frames(8, [3])


def test_fatezero_counts_frames_that_are_named_again(arithmetic: Arithmetic):
    """Frame 1 sees itself once and frame 0 twice: once each is another result."""
    query, key, value = arithmetic.random(N, N, N)
    modulation = arithmetic.example("key_frames").fatezero(FRAMES, [0, -1, "first"])
    got = arithmetic.attend(query, key, value, _video(), modulation=modulation)
    once = _concatenated(query, key, value, [[0], [1, 0], [2, 1, 0], [3, 2, 0]])
    frame_1 = slice(PIXELS, 2 * PIXELS)
    assert error(got[:, :, frame_1], once[:, :, frame_1])[0] > 0.01


def test_tokenflow(arithmetic: Arithmetic):
    """The source's frames attend to themselves, those of both edits to all key frames."""
    query, key, value = arithmetic.random(N, N, N, batch=3)
    layout, modulation = arithmetic.example("tokenflow").key_frame_layout(FRAMES, PIXELS)
    got = arithmetic.attend(query, key, value, layout, modulation=modulation)
    alone = _concatenated(query[:1], key[:1], value[:1], [[0], [1], [2], [3]])
    together = _concatenated(query[1:], key[1:], value[1:], [[0, 1, 2, 3]] * 4)
    arithmetic.check(got, torch.cat([alone, together]))


def test_videograin(arithmetic: Arithmetic):
    query, key, value = arithmetic.random(N, N, N)
    masks = torch.rand(2, N) > 0.4
    masks[0] |= ~masks.any(0)
    logits = D**-0.5 * query.double() @ key.double().transpose(-1, -2)
    highest, lowest = logits.amax(-1, keepdim=True), logits.amin(-1, keepdim=True)
    shared = (masks[:, :, None] & masks[:, None, :]).any(0)
    size = 1 - shared.double().sum(-1, keepdim=True) / N
    strength = size * 0.3 * ((900 - 1) / 1000) ** 5
    changed = logits + shared * strength * (highest - logits) - ~shared * strength * (logits - lowest)
    wanted = changed.softmax(-1) @ value.double()
    layout = _video(masks[0].int() + 2 * masks[1].int())
    got = arithmetic.example("videograin").self_attention(query, key, value, layout, 900)
    arithmetic.check(got, wanted, float32_tables=True)


def test_flatten(arithmetic: Arithmetic):
    query, key, value = arithmetic.random(N, N, N)
    trajectory = torch.arange(FRAMES) * PIXELS + torch.randint(PIXELS, (N, FRAMES))
    visible = torch.rand(N, FRAMES) > 0.3
    visible[torch.arange(N), torch.arange(N) // PIXELS] = True  # a token lies on its own trajectory
    seen = [trajectory[token][visible[token]] for token in range(N)]
    outs = [_plain(query[:, :, [token]], key[:, :, seen[token]], value[:, :, seen[token]]) for token in range(N)]
    got = arithmetic.example("flatten").trajectory_attention(query, key, value, trajectory, visible)
    arithmetic.check(got, torch.cat(outs, 2))


def test_masactrl(arithmetic: Arithmetic):
    query, key, value = arithmetic.random(N, N, N)
    edit, source = torch.rand(2, N) > 0.5
    of_object = _plain(query, key[:, :, source], value[:, :, source])
    of_background = _plain(query, key[:, :, ~source], value[:, :, ~source])
    wanted = torch.where(edit[:, None], of_object, of_background)
    arithmetic.check(arithmetic.example("masactrl").mutual_attention(query, key, value, edit, source), wanted)


def test_ditctrl(arithmetic: Arithmetic):
    """Both masks hold for pairs of video tokens alone; the blend takes text tokens of the object from the first."""
    text = 6
    query, key, value = arithmetic.random(*[text + N] * 3)
    edit, source = torch.rand(2, N) > 0.5
    results = []
    for seen in (source, ~source):
        mask = torch.ones(text + N, text + N, dtype=torch.bool)
        mask[text:, text:] = seen
        results.append(_plain(query, key, value, mask))
    of_object = torch.cat([torch.tensor([0, 0, 1, 1, 0, 0]).bool(), edit])
    wanted = torch.where(of_object[:, None], *results)
    arithmetic.check(arithmetic.example("ditctrl").shared_attention(query, key, value, edit, source), wanted)


def test_regional_prompting(arithmetic: Arithmetic):
    """Two regions that overlap and leave pixels out."""
    counts, masks = [4, 3], torch.rand(2, N) > 0.6
    masks[:, 0], masks[:, 1] = True, False
    total = sum(counts)
    query, key, value = arithmetic.random(*[total + N] * 3)
    mask = torch.zeros(total + N, total + N, dtype=torch.bool)
    touched = torch.zeros(N, N, dtype=torch.bool)
    start = 0
    for count, pixels in zip(counts, masks, strict=True):
        prompt = slice(start, start + count)
        start += count
        mask[prompt, prompt] = True
        mask[prompt, total:] = pixels
        mask[total:, prompt] = pixels[:, None]
        mask[total:, total:] |= pixels[:, None] & pixels[None, :]
        touched |= pixels[:, None] | pixels[None, :]
    mask[total:, total:] |= ~touched
    layout, modulation = arithmetic.example("regional_prompting").regional_layout(counts, masks)
    got = arithmetic.attend(query, key, value, layout, modulation=modulation)
    arithmetic.check(got, _plain(query, key, value, mask))


def test_prompt_to_prompt(arithmetic: Arithmetic):
    query, key, value = arithmetic.random(N, 77, 77)
    weights = torch.rand(77) * 3
    attention = (D**-0.5 * query.double() @ key.double().transpose(-1, -2)).softmax(-1)
    example = arithmetic.example("prompt_to_prompt")
    wanted = (attention * weights) @ value.double()  # not normalized again
    arithmetic.check(example.reweighted(query, key, value, weights.to(value.dtype)), wanted)
    words = torch.rand(9, 77) > 0.8
    arithmetic.check(example.word_maps(query, key, words), attention @ words.double().T)


def test_block_causal(arithmetic: Arithmetic):
    query, key, value = arithmetic.random(N, N, N)
    block = torch.arange(FRAMES).repeat_interleave(PIXELS) // 2
    modulation = arithmetic.example("block_causal").block_causal(FRAMES, 2)
    got = arithmetic.attend(query, key, value, _video(), modulation=modulation)
    arithmetic.check(got, _plain(query, key, value, block[None, :] <= block[:, None]))


def test_reference_keys(arithmetic: Arithmetic):
    query, *_ = arithmetic.random(N)
    key, value = arithmetic.random(*[N + (FRAMES - 1) * PIXELS] * 2)
    wanted = []
    for frame in range(FRAMES):
        queries = query[:, :, frame * PIXELS : (frame + 1) * PIXELS]
        own = slice(N + max(frame - 1, 0) * PIXELS, N + frame * PIXELS)  # empty for the first frame
        keys, values = (torch.cat([side[:, :, :N], side[:, :, own]], 2) for side in (key, value))
        wanted.append(_plain(queries, keys, values))
    keys_layout, modulation = arithmetic.example("reference_keys").with_references(_video(), PIXELS)
    got = arithmetic.attend(query, key, value, _video(), keys_layout, modulation)
    arithmetic.check(got, torch.cat(wanted, 2))


@pytest.mark.parametrize("slots", [1, 3, 9])
def test_streaming(arithmetic: Arithmetic, slots: int):
    """Frame by frame it is the formula, and one offline call, over the whole clip restricted to the past."""
    frames, decay = 7, 0.2
    query, key, value = arithmetic.random(*[frames * PIXELS] * 3)
    region = torch.randint(1, 4, (frames, PIXELS), dtype=torch.int32)
    attend = arithmetic.example("streaming").StreamingAttention(slots, decay)
    outs = []
    for frame in range(frames):
        own = slice(frame * PIXELS, (frame + 1) * PIXELS)
        outs.append(attend(query[:, :, own], key[:, :, own], value[:, :, own], region[frame]))
    got = torch.cat(outs, 2)

    number, bits = torch.arange(frames).repeat_interleave(PIXELS), region.flatten()
    age = number[:, None] - number[None, :]
    excluded = (age < 0) | (age >= slots) | ((bits[:, None] & bits[None, :]) == 0)
    bias = (-decay * age.double()).masked_fill(excluded, -torch.inf)
    arithmetic.check(got, _plain(query, key, value, bias), float32_tables=True)

    ages = torch.arange(frames)[:, None] - torch.arange(frames)[None, :]
    past = Modulation.region_mask(frames, decay=decay).keep_frames((ages >= 0) & (ages < slots))
    offline = arithmetic.attend(query, key, value, _video(bits, frames), modulation=past)
    arithmetic.check(got, offline.double(), float32_tables=True)


@pytest.mark.parametrize(
    ("name", "call", "message"),
    [
        ("key_frames", lambda one: one.key_frames("unknown", 4), "method must be one of tune-a-video"),
        ("key_frames", lambda one: one.fatezero(4, ["middle"]), "positions must hold offsets or first, mid, last"),
        ("key_frames", lambda one: one.fatezero(4, []), "positions must hold .*at least one, got"),
        ("tokenflow", lambda one: one.key_frame_layout(2, 4, ["source", "target"]), "branches must hold 'source' or"),
        ("block_causal", lambda one: one.block_causal(4, 0), "block must be at least 1 .*, got 0"),
        ("block_causal", lambda one: one.block_causal(5, 2), "block must .* divide num_frames, 5, got 2"),
        ("reference_keys", lambda one: one.with_references(_video(frames=1), 4), "video must have at least 2 frames"),
        ("regional_prompting", lambda one: one.regional_layout([4], torch.ones(2, 8).bool()), "prompt_tokens must"),
        ("streaming", lambda one: one.StreamingAttention(0, 0.1), "slots must be at least 1 .* got 0 and 0.1"),
    ],
)
def test_what_does_not_fit_is_refused(name: str, call, message: str):
    with pytest.raises(ValueError, match=message):
        call(_import(name))

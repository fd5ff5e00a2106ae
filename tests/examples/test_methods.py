"""The attention of other methods, written out eagerly, against examples/methods."""

from __future__ import annotations

import importlib
import math
import re
from pathlib import Path

import pytest
import torch
from support import ROOT
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from fame_accel import Modulation, SpaceTimeLayout, layout_attention
from fame_accel.core.parity import error

FRAMES, PIXELS, HEADS, D = 4, 16, 2, 16
N = FRAMES * PIXELS
FILES = sorted((ROOT / "examples/methods").glob("*.py"))


def _example(name: str):
    return importlib.import_module(f"examples.methods.{name}")


def _random(*tokens: int) -> list[Tensor]:
    return [torch.randn(1, HEADS, count, D) for count in tokens]


def _exact(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    return scaled_dot_product_attention(query.double(), key.double(), value.double(), attn_mask=mask)


def _video() -> SpaceTimeLayout:
    return SpaceTimeLayout.from_masks(torch.rand(2, FRAMES, 4, 4) > 0.4)


@pytest.mark.parametrize("file", FILES, ids=[file.stem for file in FILES])
def test_every_example_runs(file: Path, capsys: pytest.CaptureFixture[str]):
    _example(file.stem).main()
    assert capsys.readouterr().out


@pytest.mark.parametrize(
    ("method", "frames"),
    [
        ("tune-a-video", [[0, max(f - 1, 0)] for f in range(FRAMES)]),
        ("pix2video", [[0, max(f - 1, 0)] for f in range(FRAMES)]),
        ("text2video-zero", [[0]] * FRAMES),
        ("fatezero", [[f, max(f - 1, 0), 0] for f in range(FRAMES)]),
        ("vid2vid-zero", [[0, 1, 2, 3]] * FRAMES),
        ("tokenflow", [[0, 2]] * FRAMES),
    ],
)
def test_key_frames(method: str, frames: list[list[int]]):
    query, key, value = _random(N, N, N)
    by_frame = [side.unflatten(2, (FRAMES, PIXELS)) for side in (query, key, value)]
    wanted = []
    for number, named in enumerate(frames):  # as the methods' code: keys concatenated, repeated ones too
        keys, values = (side[:, :, named].flatten(2, 3) for side in by_frame[1:])
        wanted.append(_exact(by_frame[0][:, :, number], keys, values))
    modulation = _example("key_frames").key_frames(method, FRAMES, every=2)
    got = layout_attention(query, key, value, _video().tokens(4, 4), modulation=modulation)
    assert error(got, torch.cat(wanted, 2))[0] < 1e-5


def test_unknown_key_frames_are_refused():
    with pytest.raises(ValueError, match="method must be one of tune-a-video"):
        _example("key_frames").key_frames("unknown", FRAMES)


def test_videograin():
    query, key, value = _random(N, N, N)
    layout = _video().tokens(4, 4)
    region = layout.region[0]
    s = D**-0.5 * query.double() @ key.double().transpose(-1, -2)
    same = (region[:, None] & region[None, :]) != 0
    rises, falls = s.amax(-1, keepdim=True) - s, s - s.amin(-1, keepdim=True)  # the two masks of its code
    size = 1 - same.double().mean(1, keepdim=True)
    strength = 0.3 * size * 0.9**5
    wanted = (s + strength * (same * rises - ~same * falls)).softmax(-1) @ value.double()
    assert error(_example("videograin").self_attention(query, key, value, layout, 900), wanted)[0] < 1e-5


def test_flatten():
    query, key, value = _random(N, N, N)
    trajectory = torch.arange(FRAMES) * PIXELS + torch.randint(PIXELS, (N, FRAMES))
    visible = torch.rand(N, FRAMES) > 0.3
    visible[:, 0] = True
    wanted = torch.stack(
        [
            _exact(query[:, :, [i]], *(side[:, :, trajectory[i][visible[i]]] for side in (key, value)))[:, :, 0]
            for i in range(N)
        ],
        2,
    )
    got = _example("flatten").trajectory_attention(query, key, value, trajectory, visible)
    assert error(got, wanted)[0] < 1e-5


def test_masactrl():
    query, key, value = _random(N, N, N)
    edit, source = torch.rand(2, N) > 0.5
    of_object = _exact(query, key[:, :, source], value[:, :, source])
    of_background = _exact(query, key[:, :, ~source], value[:, :, ~source])
    wanted = torch.where(edit[:, None], of_object, of_background)
    assert error(_example("masactrl").mutual_attention(query, key, value, edit, source), wanted)[0] < 1e-5


def test_ditctrl():
    text = 6
    query, key, value = _random(text + N, text + N, text + N)
    text_mask, video_mask = torch.tensor([0, 0, 1, 1, 0, 0]).bool(), torch.rand(N) > 0.5
    seen = torch.cat([torch.ones(text, dtype=torch.bool), video_mask])
    others = torch.cat([torch.ones(text, dtype=torch.bool), ~video_mask])
    twice = [_exact(query, key[:, :, keys], value[:, :, keys]) for keys in (seen, others)]
    wanted = torch.where(torch.cat([text_mask, video_mask])[:, None], *twice)
    got = _example("ditctrl").shared_attention(query, key, value, text_mask, video_mask)
    assert error(got, wanted)[0] < 1e-5


def test_regional_prompting():
    counts, masks = [5, 4, 3], torch.rand(2, N) > 0.6
    total = sum(counts)
    query, key, value = _random(*[total + N] * 3)
    mask = torch.zeros(total + N, total + N, dtype=torch.bool)
    start = 0
    for count, pixels in zip(counts, [torch.ones(N, dtype=torch.bool), *masks], strict=True):
        prompt = slice(start, start + count)
        start += count
        mask[prompt, prompt] = True
        mask[prompt, total:] = pixels
        mask[total:, prompt] = pixels[:, None]
    shared = (masks[:, :, None] & masks[:, None, :]).any(0)
    nowhere = ~masks.any(0)
    mask[total:, total:] = shared | (nowhere[:, None] & nowhere[None, :])
    layout, modulation = _example("regional_prompting").regional_layout(counts, masks)
    got = layout_attention(query, key, value, layout, modulation=modulation)
    assert error(got, _exact(query, key, value, mask))[0] < 1e-5


def test_prompt_to_prompt():
    query, key, value = _random(N, 77, 77)
    weights = torch.rand(77) * 3
    attention = (D**-0.5 * query.double() @ key.double().transpose(-1, -2)).softmax(-1)
    wanted = (attention * weights) @ value.double()
    example = _example("prompt_to_prompt")
    assert error(example.reweighted(query, key, value, weights), wanted)[0] < 1e-5
    words = torch.rand(9, 77) > 0.8
    assert error(example.word_maps(query, key, words), attention @ words.double().T)[0] < 1e-5


def test_block_causal():
    query, key, value = _random(N, N, N)
    block = torch.arange(FRAMES).repeat_interleave(PIXELS) // 2
    modulation = _example("block_causal").block_causal(FRAMES, 2)
    got = layout_attention(query, key, value, _video().tokens(4, 4), modulation=modulation)
    assert error(got, _exact(query, key, value, block[None, :] <= block[:, None]))[0] < 1e-5


def test_reference_keys():
    query, *_ = _random(N)
    key, value = _random(*[N + (FRAMES - 1) * PIXELS] * 2)
    frame = torch.arange(FRAMES).repeat_interleave(PIXELS)
    own = frame[:, None] == 1 + torch.arange(FRAMES - 1).repeat_interleave(PIXELS)
    mask = torch.cat([torch.ones(N, N, dtype=torch.bool), own], 1)
    video = _video().tokens(4, 4)
    keys, modulation = _example("reference_keys").with_references(video, PIXELS)
    got = layout_attention(query, key, value, video, keys, modulation)
    assert error(got, _exact(query, key, value, mask))[0] < 1e-5


def test_streaming_equals_the_whole_clip_restricted_to_the_past():
    frames, slots, decay = 7, 3, 0.2
    query, key, value = _random(*[frames * PIXELS] * 3)
    region = torch.randint(1, 4, (frames, PIXELS), dtype=torch.int32)
    attend = _example("streaming").StreamingAttention(slots, decay)
    got = []
    for number in range(frames):
        own = slice(number * PIXELS, (number + 1) * PIXELS)
        got.append(attend(query[:, :, own], key[:, :, own], value[:, :, own], region[number]))
    frame = torch.arange(frames).repeat_interleave(PIXELS)
    age = frame[:, None] - frame[None, :]
    bits = region.flatten()
    bias = (-decay * age.double()).masked_fill((age < 0) | (age >= slots), -math.inf)
    bias = bias.masked_fill((bits[:, None] & bits[None, :]) == 0, -math.inf)
    assert error(torch.cat(got, 2), _exact(query, key, value, bias))[0] < 1e-5


def test_every_tick_of_the_guide_names_a_test_that_stands():
    guide = (ROOT / "docs/porting.md").read_text(encoding="utf-8")
    ticks = re.findall(r"✓ \[`(\w+)`\]", guide)
    assert len(ticks) >= 14
    assert all(callable(globals().get(name)) for name in ticks)
    named = set(re.findall(r"examples/methods/(\w+)\.py", guide))
    assert named == {file.stem for file in FILES}


def test_presets_of_the_guide():
    """The modulations of its recipe are those of the constructors that it names."""
    assert Modulation.frames(3, "first") == _example("key_frames").key_frames("text2video-zero", 3)

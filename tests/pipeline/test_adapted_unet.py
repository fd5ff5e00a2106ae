"""FAME attention in the UNet of a checkpoint: clips whose sides are odd at several levels, and prompts that change."""

from __future__ import annotations

import pytest
import torch
from clips import FRAMES, clip, edit, make_pipeline
from torch import Tensor

from fame_accel import FameConfig, Modulation, SpaceTimeLayout, apply_fame, reference
from fame_accel.demo.pipeline import random_pipeline

LEVELS = (1, 2, 4, 8)
# pixels -> the sizes of the latents at each level: each side is halved and rounded up
SIZES = {
    (160, 96): [(20, 12), (10, 6), (5, 3), (3, 2)],
    (72, 40): [(9, 5), (5, 3), (3, 2), (2, 1)],
    (24, 104): [(3, 13), (2, 7), (1, 4), (1, 2)],
}
on_sizes = pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")


def corner(height: int, width: int) -> dict[str, Tensor]:
    """A triangle at the upper left, which grows from frame to frame, and the rest: neither is empty at any level."""
    diagonal = torch.arange(height)[:, None] / height + torch.arange(width) / width
    person = torch.stack([diagonal < 0.4 + 0.04 * frame for frame in range(FRAMES)])
    return {"person": person, "background": ~person}


@pytest.fixture(scope="module")
def parts() -> dict:
    return random_pipeline().components


@pytest.fixture
def unet(parts: dict) -> torch.nn.Module:
    return parts["unet"]


def level_of(name: str) -> int:
    """The downsampling of a layer by its place in Stable Diffusion's UNet of four blocks."""
    kind, _, rest = name.partition(".")
    if kind == "mid_block":
        return 8
    block = int(rest.split(".")[0])
    return 2**block if kind == "down_blocks" else 2 ** (3 - block)


@on_sizes
@torch.no_grad()
def test_each_layer_attends_at_its_own_size(unet: torch.nn.Module, size: tuple[int, int]) -> None:
    """Each self-attention layer returns what the reference returns for masks resampled to the layer's size."""
    layout = SpaceTimeLayout.from_masks(torch.stack(list(corner(*size).values())))
    modulation = Modulation.fame(FRAMES)
    calls: dict[str, tuple[Tensor, Tensor]] = {}
    hooks = [
        module.register_forward_hook(lambda _, args, out, name=name: calls.update({name: (args[0], out)}))
        for name, module in unet.named_modules()
        if name.endswith(".attn1")
    ]
    height, width = SIZES[size][0]
    config = FameConfig(layout, modulation, self_factor=0.8, power=1.0, active_fraction=1.0, backend="reference")
    try:
        with apply_fame(unet, config):
            unet(
                torch.randn(FRAMES, 4, height, width), torch.tensor(801), torch.randn(1, 77, 64).expand(FRAMES, -1, -1)
            )
    finally:
        for hook in hooks:
            hook.remove()
    assert {level_of(name) for name in calls} == set(LEVELS)
    for name, (hidden, out) in calls.items():
        height, width = SIZES[size][LEVELS.index(level_of(name))]
        assert hidden.shape[:2] == (FRAMES, height * width)
        tokens = layout.tokens(height, width)
        attention = unet.get_submodule(name)
        query, key, value = (
            project(hidden).flatten(0, 1).unflatten(-1, (attention.heads, -1)).transpose(0, 1)[None]
            for project in (attention.to_q, attention.to_k, attention.to_v)
        )
        attended = reference.layout_attention(
            query, key, value, tokens, modulation=modulation, row_strength=0.8 * 0.8 * tokens.size_regularization()
        )
        expected = attention.to_out[0](attended[0].transpose(0, 1).flatten(1)).view_as(out)
        torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)


@on_sizes
def test_fused_edits_of_odd_sizes_are_the_eager_edits(parts: dict, size: tuple[int, int]) -> None:
    pipeline = make_pipeline(parts)
    options = dict(frames=clip(0, *size), masks=corner(*size))
    eager, fused = (edit(pipeline, backend=backend, **options) for backend in ("reference", "sdpa"))
    plain = edit(pipeline, modulated_steps=0, debias=(), **options)
    error = (fused - eager).abs().max()
    assert error < 1e-3 and error < (plain - eager).abs().max() / 20


@on_sizes
@pytest.mark.parametrize("attention", ["self", "cross"])
@pytest.mark.parametrize("level", LEVELS)
def test_every_level_is_modulated(parts: dict, size: tuple[int, int], level: int, attention: str) -> None:
    """With one level and one kind of attention alone, modulation still changes the edit: its layers were found."""
    pipeline = make_pipeline(parts)
    options = dict(frames=clip(0, *size), masks=corner(*size), levels=(level,), power=0.0, debias=())
    options |= dict(guidance_scale=1.0, latents=torch.randn(FRAMES, 4, *SIZES[size][0]))
    options |= dict(cross_factor=0.0, self_factor=1.0) if attention == "self" else dict(modulation=Modulation())
    modulated, plain = (edit(pipeline, modulated_steps=steps, **options) for steps in (2, 0))
    assert (modulated - plain).abs().max() > 1e-4


def test_a_prompt_changed_in_place_is_checked_again(unet: torch.nn.Module) -> None:
    """Text embeddings are compared across frames when they are new, and again when they were written to."""
    layout = SpaceTimeLayout.from_masks(torch.stack(list(corner(64, 72).values())))
    sample, timestep = torch.randn(1, 4, 8, 9).expand(FRAMES, -1, -1, -1), torch.tensor(801)
    text = torch.randn(1, 77, 64).repeat(FRAMES, 1, 1)
    with torch.no_grad(), apply_fame(unet, FameConfig(layout, Modulation.fame(FRAMES))):
        for _ in range(2):
            unet(sample, timestep, text)
        text += 1  # the same for every frame
        unet(sample, timestep, text)
        text[1] += 1
        with pytest.raises(ValueError, match="frames of a clip must share one prompt"):
            unet(sample, timestep, text)
        text[1] -= 1
        unet(sample, timestep, text)

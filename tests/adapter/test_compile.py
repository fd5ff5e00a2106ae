"""Compiled models: what the first clip compiled serves every later one."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import diffusers
import pytest
import torch
import torch._dynamo.testing
from torch import Tensor

import fame_accel as fa
from fame_accel.demo.pipeline import random_pipeline
from fame_accel.pipeline import FameVideoEditPipeline

FRAMES, SIZE, TOKENS, CHANNELS, CLIPS = 2, 12, 7, 24, 12


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def make_unet() -> diffusers.UNet2DConditionModel:
    torch.manual_seed(0)
    return diffusers.UNet2DConditionModel(
        sample_size=SIZE, block_out_channels=(16, 32), layers_per_block=1, norm_num_groups=4,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"), attention_head_dim=2,
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"), cross_attention_dim=CHANNELS,
    ).eval()  # fmt: skip


def masks(clip: int) -> Tensor:
    """One region that fills the frame in clip 0; later regions of other shapes and numbers, with overlaps."""
    stacked = torch.zeros(3, FRAMES, SIZE, SIZE, dtype=torch.bool)
    stacked[0] = True
    if clip:
        generator = torch.manual_seed(clip)
        stacked[0, :, :, clip % SIZE :] = False
        stacked[1, :, clip % SIZE :] = True
        stacked[2] = torch.rand(FRAMES, SIZE, SIZE, generator=generator) > 0.8
    return stacked


def make_config(clip: int) -> fa.FameConfig:
    tokens = torch.zeros(TOKENS, dtype=torch.int32)
    tokens[2], tokens[4] = 1, 2
    return fa.FameConfig(fa.SpaceTimeLayout.from_masks(masks(clip)), fa.Modulation.fame(FRAMES), token_regions=tokens)


def forward(unet: Callable, parts: int, timestep: float) -> Tensor:
    """Inversion has one part, guidance two."""
    torch.manual_seed(parts)
    sample = torch.randn(FRAMES, 4, SIZE, SIZE).repeat(parts, 1, 1, 1)
    text = torch.randn(parts, 1, TOKENS, CHANNELS).expand(-1, FRAMES, -1, -1).flatten(0, 1)
    return unet(sample, torch.tensor(timestep), encoder_hidden_states=text).sample


def steps(unet: Callable) -> list[Tensor]:
    """A pass of inversion, a modulated one and a plain one."""
    return [forward(unet, 1, 500.0), forward(unet, 2, 900.0), forward(unet, 2, 500.0)]


CONFIGS = {
    "new masks": make_config,
    "equal masks": lambda clip: make_config(1),
    "one config": lambda clip, one=make_config(1): one,  # noqa: B008
}


@pytest.mark.parametrize("part", [pytest.param("whole", marks=pytest.mark.slow), "blocks"])
@pytest.mark.parametrize(
    "configs",
    [
        pytest.param(make, id=name, marks=[] if name == "new masks" else pytest.mark.slow)
        for name, make in CONFIGS.items()
    ],
)
@torch.no_grad()
@pytest.mark.slow
def test_later_clips_are_not_compiled(part: str, configs: Callable[[int], fa.FameConfig]) -> None:
    unet, eager = make_unet(), make_unet()
    counter = torch._dynamo.testing.CompileCounter()
    if part == "whole":
        compiled = torch.compile(unet, fullgraph=True, backend=counter)
    else:
        unet.compile_repeated_blocks(fullgraph=True, backend=counter)
        compiled = unet
    counts = []
    for clip in range(CLIPS):
        with fa.apply_fame(compiled, configs(clip)):
            outs = steps(compiled)
        counts.append(counter.frame_count)
        if clip in (0, 1, CLIPS - 1):
            with fa.apply_fame(eager, configs(clip)):
                for got, wanted in zip(outs, steps(eager), strict=True):
                    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)
    assert counts[0] > 0 and counts == counts[:1] * CLIPS


@pytest.mark.slow
def test_later_edits_are_not_compiled() -> None:
    """The whole pipeline, with four sizes of layers; another size of clip compiles again, within the limit."""
    pipeline = FameVideoEditPipeline.from_pipe(random_pipeline())
    pipeline.set_progress_bar_config(disable=True)
    counter = torch._dynamo.testing.CompileCounter()
    pipeline.unet.compile_repeated_blocks(fullgraph=True, backend=counter)

    def edit(seed: int, height: int, width: int) -> int:
        generator = torch.manual_seed(seed)
        clip = torch.randint(0, 255, (FRAMES, height, width, 3), dtype=torch.uint8, generator=generator)
        person = torch.zeros(FRAMES, height, width, dtype=torch.bool)
        person[:, 8 + seed : 40, 16 : 40 + seed] = True
        pipeline(
            clip, "a doctor in a car", {"person": person, "background": ~person},
            {"person": "doctor", "background": "car"}, num_inference_steps=2, modulated_steps=1, output_type="latent",
        )  # fmt: skip
        return counter.frame_count

    first = edit(0, 64, 64)
    assert [edit(seed, 64, 64) for seed in (1, 2)] == [first] * 2
    assert edit(3, 64, 72) > first

"""What other libraries and pipelines do to attention or with several networks: it works, or is refused by its name."""

from __future__ import annotations

import copy
from typing import Any

import diffusers
import pytest
import torch
from clips import FRAMES, clip, edit, make_pipeline

from fame_accel.demo.pipeline import random_controlnet, random_pipeline
from fame_accel.pipeline import FameVideoEditPipeline


@pytest.fixture(scope="module")
def parts() -> dict[str, Any]:
    return random_pipeline().components


@pytest.fixture
def pipeline(parts: dict[str, Any]) -> FameVideoEditPipeline:
    return make_pipeline(parts | {"unet": copy.deepcopy(parts["unet"])})


def test_caches_that_skip_attention_are_refused(pipeline):
    config = diffusers.PyramidAttentionBroadcastConfig(
        spatial_attention_block_skip_range=2, current_timestep_callback=lambda: 500,
        spatial_attention_block_identifiers=("down_blocks.*attentions", "up_blocks.*attentions"),
    )  # fmt: skip
    diffusers.apply_pyramid_attention_broadcast(pipeline.unet, config)
    with pytest.raises(RuntimeError, match="unet.* has pyramid_attention_broadcast, which skips attention"):
        edit(pipeline)


def test_a_replaced_forward_is_refused(pipeline):
    block = pipeline.unet.down_blocks[0]
    block.forward = block.forward  # as DeepCache wraps it
    with pytest.raises(RuntimeError, match="unet.down_blocks.0.forward was replaced, as DeepCache does"):
        edit(pipeline)


def test_ip_adapters_are_refused(pipeline, parts):
    class IPAdapterAttnProcessor(torch.nn.Module):
        pass

    pipeline.unet.set_attn_processor(dict.fromkeys(pipeline.unet.attn_processors, IPAdapterAttnProcessor()))
    for use in (lambda: edit(pipeline), lambda: make_pipeline(parts | {"unet": pipeline.unet})):
        with pytest.raises(RuntimeError, match="is of an IP-Adapter, which an edit does not support"):
            use()


def test_slicing_and_freeu_and_casting_work(pipeline, parts):
    wanted = edit(make_pipeline(parts))
    pipeline.enable_attention_slicing(1)
    torch.testing.assert_close(edit(pipeline), wanted, atol=1e-4, rtol=1e-4)
    pipeline.disable_attention_slicing()
    pipeline.enable_freeu(s1=0.9, s2=0.2, b1=1.2, b2=1.4)
    assert edit(pipeline).isfinite().all()
    pipeline.disable_freeu()
    pipeline.unet.enable_layerwise_casting(torch.float16, torch.float32)
    assert edit(pipeline).isfinite().all()


def test_generators(pipeline):
    one = [torch.Generator().manual_seed(frame) for frame in range(FRAMES)]
    assert edit(pipeline, ddim_eta=1.0, generator=one).isfinite().all()
    with pytest.raises(ValueError, match="generator must be one, or a list of 3, one a frame, got 2"):
        edit(pipeline, ddim_eta=1.0, generator=one[:2])
    with pytest.raises(TypeError, match="generator must be a torch.Generator or a list of them, got 5"):
        edit(pipeline, generator=5)


@pytest.mark.parametrize(
    "name, remedy",
    [
        ("num_images_per_prompt", "call again with another generator"),
        ("cross_attention_kwargs", "set the scale of a LoRA with set_adapters"),
        ("ip_adapter_image", "IP-Adapters are not supported"),
        ("anything", "see the documentation of the call"),
    ],
)
def test_arguments_of_other_pipelines_say_what_serves_instead(pipeline, name, remedy):
    with pytest.raises(TypeError, match=f"the edit takes no argument '{name}': .*{remedy}"):
        edit(pipeline, **{name: None})


# ---- several ControlNets


@pytest.mark.slow
def test_several_controlnets_are_added(parts):
    """Two halves of one ControlNet are the whole; a list is as good as MultiControlNetModel."""
    network = random_controlnet(parts["unet"])
    names = ("vae", "text_encoder", "tokenizer", "unet", "scheduler")
    components = {name: parts[name] for name in names}

    def make(controlnet: Any) -> FameVideoEditPipeline:
        made = FameVideoEditPipeline(**components, controlnet=controlnet)
        made.set_progress_bar_config(disable=True)
        return made

    shared = dict(control_frames=clip(seed=5))
    wanted = edit(make(network), **shared)
    two = dict(control_frames=[clip(seed=5), clip(seed=6)])
    for several in ([network, network], diffusers.MultiControlNetModel([network, network])):
        pipeline = make(several)
        torch.testing.assert_close(edit(pipeline, **two, controlnet_conditioning_scale=[1.0, 0.0]), wanted)
    halves = edit(pipeline, control_frames=[clip(seed=5)] * 2, controlnet_conditioning_scale=0.5)
    torch.testing.assert_close(halves, wanted, atol=1e-3, rtol=1e-3)
    assert not torch.equal(edit(pipeline, **two), wanted)
    with pytest.raises(ValueError, match="control_frames must be a list of 2 clips, one per network, got 1"):
        edit(pipeline, **shared)
    with pytest.raises(ValueError, match="scale must be a number or 2 in a list, one per network, got \\[1.0\\]"):
        edit(pipeline, **two, controlnet_conditioning_scale=[1.0])
    with pytest.raises(ValueError, match="controlnet_conditioning_scale must be finite, got nan"):
        edit(pipeline, **two, controlnet_conditioning_scale=float("nan"))

"""apply_fame on tiny Stable Diffusion pipelines."""

from __future__ import annotations

import pytest
import torch
import torch._dynamo.testing
from torch import Tensor

import fame_accel as fa

diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")

FRAMES, SIZE, TOKENS, CHANNELS = 3, 8, 7, 16


def make_unet(seed: int = 0, **changes) -> diffusers.UNet2DConditionModel:
    torch.manual_seed(seed)
    options = dict(
        sample_size=SIZE,
        block_out_channels=(16, 32),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        attention_head_dim=2,
        cross_attention_dim=CHANNELS,
        norm_num_groups=4,
    )
    return diffusers.UNet2DConditionModel(**(options | changes)).eval()


def layout() -> fa.SpaceTimeLayout:
    masks = torch.zeros(2, FRAMES, 32, 32, dtype=torch.bool)
    masks[0, :, 4:20, 6:22] = True
    masks[1, :, 16:, 12:] = True  # overlaps the first and leaves pixels uncovered
    return fa.SpaceTimeLayout.from_masks(masks)


def config(**changes) -> fa.FameConfig:
    regions = torch.tensor([0, 1, 1, 0, 2, 0, 0])
    options = dict(
        self_modulation=fa.Modulation.fame(FRAMES),
        token_regions=regions,
        token_weights=(regions != 0).float(),
        levels=(1, 2),
    )
    return fa.FameConfig(layout(), **(options | changes))


def inputs(chunks: int, seed: int = 1) -> tuple[Tensor, Tensor]:
    torch.manual_seed(seed)
    sample = torch.randn(FRAMES, 4, SIZE, SIZE).repeat(chunks, 1, 1, 1)  # guidance repeats the latents
    text = torch.randn(chunks, 1, TOKENS, CHANNELS).expand(-1, FRAMES, -1, -1).flatten(0, 1)
    return sample, text.contiguous()


@torch.no_grad()
def forward(unet: torch.nn.Module, sample: Tensor, text: Tensor, timestep: float = 900) -> Tensor:
    return unet(sample, timestep, encoder_hidden_states=text).sample


@pytest.mark.parametrize("chunks", [1, 2])
@pytest.mark.parametrize("guidance", ["conditional", "all"])
@pytest.mark.parametrize(
    "modulation",
    [fa.Modulation.fame(FRAMES), fa.Modulation.region_mask(FRAMES, 0.2), fa.Modulation.videograin(FRAMES), None],
    ids=["fame", "hard", "videograin", "cross only"],
)
def test_backends_agree(chunks: int, guidance: str, modulation: fa.Modulation | None) -> None:
    unet, (sample, text) = make_unet(), inputs(chunks)
    plain = forward(unet, sample, text)
    outs = {}
    for backend in ("reference", "sdpa"):
        with fa.apply_fame(unet, config(self_modulation=modulation, guidance=guidance, backend=backend)):
            outs[backend] = forward(unet, sample, text)
    torch.testing.assert_close(outs["sdpa"], outs["reference"], rtol=1e-5, atol=1e-5)
    assert (outs["sdpa"][-FRAMES:] - plain[-FRAMES:]).abs().max() > 1e-4  # it does something
    assert torch.equal(forward(unet, sample, text), plain)  # and is gone


@torch.no_grad()
def test_self_attention_by_hand() -> None:
    """One layer against attention written out from its own projections."""
    unet, (sample, text) = make_unet(), inputs(2)
    attn = unet.get_submodule("down_blocks.0.attentions.0.transformer_blocks.0.attn1")
    seen = {}
    hook = attn.register_forward_hook(lambda module, args, out: seen.update(given=args[0], out=out))
    with fa.apply_fame(unet, config(token_regions=None, token_weights=None)):
        forward(unet, sample, text, timestep=900)
    hook.remove()

    tokens = layout().tokens(SIZE, SIZE)
    strength = 0.3 * tokens.size_regularization() * (899 / 1000) ** 5
    clip = seen["given"].view(2, FRAMES * SIZE * SIZE, -1)
    q, k, v = (linear(clip).view(2, -1, 2, 8).transpose(1, 2) for linear in (attn.to_q, attn.to_k, attn.to_v))
    plain = torch.nn.functional.scaled_dot_product_attention(q[:1], k[:1], v[:1])
    modulated = fa.reference.layout_attention(
        q[1:], k[1:], v[1:], tokens, modulation=fa.Modulation.fame(FRAMES), row_strength=strength
    )
    wanted = attn.to_out[0](torch.cat([plain, modulated]).transpose(1, 2).flatten(2)).view_as(seen["out"])
    torch.testing.assert_close(seen["out"], wanted, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_cross_attention_by_hand() -> None:
    unet, (sample, text) = make_unet(), inputs(1)
    attn = unet.get_submodule("down_blocks.0.attentions.0.transformer_blocks.0.attn2")
    seen = {}
    hook = attn.register_forward_hook(lambda module, args, out: seen.update(given=args[0], out=out))
    fame = config(self_modulation=None)
    with fa.apply_fame(unet, fame):
        forward(unet, sample, text, timestep=800)
    hook.remove()

    tokens = layout().tokens(SIZE, SIZE)
    bits = fame.token_regions
    shared = (tokens.region[0][:, None] & bits[None, :]) != 0
    strength = (1 - shared.float().mean(1)) * (799 / 1000) ** 5
    clip = seen["given"].view(1, FRAMES * SIZE * SIZE, -1)
    q = attn.to_q(clip).view(1, -1, 2, 8).transpose(1, 2)
    k, v = (linear(text[:1]).view(1, -1, 2, 8).transpose(1, 2) for linear in (attn.to_k, attn.to_v))
    logits = q @ k.transpose(-1, -2) * 8**-0.5
    pull = strength[:, None] * fame.token_weights[None, :]
    target = torch.where(shared, logits.amax(-1, keepdim=True), logits.amin(-1, keepdim=True))
    out = torch.softmax(logits + pull * (target - logits), -1) @ v
    wanted = attn.to_out[0](out.transpose(1, 2).flatten(2)).view_as(seen["out"])
    torch.testing.assert_close(seen["out"], wanted, rtol=1e-5, atol=1e-5)


def test_unconditional_part_is_plain() -> None:
    unet, (sample, text) = make_unet(), inputs(2)
    with fa.apply_fame(unet, config(active_fraction=0.0)):
        plain = forward(unet, sample, text)
    with fa.apply_fame(unet, config(active_fraction=1.0)):
        modulated = forward(unet, sample, text)
    torch.testing.assert_close(modulated[:FRAMES], plain[:FRAMES], rtol=1e-5, atol=1e-5)
    assert (modulated[FRAMES:] - plain[FRAMES:]).abs().max() > 1e-4


def test_size_of_a_frame_in_cross_attention() -> None:
    """cross_size="frame": 1 - the share of the frame's own pixels that lie in a region of the pixel."""
    unet, (sample, text) = make_unet(), inputs(1)
    with fa.apply_fame(unet, config(cross_size="frame")) as handle:
        forward(unet, sample, text, timestep=1000)
        [layer, *_] = [name for name in handle.processors if name.startswith("down_blocks.0") and ".attn2." in name]
        measured = handle.processors[layer].call.row_strength[0] / 0.999**5
    bits = layout().tokens(SIZE, SIZE).region.view(FRAMES, -1)
    shared = (bits[:, :, None] & bits[:, None, :]) != 0
    wanted = 1 - shared.float().mean(2)
    assert 0 < wanted.min() < 0.9 < wanted.max()
    torch.testing.assert_close(measured, wanted.flatten())


def test_paused_pass_is_plain() -> None:
    unet, (sample, text) = make_unet(), inputs(1)
    with fa.apply_fame(unet, config(active_fraction=0.0)):
        plain = forward(unet, sample, text)
    with fa.apply_fame(unet, config()) as handle:
        with handle.paused():
            assert torch.equal(forward(unet, sample, text), plain)
        assert (forward(unet, sample, text) - plain).abs().max() > 1e-4


def test_plain_steps_project_the_text_once() -> None:
    unet, (sample, text) = make_unet(), inputs(2)
    wanted = forward(unet, sample, text)
    attn = unet.get_submodule("down_blocks.0.attentions.0.transformer_blocks.0.attn2")
    seen = []
    attn.to_k.register_forward_hook(lambda module, args, out: seen.append(len(args[0])))
    with fa.apply_fame(unet, config(self_modulation=None, active_fraction=0.0)):
        measured = forward(unet, sample, text)
    assert seen == [2]  # the parts of the batch, not their frames
    torch.testing.assert_close(measured, wanted, rtol=1e-5, atol=1e-5)


def test_steps_that_are_not_active() -> None:
    unet, (sample, text) = make_unet(), inputs(2)
    with fa.apply_fame(unet, config(active_fraction=0.0)):
        plain = forward(unet, sample, text, timestep=699)
    with fa.apply_fame(unet, config()):
        for timestep in (699, torch.tensor(699)):
            assert torch.equal(forward(unet, sample, text, timestep), plain)
        at_700 = forward(unet, sample, text, timestep=700)
    with fa.apply_fame(unet, config(active_fraction=0.0)):
        plain = forward(unet, sample, text, timestep=700)
    assert torch.equal(at_700[:FRAMES], plain[:FRAMES])
    assert (at_700[FRAMES:] - plain[FRAMES:]).abs().max() > 1e-4


def test_other_levels_keep_their_processor() -> None:
    unet, (sample, text) = make_unet(), inputs(1)
    plain = forward(unet, sample, text)
    with fa.apply_fame(unet, config(levels=(8,))):
        assert torch.equal(forward(unet, sample, text), plain)


def test_odd_sizes() -> None:
    unet, (_, text) = make_unet(), inputs(1)
    sample = torch.randn(FRAMES, 4, 10, 6)
    outs = []
    for backend in ("reference", "sdpa"):
        with fa.apply_fame(unet, config(backend=backend, levels=(1, 2, 4))):
            outs.append(forward(unet, sample, text))
    torch.testing.assert_close(*outs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("compiled_part", ["whole", "blocks"])
@torch.no_grad()
@pytest.mark.slow
def test_compiled_model_is_not_compiled_again_each_step(compiled_part: str) -> None:
    unet, (sample, text) = make_unet(), inputs(2)
    steps = [torch.tensor(t) for t in (900.0, 800.0, 700.0)]
    with fa.apply_fame(unet, config()):
        expected = [unet(sample, step, encoder_hidden_states=text).sample for step in steps]
    torch._dynamo.reset()
    counter = torch._dynamo.testing.CompileCounter()
    if compiled_part == "whole":
        compiled = torch.compile(unet, fullgraph=True, backend=counter)
    else:
        unet.compile_repeated_blocks(fullgraph=True, backend=counter)
        compiled = unet
    with fa.apply_fame(compiled, config()):
        frames = []
        for step, wanted in zip(steps, expected, strict=True):
            got = compiled(sample, step, encoder_hidden_states=text).sample
            torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)
            frames.append(counter.frame_count)
    assert frames[0] >= 1 and frames == frames[:1] * 3


@pytest.mark.parametrize(
    "discard",
    [
        lambda unet: unet.set_attention_slice("auto"),
        lambda unet: unet.set_attn_processor(diffusers.models.attention_processor.AttnProcessor2_0()),
        lambda unet: unet.fuse_qkv_projections(),
    ],
    ids=["slicing", "set_attn_processor", "fuse_qkv"],
)
def test_discarded_processors_are_reported(discard) -> None:
    unet, (sample, text) = make_unet(), inputs(1)
    handle = fa.apply_fame(unet, config())
    discard(unet)
    with pytest.raises(RuntimeError, match="FAME's processor was replaced in"):
        forward(unet, sample, text)
    handle.restore()
    handle.restore()  # a second time is harmless


def test_processor_made_anew_says_so() -> None:
    unet, (sample, text) = make_unet(), inputs(1)
    unet.set_attn_processor(fa.FameSelfAttnProcessor())
    with pytest.raises(RuntimeError, match="not installed by apply_fame"):
        forward(unet, sample, text)


def test_restoring_without_the_handle() -> None:
    unet, (sample, text) = make_unet(), inputs(1)
    plain = forward(unet, sample, text)
    fa.apply_fame(unet, config())
    with pytest.raises(RuntimeError, match="restore_fame"):
        fa.apply_fame(unet, config())
    fa.restore_fame(unet)
    fa.restore_fame(unet)
    assert torch.equal(forward(unet, sample, text), plain)

    fa.apply_fame(unet, config())
    unet.set_attn_processor(diffusers.models.attention_processor.AttnProcessor2_0())
    with fa.apply_fame(unet, config()):  # takes the place of the one whose processors were replaced
        forward(unet, sample, text)
    assert torch.equal(forward(unet, sample, text), plain)


def test_edit_without_a_modulated_step_warns() -> None:
    unet, (sample, text) = make_unet(), inputs(1)
    handle = fa.apply_fame(unet, config())
    forward(unet, sample, text, timestep=667)
    with pytest.warns(UserWarning, match="none of the 1 steps was modulated: no timestep reached 700"):
        handle.restore()


def test_inference_mode_and_back() -> None:
    unet, (sample, text) = make_unet(), inputs(1)
    with fa.apply_fame(unet, config()):
        wanted = forward(unet, sample, text)
    with fa.apply_fame(unet, config()):
        with torch.inference_mode():
            for _ in range(2):
                inside = unet(sample.clone(), 900, encoder_hidden_states=text.clone()).sample
        outside = forward(unet, sample, text)
    torch.testing.assert_close(inside.clone(), wanted)
    torch.testing.assert_close(outside, wanted)


def test_merged_tokens_are_reported() -> None:
    unet, (sample, text) = make_unet(), inputs(1)
    attn = unet.get_submodule("down_blocks.0.attentions.0.transformer_blocks.0.attn1")
    with fa.apply_fame(unet, config()):
        forward(unet, sample, text)
        with pytest.raises(ValueError, match="a layer has 40 tokens a frame"), torch.no_grad():
            attn(torch.randn(FRAMES, 40, 16))


def test_mistakes() -> None:
    unet, (sample, text) = make_unet(), inputs(1)
    with pytest.raises(TypeError, match="UNet2DConditionModel"):
        fa.apply_fame(torch.nn.Linear(2, 2), config())
    with pytest.raises(TypeError, match="config must be a FameConfig"):
        fa.apply_fame(unet, {})
    with pytest.raises(ValueError, match="neither self- nor cross-attention"):
        fa.apply_fame(unet, config(self_modulation=None, token_regions=None, token_weights=None))
    with fa.apply_fame(unet, config()):
        with pytest.raises(RuntimeError, match="installed already"):
            fa.apply_fame(unet, config())
        with pytest.raises(ValueError, match="layout has 3 frames, but the model got a batch of 2"):
            forward(unet, sample[:2], text[:2])
        with pytest.raises(ValueError, match="not the same latents repeated"):  # a clip of twice the frames
            forward(unet, torch.randn(2 * FRAMES, 4, SIZE, SIZE), text.repeat(2, 1, 1))
        with pytest.raises(ValueError, match="cannot tell the conditional one"):
            forward(unet, sample.repeat(3, 1, 1, 1), text.repeat(3, 1, 1))
        with pytest.raises(ValueError, match="token_regions has 7 tokens"):
            forward(unet, sample, text[:, :5])
        with pytest.raises(ValueError, match="must share one prompt"):
            forward(unet, sample, torch.randn_like(text))
        with pytest.raises(ValueError, match=r"\[prompt\] \* frames"):
            forward(unet, sample, text[:1])
        with pytest.raises(ValueError, match="timestep must lie in"):
            forward(unet, sample, text, timestep=1001)
        with pytest.raises(RuntimeError, match="IP-Adapter"):
            unet(sample, 900, encoder_hidden_states=(text, [text]))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (dict(self_modulation=fa.Modulation.fame(4)), ValueError, "self_modulation"),
        (dict(cross_modulation=fa.Modulation.fame(FRAMES)), ValueError, "cross_modulation"),
        (dict(self_factor=1.5), ValueError, "self_factor"),
        (dict(cross_factor=float("nan")), ValueError, "cross_factor"),
        (dict(active_fraction=-0.1), ValueError, "active_fraction"),
        (dict(power=-1.0), ValueError, "power"),
        (dict(power=float("inf")), ValueError, "power"),
        (dict(token_regions=torch.full((TOKENS,), 4)), ValueError, "token_regions must use the layout's 2 regions"),
        (dict(levels=(3,)), ValueError, "levels"),
        (dict(levels=()), ValueError, "levels"),
        (dict(levels=4), ValueError, "levels must be a tuple of powers of two from 1 to 128, got 4"),
        (
            dict(levels=torch.ones(2, 2)),
            ValueError,
            "levels must .* got a tensor of torch.float32 with shape",
        ),
        (dict(self_factor=True), ValueError, r"self_factor must be a number in \[0, 1\], got True"),
        (dict(power=10**400), ValueError, "power must be a finite number >= 0, got 1000"),
        (dict(num_inference_steps=True), ValueError, "num_inference_steps must be an int >= 1, got True"),
        (dict(guidance=torch.ones(2)), ValueError, "guidance must be one of conditional, all, got a tensor"),
        (dict(group="ranks"), TypeError, "group must be a torch.distributed process group or None, got 'ranks'"),
        (dict(token_weights=[1.0] * TOKENS), ValueError, r"token_weights must be a floating tensor .* got \[1.0"),
        (dict(token_weights=torch.ones(TOKENS, device="meta")), ValueError, "token_weights must have values"),
        (dict(token_regions=torch.ones(TOKENS, device="meta").int()), ValueError, "token_regions must have values"),
        (dict(token_regions=[1]), TypeError, r"token_regions must be an integer tensor .* got \[1\]"),
        (dict(guidance="both"), ValueError, "guidance"),
        (dict(cross_size="pixels"), ValueError, "cross_size"),
        (dict(backend="cuda"), ValueError, "backend"),
        (dict(token_weights=torch.ones(3)), ValueError, "token_weights"),
        (dict(token_weights=torch.full((TOKENS,), 2.0)), ValueError, "token_weights"),
        (dict(token_regions=None), ValueError, "token_weights needs token_regions"),
        (dict(token_regions=torch.ones(TOKENS)), TypeError, "region"),
    ],
)
def test_bad_config(change: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        config(**change)


@pytest.mark.parametrize("model", [None, 3, "unet", []])
def test_restore_takes_models_alone(model: object) -> None:
    with pytest.raises(TypeError, match="model_or_pipeline must be a model of diffusers or a pipeline with one, got"):
        fa.restore_fame(model)


def components() -> dict:
    torch.manual_seed(0)
    vae = diffusers.AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
        latent_channels=4,
    )
    return dict(
        vae=vae.eval(),
        text_encoder=None,
        tokenizer=None,
        unet=make_unet(),
        scheduler=diffusers.DDIMScheduler(steps_offset=1, clip_sample=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


@pytest.mark.parametrize("guidance_scale", [1.0, 5.0])
@pytest.mark.parametrize(
    "name",
    [
        "StableDiffusionPipeline",
        "StableDiffusionImg2ImgPipeline",
        "StableDiffusionControlNetPipeline",
        "StableDiffusionControlNetImg2ImgPipeline",
    ],
)
def test_pipelines(name: str, guidance_scale: float) -> None:
    parts = components()
    arguments = dict(num_inference_steps=3, guidance_scale=guidance_scale, output_type="latent")
    pixels = torch.rand(FRAMES, 3, 2 * SIZE, 2 * SIZE, generator=torch.manual_seed(3))
    if "ControlNet" in name:
        parts["controlnet"] = diffusers.ControlNetModel.from_unet(
            parts["unet"], conditioning_embedding_out_channels=(4, 8)
        ).eval()
        arguments["control_image" if "Img2Img" in name else "image"] = pixels
    if "Img2Img" in name:
        arguments |= dict(image=pixels, strength=1.0)
    else:
        arguments |= dict(height=2 * SIZE, width=2 * SIZE)
    pipeline = getattr(diffusers, name)(**parts)
    pipeline.set_progress_bar_config(disable=True)
    text = torch.randn(1, TOKENS, CHANNELS).expand(FRAMES, -1, -1)
    outs = {}
    for backend in ("reference", "sdpa", None):
        generator = torch.Generator().manual_seed(5)
        arguments |= dict(prompt_embeds=text, negative_prompt_embeds=torch.zeros_like(text), generator=generator)
        if backend is None:
            outs[backend] = pipeline(**arguments).images
        else:
            with fa.apply_fame(pipeline, config(backend=backend)):
                outs[backend] = pipeline(**arguments).images
    assert outs["sdpa"].shape == (FRAMES, 4, SIZE, SIZE)
    torch.testing.assert_close(outs["sdpa"], outs["reference"], rtol=1e-4, atol=1e-4)
    assert (outs["sdpa"] - outs[None]).abs().max() > 1e-3

"""FAME attention in UNets with layers in space and in time, against a formula over frames and pixels."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters
from video_models import doubled, run, without_zeros

from fame_accel import FameConfig, Modulation, SpaceTimeLayout, TokenLayout, apply_fame, hook_attention
from fame_accel.core.parity import Verdict, error
from fame_accel.core.planning import find_plan

FRAMES, SIZE, TEXT = 3, 8, 5
FACTOR, CROSS, DECAY = 0.8, 0.9, 0.3


def _animatediff() -> tuple[torch.nn.Module, dict[str, Any]]:
    model = diffusers.UNetMotionModel(
        sample_size=SIZE, in_channels=4, out_channels=4, block_out_channels=(8, 16), layers_per_block=1,
        cross_attention_dim=16, norm_num_groups=4, down_block_types=("CrossAttnDownBlockMotion", "DownBlockMotion"),
        up_block_types=("UpBlockMotion", "CrossAttnUpBlockMotion"), motion_num_attention_heads=2,
        num_attention_heads=2,
    )  # fmt: skip
    latents = torch.randn(1, 4, FRAMES, SIZE, SIZE).repeat(2, 1, 1, 1, 1)
    text = torch.randn(2, TEXT, 16).repeat_interleave(FRAMES, 0)
    return model, {"sample": latents, "timestep": 500, "encoder_hidden_states": text}


def _stable_video_diffusion() -> tuple[torch.nn.Module, dict[str, Any]]:
    model = diffusers.UNetSpatioTemporalConditionModel(
        block_out_channels=(32, 64), num_attention_heads=(2, 4), layers_per_block=1, cross_attention_dim=32,
        down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"), sample_size=SIZE,
        up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"), addition_time_embed_dim=32,
        projection_class_embeddings_input_dim=96,
    )  # fmt: skip
    latents = torch.randn(1, FRAMES, 8, SIZE, SIZE).repeat(2, 1, 1, 1, 1)
    image = torch.randn(2, 1, 32)
    return model, {
        "sample": latents, "timestep": torch.tensor(0.0), "encoder_hidden_states": image,
        "added_time_ids": torch.zeros(2, 3),
    }  # fmt: skip


def _i2vgen() -> tuple[torch.nn.Module, dict[str, Any]]:
    model = diffusers.I2VGenXLUNet(
        block_out_channels=(4, 8), layers_per_block=1, sample_size=SIZE, in_channels=4, out_channels=4,
        down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"), up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
        cross_attention_dim=4, attention_head_dim=4, num_attention_heads=None, norm_num_groups=2,
    )  # fmt: skip
    latents = torch.randn(1, 4, FRAMES, SIZE, SIZE).repeat(2, 1, 1, 1, 1)
    return model, {
        "sample": latents, "timestep": 500, "fps": torch.tensor([8, 8]), "image_latents": latents,
        "image_embeddings": torch.randn(2, 4), "encoder_hidden_states": torch.randn(2, TEXT, 4),
    }  # fmt: skip


MODELS: dict[str, Callable[[], tuple[torch.nn.Module, dict[str, Any]]]] = {
    "AnimateDiff": _animatediff,
    "Stable Video Diffusion": _stable_video_diffusion,
    "I2VGen-XL": _i2vgen,
}
ON_ALL = pytest.mark.parametrize("name", MODELS)


@pytest.fixture(autouse=True)
def no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


def _case(name: str) -> tuple[torch.nn.Module, dict[str, Any]]:
    torch.manual_seed(0)
    model, inputs = MODELS[name]()
    return without_zeros(model), inputs


def _masks() -> Tensor:
    masks = torch.zeros(2, FRAMES, SIZE, SIZE, dtype=torch.bool)
    for frame in range(FRAMES):
        masks[0, frame, :, frame : frame + 4] = True
    masks[1] = ~masks[0]
    masks[1, :, :2, :2] = True
    return masks


REGIONS = torch.tensor([3, 1, 2, 0, 1])


def _config(name: str, **more: Any) -> FameConfig:
    settings: dict[str, Any] = {
        "layout": SpaceTimeLayout.from_masks(_masks()), "self_modulation": Modulation.fame(FRAMES, decay=DECAY),
        "self_factor": FACTOR, "cross_factor": CROSS, "power": 1.0, "active_fraction": 1.0, "guidance": "all",
    }  # fmt: skip
    if name == "AnimateDiff":
        settings |= {"token_regions": REGIONS, "token_weights": torch.linspace(0.5, 1, TEXT)}
    return FameConfig(**settings | more)


@ON_ALL
def test_neutral_modulation_changes_nothing(name: str):
    model, inputs = _case(name)
    plain = run(model, inputs)
    neutral: dict[str, Any] = {"self_modulation": Modulation(torch.zeros(2, FRAMES, FRAMES))}
    if name == "AnimateDiff":
        neutral["cross_modulation"] = Modulation(torch.zeros(2, FRAMES, 1))
    with apply_fame(model, _config(name, **neutral)):
        assert error(run(model, inputs), plain)[0] <= 2e-6
    assert torch.equal(run(model, inputs), plain)


@ON_ALL
def test_modulation_equals_the_formula_by_frames_and_by_pixels(name: str):
    model, inputs = _case(name)
    plain = run(model, inputs)
    with apply_fame(model, _config(name)) as handle:
        layers = set(handle.layers)
        fused = run(model, inputs)
    with apply_fame(model, _config(name, backend="reference")):
        eager = run(model, inputs)
    exact_model = copy.deepcopy(model).double()
    with hook_attention(exact_model, _by_hand(name)) as hook:
        exact = run(exact_model, doubled(inputs))
        assert set(hook.layers) == layers
    assert error(exact, plain)[0] > 1e-3  # the modulation is seen
    assert Verdict(error(fused, exact), error(eager, exact)).passed
    with apply_fame(exact_model, _config(name, backend="reference")):
        assert error(run(exact_model, doubled(inputs)), exact)[0] < 1e-6  # tables and strengths are float32


def _by_hand(name: str) -> Callable[[str], Any]:
    """Attention of the layers in eager words of our own."""

    def select(layer: str) -> Any:
        is_time = any(part in layer for part in ("motion_modules", "temporal_transformer", "temp_attentions"))
        if layer.startswith(("transformer_in", "image_latents")):
            return None
        if is_time:
            return _time if not (name == "Stable Video Diffusion" and layer.endswith("attn2")) else None
        if layer.endswith("attn1"):
            return _space
        return _text if name == "AnimateDiff" else None

    return select


def _bits(tokens: int) -> Tensor:
    """[F, tokens]: region bits of a feature map."""
    side = int(tokens**0.5)
    masks = _masks()[:, :, :: SIZE // side, :: SIZE // side]
    return (masks[0].long() + 2 * masks[1].long()).flatten(1)


def _space(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float | None) -> Tensor:
    """Item b * F + f is frame f: no time apart."""
    outs = []
    for item in range(len(query)):
        bits = _bits(query.shape[2])[item % FRAMES]
        same = (bits[:, None] & bits[None, :]) != 0
        size = 1 - same.double().mean(1, keepdim=True)
        outs.append(_attend(query[item], key[item], value[item], same, FACTOR * 0.5 * size, torch.zeros(())))
    return torch.stack(outs)


def _time(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float | None) -> Tensor:
    """Item b * pixels + p is pixel p over the frames."""
    pixels = len(query) // 2
    apart = (torch.arange(FRAMES)[:, None] - torch.arange(FRAMES)[None, :]).abs()
    outs = []
    for item in range(len(query)):
        bits = _bits(pixels)[:, item % pixels]
        same = (bits[:, None] & bits[None, :]) != 0
        size = 1 - same.double().mean(1, keepdim=True)
        outs.append(_attend(query[item], key[item], value[item], same, FACTOR * 0.5 * size, -DECAY * apart.double()))
    return torch.stack(outs)


def _text(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float | None) -> Tensor:
    outs = []
    for item in range(len(query)):
        bits = _bits(query.shape[2])[item % FRAMES]
        same = (bits[:, None] & REGIONS[None, :]) != 0
        size = 1 - same.double().mean(1, keepdim=True)
        strength = CROSS * 0.5 * size * torch.linspace(0.5, 1, TEXT).double()
        outs.append(_attend(query[item], key[item], value[item], same, strength, torch.zeros(())))
    return torch.stack(outs)


def _attend(query: Tensor, key: Tensor, value: Tensor, same: Tensor, strength: Tensor, bias: Tensor) -> Tensor:
    s = query.shape[-1] ** -0.5 * query @ key.transpose(-1, -2)
    extreme = torch.where(same, s.amax(-1, keepdim=True), s.amin(-1, keepdim=True))
    return (s + strength * (extreme - s) + bias).softmax(-1) @ value


@ON_ALL
def test_the_unconditional_half_stays_plain(name: str):
    model, inputs = _case(name)
    plain = run(model, inputs)
    with apply_fame(model, _config(name, guidance="conditional")):
        got = run(model, inputs)
    with apply_fame(model, _config(name)):
        both = run(model, inputs)
    assert error(got[0], plain[0])[0] <= 2e-6 and error(got[1], both[1])[0] <= 2e-6
    assert error(got[1], plain[1])[0] > 1e-3


@pytest.mark.slow
@ON_ALL
def test_clips_of_one_size_compile_once(name: str):
    model, inputs = _case(name)
    with apply_fame(model, _config(name)):
        wanted = run(model, inputs)
    torch.compiler.reset()
    counters.clear()
    compiled = torch.compile(model, backend="eager")
    graphs = []
    for clip in range(3):
        with apply_fame(compiled, _config(name, layout=SpaceTimeLayout.from_masks(_masks().roll(clip, -1)))):
            got = run(compiled, inputs)
        graphs.append(counters["stats"]["unique_graphs"])
        if clip == 0:
            assert error(got, wanted)[0] < 1e-5
    assert len(set(graphs)) == 1


def test_layers_of_other_levels_are_left_alone():
    model, inputs = _case("AnimateDiff")
    with apply_fame(model, _config("AnimateDiff", levels=(1,))) as handle:
        run(model, inputs)
        assert handle.layers and all(layer.startswith(("down_blocks.0", "up_blocks.1")) for layer in handle.layers)


def test_prompts_and_frames_that_do_not_fit_are_refused():
    model, inputs = _case("AnimateDiff")
    with (
        apply_fame(model, _config("AnimateDiff", token_regions=REGIONS[:4], token_weights=None)),
        pytest.raises(ValueError, match="token_regions has 4 tokens, but the text embeddings have 5"),
    ):
        run(model, inputs)
    longer = {
        "layout": SpaceTimeLayout.from_masks(torch.ones(2, 4, SIZE, SIZE, dtype=torch.bool)),
        "self_modulation": Modulation.fame(4),
    }
    with (
        apply_fame(model, _config("AnimateDiff", **longer)),
        pytest.raises(ValueError, match="layout has 4 frames, but the latents of the model have 3"),
    ):
        run(model, inputs)
    video, _ = _case("Stable Video Diffusion")
    with pytest.raises(ValueError, match="token_regions must be None: Stable Video Diffusion attends to no prompt"):
        apply_fame(video, _config("AnimateDiff"))


def test_many_pixels_take_the_short_sequences_kernel():
    """On a GPU a layer in time runs the kernel for short sequences; here its choice is looked at."""
    layout = SpaceTimeLayout.from_masks(_masks()).tokens(SIZE, SIZE)
    pixels = TokenLayout(layout.region.view(FRAMES, -1).T, layout.frame.view(FRAMES, -1).T, FRAMES)
    modulation = Modulation.fame(FRAMES, decay=DECAY)
    plan = find_plan(pixels, pixels, modulation, "triton", len(pixels.region), 64, torch.float16, False)
    assert plan.kernel == "short_sequences"

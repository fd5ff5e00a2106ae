"""The processors on attention modules with the options that Stable Diffusion's own layers leave off: qk-norm,
norm_cross, a residual connection and a rescaled output."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

import fame_accel as fa

pytest.importorskip("diffusers")
from diffusers.models.attention_processor import Attention, AttnProcessor2_0

from fame_accel.adapter.state import FameState, Layer

FRAMES, SIZE, HEADS, CHANNELS, TEXT_CHANNELS = 2, 4, 2, 16, 12
PIXELS = SIZE * SIZE
TOKEN_REGIONS = torch.tensor([0, 1, 2, 0, 3])
TIMESTEP = 900
# Each option on its own, and all of them at once. Values that change the output visibly where they are left out.
OPTIONS = {
    "norm_q": dict(qk_norm="layer_norm"),
    "norm_cross": dict(cross_attention_norm="layer_norm"),
    "residual_connection": dict(residual_connection=True),
    "rescale_output_factor": dict(rescale_output_factor=2.5),
}
OPTIONS["all"] = {name: value for options in OPTIONS.values() for name, value in options.items()}
on_layers = pytest.mark.parametrize(
    "cross, options",
    [
        pytest.param(cross, options, id=f"{'cross' if cross else 'self'}-{name}")
        for cross in (False, True)
        for name, options in OPTIONS.items()
        if cross or name != "norm_cross"  # which self-attention does not have
    ],
)


def layout() -> fa.SpaceTimeLayout:
    masks = torch.zeros(2, FRAMES, SIZE, SIZE, dtype=torch.bool)
    masks[0, :, :3, :2] = True
    masks[1, :, 2:, 1:] = True
    return fa.SpaceTimeLayout.from_masks(masks)


@dataclass
class Module:
    """An attention module with FAME's processor, inputs for two parts of a guided batch, and the state of a step."""

    attn: Attention
    hidden: Tensor  # [2 * FRAMES, PIXELS, CHANNELS]
    text: Tensor | None  # [2 * FRAMES, T, TEXT_CHANNELS]
    state: FameState

    def run(self) -> Tensor:
        return self.attn(self.hidden, encoder_hidden_states=self.text)


@torch.no_grad()
def make_module(cross: bool, options: dict[str, object], active: bool) -> Module:
    options = dict(options)
    if not cross:
        options.pop("cross_attention_norm", None)
    attn = Attention(
        CHANNELS, TEXT_CHANNELS if cross else None, heads=HEADS, dim_head=CHANNELS // HEADS, bias=True, **options
    ).eval()
    for parameter in attn.parameters():  # norms with the identity's weights would hide which one was used
        parameter.copy_(0.5 * torch.randn_like(parameter))
    config = fa.FameConfig(
        layout(),
        self_modulation=fa.Modulation.fame(FRAMES, decay=0.4),
        token_regions=TOKEN_REGIONS,
        self_factor=1.0,
        levels=(1,),
        guidance="conditional",
        active_fraction=1.0 if active else 0.0,
        backend="sdpa",
    )
    processor = fa.FameCrossAttnProcessor() if cross else fa.FameSelfAttnProcessor()
    processor.installed, processor.original = True, AttnProcessor2_0()
    attn.set_processor(processor)
    state = FameState(config, [Layer(processor, 0, CHANNELS // HEADS)])
    text = torch.randn(2, len(TOKEN_REGIONS), TEXT_CHANNELS).repeat_interleave(FRAMES, 0)
    state.prepare(torch.zeros(2 * FRAMES, 4, SIZE, SIZE), TIMESTEP, text)
    return Module(attn, torch.randn(2 * FRAMES, PIXELS, CHANNELS), text if cross else None, state)


def by_hand(module: Module) -> Tensor:
    """The layer written out: everything diffusers' Attention does around plain or modulated attention."""
    attn, parts = module.attn, 2
    clip = module.hidden.view(parts, FRAMES * PIXELS, CHANNELS)
    source = clip
    if module.text is not None:
        source = module.text[::FRAMES]
        if attn.norm_cross is not None:
            source = attn.norm_cross(source)
    query, key, value = attn.to_q(clip), attn.to_k(source), attn.to_v(source)
    query, key, value = (x.view(parts, -1, HEADS, CHANNELS // HEADS).transpose(1, 2) for x in (query, key, value))
    if attn.norm_q is not None:
        query = attn.norm_q(query)
    if attn.norm_k is not None:
        key = attn.norm_k(key)

    tokens, schedule = layout().tokens(SIZE, SIZE), ((TIMESTEP - 1) / 1000) ** 5
    if module.text is None:
        arguments = dict(
            modulation=fa.Modulation.fame(FRAMES, decay=0.4), row_strength=schedule * tokens.size_regularization()
        )
    else:
        text_layout = fa.TokenLayout(TOKEN_REGIONS, torch.zeros_like(TOKEN_REGIONS), 1)
        arguments = dict(
            key_layout=text_layout,
            modulation=fa.Modulation.videograin(FRAMES, key_frames=1),
            row_strength=schedule * tokens.size_regularization(text_layout),
        )
    plain = fa.reference.layout_attention(query[:1], key[:1], value[:1], tokens, arguments.get("key_layout"))
    modulated = fa.reference.layout_attention(query[1:], key[1:], value[1:], tokens, **arguments)
    out = attn.to_out[0](torch.cat([plain, modulated]).transpose(1, 2).flatten(2)).view_as(module.hidden)
    if attn.residual_connection:
        out = out + module.hidden
    return out / attn.rescale_output_factor


@on_layers
@torch.no_grad()
def test_modulated_steps(cross: bool, options: dict[str, object]):
    module = make_module(cross, options, active=True)
    torch.testing.assert_close(module.run(), by_hand(module), rtol=1e-5, atol=1e-5)


@on_layers
@torch.no_grad()
def test_plain_steps_equal_diffusers(cross: bool, options: dict[str, object]):
    """In self-attention, with the frames of a part joined to one sequence, as FAME has them at every step."""
    module = make_module(cross, options, active=False)
    out = module.run()
    module.attn.set_processor(AttnProcessor2_0())
    hidden = module.hidden if cross else module.hidden.view(2, FRAMES * PIXELS, CHANNELS)
    torch.testing.assert_close(out, module.attn(hidden, module.text).view_as(out), rtol=1e-5, atol=1e-5)


@on_layers
@torch.no_grad()
def test_options_change_the_output(cross: bool, options: dict[str, object]):
    """Otherwise the tests above could not tell a processor that leaves them out."""
    module = make_module(cross, options, active=True)
    out, attn = module.run(), module.attn
    attn.norm_q = attn.norm_k = attn.norm_cross = None
    attn.residual_connection, attn.rescale_output_factor = False, 1.0
    assert (out - module.run()).abs().max() > 1e-2


def test_odd_sizes_that_halve_twice():
    """Levels have the sizes that the UNet's convolutions of stride 2 leave: 10 x 6, 5 x 3, 3 x 2, 2 x 1."""
    config = fa.FameConfig(layout(), self_modulation=fa.Modulation.fame(FRAMES), levels=(1, 2, 4, 8))
    layers = [Layer(fa.FameSelfAttnProcessor(), halvings, 8) for halvings in range(4)]
    FameState(config, layers).prepare(torch.zeros(FRAMES, 4, 10, 6), TIMESTEP, None)
    halve, latents = torch.nn.Conv2d(1, 1, 3, stride=2, padding=1), torch.zeros(1, 1, 10, 6)
    for layer in layers:
        height, width = latents.shape[2:]
        call = layer.processor.call
        assert torch.equal(call.plan.query_region, layout().tokens(height, width).region)
        latents = halve(latents)


def test_prompt_changed_in_place_is_checked_again():
    """Between two steps, in the tensor that the step before found to be one prompt."""
    module = make_module(True, {}, active=True)
    sample = torch.zeros(2 * FRAMES, 4, SIZE, SIZE)
    module.state.prepare(sample, TIMESTEP, module.text)
    module.text[-1] += 1
    with pytest.raises(ValueError, match="must share one prompt"):
        module.state.prepare(sample, TIMESTEP, module.text)

"""Tiny random video models of diffusers, inputs for them, and where their tokens stand, written out by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import diffusers
import torch
from torch import Tensor

FRAMES, HEIGHT, WIDTH = 4, 2, 4  # of the grid of tokens
VIDEO = FRAMES * HEIGHT * WIDTH
TEXT = 6


@dataclass(frozen=True)
class Row:
    """Where the tokens of one batch item stand among the keys of an attention call.

    Attributes:
        video: positions of the video's tokens, in frame-major order; empty in cross-attention.
        text: positions of the prompt's valid tokens, and which tokens of the prompt these are.
        others: positions of further keys that are attended to. Keys that are nowhere are not.
    """

    video: list[int]
    text: list[int]
    prompt: list[int]
    others: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class VideoModel:
    """A model and how to call it.

    Attributes:
        make: the model.
        inputs: of its forward.
        row: of self-attention, by batch item.
        cross: of cross-attention, by batch item; None where text stands in the same row.
        layers: number of layers that are modulated.
        doubles: whether the model runs in float64.
        graph_breaks: whether torch.compile breaks the model's own graph.
        block: frames of a block of block-causal self-attention; 0 where all frames see all.
    """

    make: Callable[[], torch.nn.Module]
    inputs: dict[str, Any]
    layers: int
    row: tuple[Row, ...]
    cross: tuple[Row, ...] | None = None
    doubles: bool = True
    graph_breaks: bool = False
    block: int = 0


def _wan(cls: type = diffusers.WanTransformer3DModel, channels: int = 4, **more: Any) -> Callable[[], Any]:
    return lambda: cls(
        patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, in_channels=channels, out_channels=4,
        text_dim=8, freq_dim=16, ffn_dim=16, num_layers=1, rope_max_seq_len=32, **more,
    )  # fmt: skip


def _latents(frames: int = FRAMES, channels: int = 4) -> Tensor:
    return torch.randn(1, channels, frames, 2 * HEIGHT, 2 * WIDTH)


def _text(*, batch: int = 1, tokens: int = TEXT, width: int = 8) -> Tensor:
    return torch.randn(batch, tokens, width)


def _mask(*valid: int, tokens: int = TEXT) -> Tensor:
    return (torch.arange(tokens) < torch.tensor(valid)[:, None]).long()


_STEP = torch.tensor([500])
_ALONE = (Row(list(range(VIDEO)), [], []),)
_PROMPT = (Row([], list(range(TEXT)), list(range(TEXT))),)


def _shift(values: list[int], by: int) -> list[int]:
    return [value + by for value in values]


def wan(**more: Any) -> VideoModel:
    inputs = {"hidden_states": _latents(), "timestep": _STEP, "encoder_hidden_states": _text()}
    return VideoModel(_wan(), inputs | more, 2, _ALONE, _PROMPT)


def wan_image_to_video() -> VideoModel:
    # the model takes its last 512 tokens of text and image for the text
    tokens = list(range(512))
    inputs = {
        "hidden_states": _latents(), "timestep": _STEP, "encoder_hidden_states": _text(tokens=512),
        "encoder_hidden_states_image": torch.randn(1, 7, 8),
    }  # fmt: skip
    model = _wan(image_dim=8, added_kv_proj_dim=24)
    return VideoModel(model, inputs, 2, _ALONE, (Row([], tokens, tokens),))


def wan_vace() -> VideoModel:
    """One reference image before the video."""
    frame = HEIGHT * WIDTH
    inputs = {
        "hidden_states": _latents(FRAMES + 1), "timestep": _STEP, "encoder_hidden_states": _text(),
        "control_hidden_states": _latents(FRAMES + 1, 8),
    }  # fmt: skip
    model = _wan(diffusers.WanVACETransformer3DModel, vace_layers=[0], vace_in_channels=8)
    row = Row(_shift(list(range(VIDEO)), frame), [], [], list(range(frame)))
    return VideoModel(model, inputs, 4, (row,), _PROMPT)


def hunyuan() -> VideoModel:
    """Two items with prompts of different lengths, padding after them."""

    def make() -> Any:
        return diffusers.HunyuanVideoTransformer3DModel(
            in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=10, num_layers=1,
            num_single_layers=1, num_refiner_layers=1, patch_size=2, text_embed_dim=8, pooled_projection_dim=8,
            rope_axes_dim=(2, 4, 4),
        )  # fmt: skip

    inputs = {
        "hidden_states": torch.cat([_latents(), _latents()]), "timestep": _STEP.repeat(2),
        "encoder_hidden_states": _text(batch=2), "encoder_attention_mask": _mask(4, 2),
        "pooled_projections": torch.randn(2, 8), "guidance": torch.tensor([6000.0, 6000.0]),
    }  # fmt: skip
    rows = tuple(Row(list(range(VIDEO)), _shift(list(range(valid)), VIDEO), list(range(valid))) for valid in (4, 2))
    return VideoModel(make, inputs, 2, rows)


def hunyuan_1_5() -> VideoModel:
    """After the video: 3 image tokens, 2 valid glyphs, 4 valid tokens of the prompt, padding."""

    def make() -> Any:
        return diffusers.HunyuanVideo15Transformer3DModel(
            in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=16, num_layers=1,
            num_refiner_layers=1, patch_size=2, text_embed_dim=8, text_embed_2_dim=8, image_embed_dim=12,
            rope_axes_dim=(4, 6, 6),
        )  # fmt: skip

    inputs = {
        "hidden_states": _latents(), "timestep": _STEP.float(), "encoder_hidden_states": _text(),
        "encoder_attention_mask": _mask(4), "encoder_hidden_states_2": _text(tokens=5),
        "encoder_attention_mask_2": _mask(2, tokens=5), "image_embeds": torch.randn(1, 3, 12),
    }  # fmt: skip
    row = Row(list(range(VIDEO)), _shift([5, 6, 7, 8], VIDEO), [0, 1, 2, 3], _shift([0, 1, 2, 3, 4], VIDEO))
    return VideoModel(make, inputs, 1, (row,), graph_breaks=True)


def cogvideox() -> VideoModel:
    """Text before the video."""

    def make() -> Any:
        return diffusers.CogVideoXTransformer3DModel(
            num_attention_heads=2, attention_head_dim=16, in_channels=4, out_channels=4, time_embed_dim=8,
            text_embed_dim=8, num_layers=1, sample_width=2 * WIDTH, sample_height=2 * HEIGHT, sample_frames=13,
            max_text_seq_length=TEXT, use_rotary_positional_embeddings=True,
        )  # fmt: skip

    inputs = {
        "hidden_states": torch.randn(1, FRAMES, 4, 2 * HEIGHT, 2 * WIDTH), "encoder_hidden_states": _text(),
        "timestep": _STEP, "image_rotary_emb": (torch.randn(VIDEO, 16), torch.randn(VIDEO, 16)),
    }  # fmt: skip
    row = Row(_shift(list(range(VIDEO)), TEXT), list(range(TEXT)), list(range(TEXT)))
    return VideoModel(make, inputs, 1, (row,))


def _ltx_inputs() -> dict[str, Any]:
    return {
        "hidden_states": torch.randn(1, VIDEO, 8), "encoder_hidden_states": _text(), "timestep": _STEP,
        "encoder_attention_mask": _mask(4), "num_frames": FRAMES, "height": HEIGHT, "width": WIDTH,
    }  # fmt: skip


_SHORT_PROMPT = (Row([], [0, 1, 2, 3], [0, 1, 2, 3]),)


def ltx() -> VideoModel:
    def make() -> Any:
        return diffusers.LTXVideoTransformer3DModel(
            in_channels=8, out_channels=8, num_attention_heads=2, attention_head_dim=12, cross_attention_dim=24,
            num_layers=1, caption_channels=8,
        )  # fmt: skip

    return VideoModel(make, _ltx_inputs(), 2, _ALONE, _SHORT_PROMPT)


def ltx_2() -> VideoModel:
    """Audio has layers of its own, which are left alone."""

    def make() -> Any:
        return diffusers.LTX2VideoTransformer3DModel(
            in_channels=8, out_channels=8, num_attention_heads=2, attention_head_dim=12, cross_attention_dim=24,
            audio_in_channels=4, audio_out_channels=4, audio_num_attention_heads=2, audio_attention_head_dim=8,
            audio_cross_attention_dim=16, num_layers=1, caption_channels=8, rope_double_precision=False,
        )  # fmt: skip

    audio = {
        "audio_hidden_states": torch.randn(1, 5, 4), "audio_encoder_hidden_states": _text(),
        "audio_encoder_attention_mask": _mask(4), "audio_num_frames": 5, "timestep": _STEP.float(),
    }  # fmt: skip
    return VideoModel(make, _ltx_inputs() | audio, 2, _ALONE, _SHORT_PROMPT)


def mochi() -> VideoModel:
    """Valid text alone follows the video, in a call for each item."""

    def make() -> Any:
        return diffusers.MochiTransformer3DModel(
            patch_size=2, num_attention_heads=2, attention_head_dim=12, num_layers=2, pooled_projection_dim=8,
            in_channels=4, text_embed_dim=8, time_embed_dim=8, max_sequence_length=TEXT,
        )  # fmt: skip

    inputs = {
        "hidden_states": torch.cat([_latents(), _latents()]), "timestep": _STEP.repeat(2),
        "encoder_hidden_states": _text(batch=2), "encoder_attention_mask": _mask(4, 2).bool(),
    }  # fmt: skip
    rows = tuple(Row(list(range(VIDEO)), _shift(list(range(valid)), VIDEO), list(range(valid))) for valid in (4, 2))
    return VideoModel(make, inputs, 2, rows)


def kandinsky() -> VideoModel:
    def make() -> Any:
        return diffusers.Kandinsky5Transformer3DModel(
            in_text_dim=8, in_text_dim2=8, time_dim=16, patch_size=(1, 2, 2), model_dim=32, ff_dim=32,
            num_text_blocks=1, num_visual_blocks=1, axes_dims=(4, 6, 6),
        )  # fmt: skip

    inputs = {
        "hidden_states": torch.randn(1, FRAMES, 2 * HEIGHT, 2 * WIDTH, 4), "encoder_hidden_states": _text(),
        "timestep": _STEP, "pooled_projections": torch.randn(1, 8),
        "visual_rope_pos": [torch.arange(n) for n in (FRAMES, HEIGHT, WIDTH)], "text_rope_pos": torch.arange(TEXT),
    }  # fmt: skip
    return VideoModel(make, inputs, 2, _ALONE, _PROMPT, doubles=False)


def easyanimate() -> VideoModel:
    """Text of two encoders before the video; the second's tokens are bound to no region."""

    def make() -> Any:
        return diffusers.EasyAnimateTransformer3DModel(
            num_attention_heads=2, attention_head_dim=16, in_channels=4, out_channels=4, time_embed_dim=8,
            text_embed_dim=8, text_embed_dim_t5=8, num_layers=1, mmdit_layers=1, sample_width=2 * WIDTH,
            sample_height=2 * HEIGHT, patch_size=2,
        )  # fmt: skip

    inputs = {
        "hidden_states": _latents(), "timestep": _STEP, "encoder_hidden_states": _text(),
        "encoder_hidden_states_t5": _text(tokens=3),
    }  # fmt: skip
    row = Row(_shift(list(range(VIDEO)), TEXT + 3), list(range(TEXT)), list(range(TEXT)), [TEXT, TEXT + 1, TEXT + 2])
    return VideoModel(make, inputs, 1, (row,))


def minimax_h3() -> VideoModel:
    """Text, video and audio in one packed row, the audio in the middle of the video."""

    def make() -> Any:
        return diffusers.MiniMaxH3Transformer3DModel(
            num_attention_heads=2, attention_head_dim=32, hidden_size=48, num_layers=1, num_refiner_layers=1,
            ffn_dim=32, in_channels=4, audio_in_channels=4, text_dim=8, freq_dim=16, time_embed_hidden_dim=16,
            time_embed_dim=16, rope_freq_dim=4,
        )  # fmt: skip

    text, audio = list(range(TEXT)), [TEXT + 10, TEXT + 11]
    video = [i for i in range(TEXT, TEXT + VIDEO + 2) if i not in audio]
    total = TEXT + VIDEO + 2
    tags, positions = torch.ones(total, dtype=torch.long), torch.zeros(total, 3, dtype=torch.long)
    tags[video], tags[audio] = 0, 2
    positions[video] = torch.cartesian_prod(*(torch.arange(n) for n in (FRAMES, HEIGHT, WIDTH)))
    inputs = {
        "hidden_states": torch.randn(1, VIDEO, 16), "audio_hidden_states": torch.randn(1, 2, 4),
        "encoder_hidden_states": _text(), "timestep": torch.tensor([0.5]),
        "timestep_indices": torch.zeros(total, dtype=torch.long), "token_tags": tags, "position_ids": positions,
        "video_indices": torch.tensor(video), "audio_indices": torch.tensor(audio),
        "text_indices": torch.tensor(text),
    }  # fmt: skip
    return VideoModel(make, inputs, 1, (Row(video, text, text, audio),))


def cosmos() -> VideoModel:
    def make() -> Any:
        return diffusers.CosmosTransformer3DModel(
            in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=16, num_layers=1, mlp_ratio=2,
            text_embed_dim=8, adaln_lora_dim=4, max_size=(8, 16, 16), concat_padding_mask=False,
            extra_pos_embed_type=None,
        )  # fmt: skip

    inputs = {
        "hidden_states": _latents(), "timestep": torch.tensor([0.5]), "encoder_hidden_states": _text(), "fps": 24,
        "padding_mask": torch.zeros(1, 1, 2 * HEIGHT, 2 * WIDTH),
    }  # fmt: skip
    return VideoModel(make, inputs, 2, _ALONE, _PROMPT)


def _causal(blocks: int) -> VideoModel:
    model = _wan(diffusers.SkyReelsV2Transformer3DModel, num_frame_per_block=blocks)
    inputs = {"hidden_states": _latents(), "timestep": _STEP, "encoder_hidden_states": _text()}
    return VideoModel(model, inputs, 2, _ALONE, _PROMPT, block=blocks if blocks > 1 else 0)


VIDEO_MODELS: dict[str, Callable[[], VideoModel]] = {
    "Wan T2V": wan,
    "Wan I2V": wan_image_to_video,
    "Wan TI2V": lambda: wan(timestep=torch.full((1, VIDEO), 500)),
    "Wan VACE": wan_vace,
    "Lucy-Edit": lambda: VideoModel(
        _wan(channels=8), wan().inputs | {"hidden_states": _latents(channels=8)}, 2, _ALONE, _PROMPT
    ),
    "SkyReels-V2": lambda: _causal(1),
    "SkyReels-V2, block-causal": lambda: _causal(2),
    "ChronoEdit": lambda: VideoModel(_wan(diffusers.ChronoEditTransformer3DModel), wan().inputs, 2, _ALONE, _PROMPT),
    "HunyuanVideo": hunyuan,
    "HunyuanVideo 1.5": hunyuan_1_5,
    "CogVideoX": cogvideox,
    "LTX": ltx,
    "LTX-2": ltx_2,
    "Mochi": mochi,
    "Kandinsky 5": kandinsky,
    "EasyAnimate": easyanimate,
    "MiniMax H3": minimax_h3,
    "Cosmos": cosmos,
}


def run(model: torch.nn.Module, inputs: dict[str, Any]) -> Tensor:
    """The output of a model, as one tensor."""
    out = model(**inputs, return_dict=False)
    out = out[0] if isinstance(out, tuple) else out
    return out if isinstance(out, Tensor) else out.sample


def doubled(value: Any) -> Any:
    """Inputs in float64."""
    if isinstance(value, dict):
        return {key: doubled(entry) for key, entry in value.items()}
    if isinstance(value, tuple):
        return tuple(doubled(entry) for entry in value)
    return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value


def without_zeros(model: torch.nn.Module) -> torch.nn.Module:
    """The model with random values where its initialization leaves zeros, which would hide what comes before."""
    for parameter in model.parameters():
        if parameter.abs().max() == 0:
            torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()

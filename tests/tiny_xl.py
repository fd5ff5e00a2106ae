"""A small Stable Diffusion XL with random weights, for the tests."""

from __future__ import annotations

import copy

import diffusers
import torch
import transformers

import fame_accel as fa
from fame_accel.demo.pipeline import random_controlnet, random_pipeline
from fame_accel.edit.clip_tokenizer import clip_tokenizer


def components() -> dict:
    """The parts of Stable Diffusion XL by name."""
    torch.manual_seed(0)
    tokenizer = clip_tokenizer()
    second = copy.deepcopy(tokenizer)
    second.pad_token = "!"  # as in Stable Diffusion XL

    def text(width: int) -> transformers.CLIPTextConfig:
        return transformers.CLIPTextConfig(
            vocab_size=len(tokenizer), hidden_size=width, intermediate_size=64, num_hidden_layers=3,
            num_attention_heads=4, max_position_embeddings=77, projection_dim=16,
            bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        )  # fmt: skip

    unet = diffusers.UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(32, 64),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        attention_head_dim=(2, 4),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        transformer_layers_per_block=(1, 2),
        projection_class_embeddings_input_dim=16 + 6 * 8,
        cross_attention_dim=32 + 48,
        norm_num_groups=8,
    )
    return dict(
        vae=random_pipeline().vae,
        text_encoder=transformers.CLIPTextModel(text(32)).eval(),
        text_encoder_2=transformers.CLIPTextModelWithProjection(text(48)).eval(),
        tokenizer=tokenizer,
        tokenizer_2=second,
        unet=unet.eval(),
        scheduler=diffusers.EulerDiscreteScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1
        ),
    )


def make(parts: dict, controlnet: bool = False) -> fa.FameVideoEditXLPipeline:
    """A pipeline of the parts, without a progress bar."""
    extra = {"controlnet": random_controlnet(parts["unet"]) if controlnet else None}
    pipeline = fa.FameVideoEditXLPipeline(**parts, **extra)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline

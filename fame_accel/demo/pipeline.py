"""A small Stable Diffusion 1.5 with random weights, and a ControlNet for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from fame_accel.edit.clip_tokenizer import clip_tokenizer
from fame_accel.media.packages import require

if TYPE_CHECKING:
    from diffusers import ControlNetModel, StableDiffusionPipeline, UNet2DConditionModel

_SCHEDULER = dict(
    beta_start=0.00085,
    beta_end=0.012,
    beta_schedule="scaled_linear",
    clip_sample=False,
    set_alpha_to_one=False,
    steps_offset=1,
)


def random_pipeline(seed: int = 0) -> StableDiffusionPipeline:
    """Make a pipeline with the architecture of Stable Diffusion 1.5 and random weights, drawn from `seed`.

    It has an eighth of the width and one layer per block. Each attention layer has one head in place of eight, so that
    the head dimensions are those of Stable Diffusion 1.5: 40, 80, 160, 160. The tokenizer is CLIP's, the text encoder
    has two layers of width 64, and the VAE is minimal.
    """
    diffusers, transformers = require("diffusers"), require("transformers")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = diffusers.UNet2DConditionModel(
            sample_size=64,
            block_out_channels=(40, 80, 160, 160),
            layers_per_block=1,
            attention_head_dim=1,  # diffusers' name for the number of heads
            cross_attention_dim=64,
            norm_num_groups=8,
        )
        tokenizer = clip_tokenizer()
        text = transformers.CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=77,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
        text_encoder = transformers.CLIPTextModel(text)
        vae = diffusers.AutoencoderKL(
            block_out_channels=(8, 8, 8, 8),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            norm_num_groups=4,
            latent_channels=4,
        )
    return diffusers.StableDiffusionPipeline(
        vae=vae.eval(),
        text_encoder=text_encoder.eval(),
        tokenizer=tokenizer,
        unet=unet.eval(),
        scheduler=diffusers.DDIMScheduler(**_SCHEDULER),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def random_controlnet(unet: UNet2DConditionModel, seed: int = 0) -> ControlNetModel:
    """Make a ControlNet from the weights of a UNet.

    The layers that add the condition, zero in a new ControlNet, get small random weights.
    """
    diffusers = require("diffusers")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        controlnet = diffusers.ControlNetModel.from_unet(unet)
        zeros = [*controlnet.controlnet_down_blocks, controlnet.controlnet_mid_block]
        for layer in zeros:
            torch.nn.init.normal_(layer.weight, std=0.02)
        torch.nn.init.normal_(controlnet.controlnet_cond_embedding.conv_out.weight, std=1.0)
    return controlnet.to(unet.dtype).eval()

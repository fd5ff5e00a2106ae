"""A tiny random Wan with a tokenizer of its own, in parts, as a pipeline and as a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKLWan,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
    WanTransformer3DModel,
)
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import T5TokenizerFast, UMT5Config, UMT5EncoderModel
from video_models import without_zeros

WORDS = "a an the man woman doctor nurse female male photo of in car talking person , .".split()


def tokenizer() -> T5TokenizerFast:
    """Whole words and letters of a Unigram model, with </s> at the end, as T5's."""
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    pieces = ["▁", *(f"▁{word}" for word in WORDS), *letters]
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -20.0)]
    vocabulary += [(piece, -1.0 - (len(piece) < 3) * 8) for piece in dict.fromkeys(pieces)]
    backend = Tokenizer(models.Unigram(vocabulary, unk_id=2))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    backend.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return T5TokenizerFast(tokenizer_object=backend, model_max_length=512, extra_ids=0)


def parts(**more: Any) -> dict[str, Any]:
    """Components of a pipeline; other arguments of the transformer may be given."""
    torch.manual_seed(0)
    words = tokenizer()
    encoder = UMT5EncoderModel(
        UMT5Config(
            vocab_size=len(words), d_model=16, d_kv=8, d_ff=16, num_layers=2, num_heads=2, is_encoder_decoder=False
        )
    ).eval()
    vae = AutoencoderKLWan(
        base_dim=3, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True],
        latents_mean=[0.1] * 4, latents_std=[1.5] * 4,
    ).eval()  # fmt: skip
    return {
        "tokenizer": words, "text_encoder": encoder, "vae": vae, "transformer": transformer(**more),
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=3.0),
    }  # fmt: skip


def transformer(**more: Any) -> WanTransformer3DModel:
    settings = dict(
        patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4,
        text_dim=16, freq_dim=16, ffn_dim=16, num_layers=2, rope_max_seq_len=32,
    )  # fmt: skip
    return without_zeros(WanTransformer3DModel(**settings | more))


def save_folder(folder: Path) -> Path:
    """Write a checkpoint as Wan's are: with a UniPC scheduler of flow sigmas."""
    from diffusers import WanPipeline

    scheduler = UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, num_train_timesteps=1000, flow_shift=3.0
    )
    WanPipeline(**parts() | {"scheduler": scheduler}).save_pretrained(folder)
    return folder

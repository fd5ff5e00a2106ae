"""Video transformers as data: what diffusers' classes leave to their pipelines, and the numbers of published models.

VAES and FAMILIES are read off diffusers' autoencoders and pipelines. The numbers of MODELS were read from diffusers'
scripts/convert_*_to_diffusers.py, which make the transformer/config.json that each source points to. What a config
leaves out has the default of the class. Parameters were counted on the meta device.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

# Frames and pixels per side that a latent stands for, and channels of the latents. A frame of its own comes first.
VAES: dict[str, tuple[int, int, int]] = {
    "AutoencoderKLWan": (4, 8, 16),
    "AutoencoderKLHunyuanVideo": (4, 8, 16),
    "AutoencoderKLHunyuanVideo15": (4, 16, 32),
    "AutoencoderKLLTXVideo": (8, 32, 128),
    "AutoencoderKLCogVideoX": (4, 8, 16),
    "AutoencoderKLMochi": (6, 8, 12),
    "AutoencoderKLMagvit": (4, 8, 16),
    "AutoencoderKLCosmos": (8, 8, 16),
}


@dataclass(frozen=True)
class Family:
    """A transformer class of diffusers.

    vae: class of its VAE; None where its models differ in it.
    text_tokens: the most tokens of a prompt.
    joint: whether text and video tokens attend to each other in one self-attention; otherwise text has cross-attention.
    batched: whether both halves of guidance run in one batch; otherwise in two calls, or guidance is distilled.
    frames, size: what the pipeline makes if not told; size: (height, width) in pixels.
    depth: entries of the config whose numbers, or lengths, add up to the layers of self-attention over the video.
    """

    vae: str | None
    text_tokens: int
    joint: bool
    batched: bool
    frames: int
    size: tuple[int, int]
    depth: tuple[str, ...] = ("num_layers",)


_WAN, _HUNYUAN = ("AutoencoderKLWan", 512, False, False), ("AutoencoderKLHunyuanVideo", 256, True, False)
_KANDINSKY = ("AutoencoderKLHunyuanVideo", 512, False, False)
FAMILIES: dict[str, Family] = {
    "WanTransformer3DModel": Family(*_WAN, 81, (480, 832)),
    "WanVACETransformer3DModel": Family(*_WAN, 81, (480, 832), ("num_layers", "vace_layers")),
    "HunyuanVideoTransformer3DModel": Family(*_HUNYUAN, 129, (720, 1280), ("num_layers", "num_single_layers")),
    # 1,000 tokens of Qwen2.5-VL, 256 of byT5 and 729 of an image
    "HunyuanVideo15Transformer3DModel": Family("AutoencoderKLHunyuanVideo15", 1985, True, False, 121, (480, 832)),
    "LTXVideoTransformer3DModel": Family("AutoencoderKLLTXVideo", 128, False, True, 161, (512, 704)),
    "CogVideoXTransformer3DModel": Family("AutoencoderKLCogVideoX", 226, True, True, 49, (480, 720)),
    "MochiTransformer3DModel": Family("AutoencoderKLMochi", 256, True, True, 19, (480, 848)),
    "Kandinsky5Transformer3DModel": Family(*_KANDINSKY, 121, (512, 768), ("num_visual_blocks",)),
    "EasyAnimateTransformer3DModel": Family("AutoencoderKLMagvit", 256, True, True, 49, (512, 512)),
    "CosmosTransformer3DModel": Family(None, 512, False, False, 121, (704, 1280)),
}


@dataclass(frozen=True)
class PublishedModel:
    """A published transformer: its class, its config, its number of parameters, and where the config is."""

    transformer: str
    config: dict[str, Any]
    parameters: int
    source: str


_HUB = "https://huggingface.co/{}/blob/main/transformer/config.json"
MODELS: dict[str, PublishedModel] = {
    "wan-1.3b": PublishedModel(
        "WanTransformer3DModel",
        dict(num_attention_heads=12, attention_head_dim=128, num_layers=30, ffn_dim=8960, patch_size=[1, 2, 2]),
        1_418_996_800,
        _HUB.format("Wan-AI/Wan2.1-T2V-1.3B-Diffusers"),
    ),
    "wan-14b": PublishedModel(
        "WanTransformer3DModel",
        dict(num_attention_heads=40, attention_head_dim=128, num_layers=40, ffn_dim=13824, patch_size=[1, 2, 2]),
        14_288_491_584,
        _HUB.format("Wan-AI/Wan2.1-T2V-14B-Diffusers"),
    ),
    "hunyuan": PublishedModel(
        "HunyuanVideoTransformer3DModel",
        dict(num_attention_heads=24, attention_head_dim=128, num_layers=20, num_single_layers=40, patch_size=2),
        12_821_012_544,
        _HUB.format("hunyuanvideo-community/HunyuanVideo"),
    ),
    "ltx": PublishedModel(
        "LTXVideoTransformer3DModel",
        dict(num_attention_heads=32, attention_head_dim=64, num_layers=28, cross_attention_dim=2048, patch_size=1),
        1_923_385_472,
        _HUB.format("Lightricks/LTX-Video"),
    ),
    "cogvideox-5b": PublishedModel(
        "CogVideoXTransformer3DModel",
        dict(num_attention_heads=48, attention_head_dim=64, num_layers=42, patch_size=2,
             use_rotary_positional_embeddings=True),
        5_570_283_072,
        _HUB.format("THUDM/CogVideoX-5b"),
    ),
    "mochi": PublishedModel(
        "MochiTransformer3DModel",
        dict(num_attention_heads=24, attention_head_dim=128, num_layers=48, patch_size=2),
        10_027_677_744,
        _HUB.format("genmo/mochi-1-preview"),
    ),
}  # fmt: skip

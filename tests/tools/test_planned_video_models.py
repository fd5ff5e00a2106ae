"""Video transformers as the planner reads them: tokens, heads and layers are those that diffusers attends with."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from fame_accel.tools.planner.video import read_video_model
from fame_accel.tools.planner.video_models import FAMILIES, MODELS, VAES

LATENTS = (5, 8, 12)  # frames, height, width
TEXT = 12
WAN = dict(
    num_attention_heads=2, attention_head_dim=24, in_channels=4, out_channels=4, text_dim=16, freq_dim=32, ffn_dim=64,
    num_layers=3, rope_max_seq_len=64,
)  # fmt: skip
COGVIDEOX = dict(
    num_attention_heads=2, attention_head_dim=16, in_channels=4, out_channels=4, time_embed_dim=8, text_embed_dim=16,
    num_layers=3, max_text_seq_length=TEXT, use_rotary_positional_embeddings=True,
)  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A small transformer; inputs: what its forward takes beside latents, text and timestep; text: joint tokens."""

    transformer: str
    config: dict[str, Any]
    inputs: dict[str, Any]
    vae: str
    text: int = 0
    shape: tuple[int, ...] = (1, 4, *LATENTS)


MASK = dict(encoder_attention_mask=torch.ones(1, TEXT))
CASES = {
    "wan": Case("WanTransformer3DModel", WAN, {}, "AutoencoderKLWan"),
    "wan-vace": Case(
        "WanVACETransformer3DModel",
        WAN | dict(vace_layers=[0, 2], vace_in_channels=6),
        dict(control_hidden_states=torch.ones(1, 6, *LATENTS)),
        "AutoencoderKLWan",
    ),
    "hunyuan": Case(
        "HunyuanVideoTransformer3DModel",
        dict(in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=10, num_layers=1,
             num_single_layers=2, num_refiner_layers=1, text_embed_dim=16, pooled_projection_dim=8,
             rope_axes_dim=(2, 4, 4)),
        MASK | dict(pooled_projections=torch.ones(1, 8), guidance=torch.tensor([6000.0])),
        "AutoencoderKLHunyuanVideo",
        TEXT,
    ),
    "hunyuan-1.5": Case(
        "HunyuanVideo15Transformer3DModel",
        dict(in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=16, num_layers=2,
             num_refiner_layers=1, text_embed_dim=16, text_embed_2_dim=8, image_embed_dim=12, rope_axes_dim=(4, 6, 6)),
        MASK | dict(encoder_hidden_states_2=torch.ones(1, 6, 8), encoder_attention_mask_2=torch.ones(1, 6),
                    image_embeds=torch.ones(1, 7, 12)),
        "AutoencoderKLHunyuanVideo15",
        TEXT + 6 + 7,
    ),
    "ltx": Case(
        "LTXVideoTransformer3DModel",
        dict(in_channels=8, out_channels=8, num_attention_heads=2, attention_head_dim=24, cross_attention_dim=48,
             num_layers=2, caption_channels=16),
        MASK | dict(num_frames=LATENTS[0], height=LATENTS[1], width=LATENTS[2]),
        "AutoencoderKLLTXVideo",
        shape=(1, LATENTS[0] * LATENTS[1] * LATENTS[2], 8),
    ),
    "cogvideox": Case("CogVideoXTransformer3DModel", COGVIDEOX, {}, "AutoencoderKLCogVideoX", TEXT, (1, 5, 4, 8, 12)),
    # a sixth frame of latents is padding, as two make a frame of tokens
    "cogvideox-1.5": Case("CogVideoXTransformer3DModel", COGVIDEOX | dict(patch_size_t=2, patch_bias=False), {},
                          "AutoencoderKLCogVideoX", TEXT, (1, 6, 4, 8, 12)),
    "mochi": Case(
        "MochiTransformer3DModel",
        dict(num_attention_heads=2, attention_head_dim=12, num_layers=3, pooled_projection_dim=8, in_channels=4,
             text_embed_dim=16, time_embed_dim=8, max_sequence_length=TEXT),
        dict(encoder_attention_mask=torch.ones(1, TEXT, dtype=torch.bool)),
        "AutoencoderKLMochi",
        TEXT,
    ),
    "kandinsky-5": Case(
        "Kandinsky5Transformer3DModel",
        dict(in_text_dim=16, in_text_dim2=8, time_dim=16, model_dim=32, ff_dim=32, num_text_blocks=1,
             num_visual_blocks=3, axes_dims=(4, 6, 6)),
        dict(pooled_projections=torch.ones(1, 8), text_rope_pos=torch.arange(TEXT),
             visual_rope_pos=[torch.arange(5), torch.arange(4), torch.arange(6)]),
        "AutoencoderKLHunyuanVideo",
        shape=(1, *LATENTS, 4),
    ),
    "easyanimate": Case(
        "EasyAnimateTransformer3DModel",
        dict(num_attention_heads=2, attention_head_dim=16, in_channels=4, out_channels=4, time_embed_dim=8,
             text_embed_dim=16, num_layers=3, mmdit_layers=2, patch_size=2),
        {},
        "AutoencoderKLMagvit",
        TEXT,
    ),
    "cosmos": Case(
        "CosmosTransformer3DModel",
        dict(in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=16, num_layers=2, mlp_ratio=2,
             text_embed_dim=16, adaln_lora_dim=4, max_size=(8, 16, 16), concat_padding_mask=False,
             extra_pos_embed_type=None),
        dict(fps=24, padding_mask=torch.zeros(1, 1, 8, 12)),
        "AutoencoderKLCosmos",
    ),
}  # fmt: skip


def test_every_class_has_a_case():
    assert {case.transformer for case in CASES.values()} == set(FAMILIES)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_attention_is_that_of_diffusers(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    diffusers = pytest.importorskip("diffusers")
    case = CASES[name]
    network = getattr(diffusers, case.transformer)(**case.config).eval()
    network.save_config(tmp_path / "transformer")
    (tmp_path / "vae").mkdir()
    (tmp_path / "vae" / "config.json").write_text(json.dumps({"_class_name": case.vae}))

    model = read_video_model(str(tmp_path))
    temporal, spatial, _ = VAES[case.vae]
    frames, height, width = LATENTS
    grid = model.token_grid(temporal * (frames - 1) + 1, (spatial * height, spatial * width))
    tokens = grid[0] * grid[1] * grid[2] + case.text
    assert model.parameters == sum(parameter.numel() for parameter in network.parameters())
    assert bool(case.text) == model.family.joint

    queries: Counter[tuple[int, ...]] = Counter()
    attend = F.scaled_dot_product_attention

    def counted(query: torch.Tensor, key: torch.Tensor, *others: Any, **options: Any) -> torch.Tensor:
        if query.shape[2] == key.shape[2]:
            queries[tuple(query.shape)] += 1
        return attend(query, key, *others, **options)

    monkeypatch.setattr(F, "scaled_dot_product_attention", counted)
    with torch.no_grad():
        network(hidden_states=torch.ones(case.shape), encoder_hidden_states=torch.ones(1, TEXT, 16),
                timestep=torch.tensor([500.0]), return_dict=False, **case.inputs)  # fmt: skip
    assert queries[1, model.heads, tokens, model.head_dim] == model.layers


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_parameters_are_those_of_diffusers(name: str):
    diffusers = pytest.importorskip("diffusers")
    published = MODELS[name]
    with torch.device("meta"):
        network = getattr(diffusers, published.transformer)(**published.config)
    assert sum(parameter.numel() for parameter in network.parameters()) == published.parameters
    assert published.source.startswith("https://huggingface.co/") and published.source.endswith("config.json")


@pytest.mark.slow
@pytest.mark.parametrize("kind", VAES)
def test_compression_is_that_of_diffusers(kind: str):
    diffusers = pytest.importorskip("diffusers")
    with torch.device("meta"):
        vae = getattr(diffusers, kind)()
    temporal, spatial, channels = VAES[kind]
    names = {
        "AutoencoderKLWan": ("scale_factor_temporal", "scale_factor_spatial"),
        "AutoencoderKLCosmos": ("temporal_compression_ratio", "spatial_compression_ratio"),
        "AutoencoderKLCogVideoX": ("temporal_compression_ratio", None),
    }.get(kind)
    of = vae.config if names else vae
    times, sides = names or ("temporal_compression_ratio", "spatial_compression_ratio")
    assert getattr(of, times) == temporal
    assert (getattr(of, sides) if sides else 2 ** (len(vae.config.block_out_channels) - 1)) == spatial
    assert vae.config.get("latent_channels", vae.config.get("z_dim")) == channels


@pytest.mark.parametrize(
    "name, frames, size, grid, heads, head_dim, layers",
    [
        ("wan-1.3b", 81, (480, 832), (21, 30, 52), 12, 128, 30),
        ("wan-14b", 81, (720, 1280), (21, 45, 80), 40, 128, 40),
        ("hunyuan", 129, (720, 1280), (33, 45, 80), 24, 128, 60),
        ("ltx", 161, (512, 704), (21, 16, 22), 32, 64, 28),
        ("cogvideox-5b", 49, (480, 720), (13, 30, 45), 48, 64, 42),
        ("mochi", 163, (480, 848), (28, 30, 53), 24, 128, 48),
    ],
)
def test_named_models(name: str, frames: int, size: tuple, grid: tuple, heads: int, head_dim: int, layers: int):
    model = read_video_model(name)
    assert model.token_grid(frames, size) == grid
    assert (model.heads, model.head_dim, model.layers) == (heads, head_dim, layers)
    assert model.most_video_frames(grid[0]) == frames
    assert (model.token_grid(model.family.frames, model.family.size)) > (0, 0, 0)


def test_other_models_are_left_to_others(tmp_path: Path):
    assert read_video_model("sd15") is None and read_video_model(str(tmp_path)) is None


# ---- folders


def folder_with(folder: Path, transformer: object, vae: object = None) -> str:
    for name, config in {"transformer": transformer, "vae": vae}.items():
        if config is not None:
            (folder / name).mkdir()
            text = config if isinstance(config, str) else json.dumps(config)
            (folder / name / "config.json").write_text(text)
    return str(folder)


def wan(**changed: Any) -> dict[str, Any]:
    return dict(_class_name="WanTransformer3DModel", patch_size=[1, 2, 2]) | WAN | dict(out_channels=16) | changed


def test_a_vae_config_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("fame_accel.tools.planner.video._count", lambda configs: None)
    vae = dict(_class_name="AutoencoderKLWan", scale_factor_temporal=4, scale_factor_spatial=16)
    model = read_video_model(folder_with(tmp_path, wan(out_channels=48), vae))
    assert model.compression == (4, 16) and model.token_grid(121, (704, 1280)) == (31, 22, 40)


@pytest.mark.slow
def test_two_transformers_are_counted(tmp_path: Path):
    pytest.importorskip("diffusers")
    one = read_video_model(folder_with(tmp_path, wan())).parameters
    (tmp_path / "transformer_2").mkdir()
    (tmp_path / "transformer_2" / "config.json").write_text(json.dumps(wan()))
    assert read_video_model(str(tmp_path)).parameters == 2 * one > 0


def test_without_diffusers_parameters_are_not_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("fame_accel.tools.planner.video.require", lambda *_: (_ for _ in ()).throw(ImportError()))
    model = read_video_model(folder_with(tmp_path, wan()))
    assert (model.parameters, model.heads) == (None, 2)


KANDINSKY = dict(_class_name="Kandinsky5Transformer3DModel", axes_dims=[4, 6, 6], model_dim=32, num_visual_blocks=1,
                 patch_size=[1, 2, 2])  # fmt: skip


@pytest.mark.parametrize(
    "config, vae, message",
    [
        (wan(_class_name="FluxTransformer2DModel"), None, "_class_name must be one of WanTransformer3D"),
        (wan(_class_name=["own.py", "Own"]), None, r"_class_name must be one of .*, got \['own.py', 'Own'\]"),
        ({}, None, "_class_name must be one of .*, got None"),
        ("[1]", None, "must hold an object, got list"),
        ("{", None, "is not JSON"),
        (wan(num_attention_heads=None), None, "num_attention_heads must be whole numbers of 1 to .*, got None"),
        (wan(num_attention_heads=1.5), None, "num_attention_heads must be whole numbers of 1 to .*, got 1.5"),
        (wan(attention_head_dim=True), None, "attention_head_dim must be whole numbers of 1 to .*, got True"),
        (wan(attention_head_dim=320), None, "has a head_dim of 320: the operation takes up to 256"),
        (wan(num_layers=10**5), None, "num_layers must make 1 to 1000 layers, got 100000"),
        (wan(patch_size=[2, 2]), None, r"patch_size must be a list of 3 numbers, got \[2, 2\]"),
        (wan(patch_size=[1, 2, 4]), None, r"patch_size must be square in height and width, got \[1, 2, 4\]"),
        (wan(patch_size=0), None, "patch_size must be whole numbers of 1 to .*, got 0"),
        (wan(out_channels=48), None, "has 48 channels, which AutoencoderKLWan does not make: .* needs vae/config.json"),
        (wan(_class_name="CosmosTransformer3DModel"), None, "models differ in their VAE: .* needs vae/config.json"),
        (wan(), dict(_class_name="AutoencoderKL"), "_class_name must be one of AutoencoderKLWan, .*'AutoencoderKL'"),
        (wan(), dict(_class_name=["AutoencoderKLWan"]), "_class_name must be one of AutoencoderKLWan"),
        (wan(), "{", "is not JSON"),
        (wan(), dict(scale_factor_spatial="8"), "scale_factor_spatial must be whole numbers of 1 to .*, got '8'"),
        (KANDINSKY | dict(model_dim=40), None, "model_dim must be a multiple of the head_dim 16, got 40"),
        (KANDINSKY | dict(attention_type="nabla"), None, "attention_type must be 'regular', got 'nabla'"),
    ],
)
def test_other_configs_are_refused(tmp_path: Path, config: object, vae: object, message: str):
    folder = folder_with(tmp_path, config, vae)
    file = "transformer" if vae is None else "vae"
    with pytest.raises(ValueError, match=f"--model: .*{file}.config.json: .*{message}"):
        read_video_model(folder)


@pytest.mark.slow
def test_what_diffusers_does_not_take_is_refused(tmp_path: Path):
    pytest.importorskip("diffusers")
    with pytest.raises(ValueError, match="--model: .*config.json: diffusers does not take it"):
        read_video_model(folder_with(tmp_path, wan(ffn_dim="wide")))


@pytest.mark.parametrize(
    "frames, size, message",
    [
        (80, (480, 832), r"--frames must be 4k\+1 for wan-1.3b, such as 77 or 81, got 80"),
        (2, (480, 832), "such as 1 or 5, got 2"),
        (81, (488, 832), "--size: height must be a multiple of 16 for wan-1.3b, such as 480 or 496, got 488"),
        (81, (480, 8), "--size: width must be a multiple of 16 for wan-1.3b, such as 16, got 8"),
    ],
)
def test_frames_and_sizes_between_are_refused(frames: int, size: tuple, message: str):
    with pytest.raises(ValueError, match=message):
        read_video_model("wan-1.3b").token_grid(frames, size)

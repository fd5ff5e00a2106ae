"""Plans of video transformers: their numbers against diffusers' classes, tokens by hand, and what is refused."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import diffusers
import pytest

from fame_accel.cli import main
from fame_accel.tools.planner.video_network import VIDEO_NETWORKS, find_video_network


@pytest.mark.parametrize(
    ("model", "cls", "layers"),
    [
        ("wan-14b", diffusers.WanTransformer3DModel, ("num_layers",)),
        ("hunyuan", diffusers.HunyuanVideoTransformer3DModel, ("num_layers", "num_single_layers")),
        ("ltx", diffusers.LTXVideoTransformer3DModel, ("num_layers",)),
        ("mochi", diffusers.MochiTransformer3DModel, ("num_layers",)),
    ],
)
def test_numbers_are_the_defaults_of_the_class(model: str, cls: Any, layers: tuple[str, ...]):
    defaults = {name: one.default for name, one in inspect.signature(cls.__init__).parameters.items()}
    network = VIDEO_NETWORKS[model]
    assert (network.heads, network.head_dim) == (defaults["num_attention_heads"], defaults["attention_head_dim"])
    assert network.layers == sum(defaults[name] for name in layers)


@pytest.mark.parametrize(
    ("model", "frames", "size", "tokens"),
    [
        ("wan-1.3b", 81, "832x480", 21 * 30 * 52),
        ("wan-14b", 81, "1280x720", 21 * 45 * 80),
        ("hunyuan", 129, "1280x720", 33 * 45 * 80),
        ("ltx", 97, "704x480", 13 * 15 * 22),
        ("cogvideox-5b", 49, "720x480", 13 * 30 * 45),
        ("mochi", 85, "848x480", 15 * 30 * 53),
    ],
)
def test_tokens(model: str, frames: int, size: str, tokens: int, capsys: Any):
    assert main(["plan", "--model", model, "--frames", str(frames), "--size", size]) == 0
    printed = capsys.readouterr().out
    assert f", {tokens:,} in all; a bool mask of their pairs takes {tokens**2 / 2**30:.1f} GiB" in printed
    assert ("guidance is a further call" in printed) == (model in ("wan-1.3b", "wan-14b", "hunyuan"))
    assert main(["plan", "--model", model, "--frames", str(frames), "--size", size, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert rows[0]["N"] == tokens if "N" in rows[0] else str(tokens) in str(rows[0])


def test_a_folder(tmp_path: Path, capsys: Any):
    folder = tmp_path / "wan"
    (folder / "transformer").mkdir(parents=True)
    config = {
        "_class_name": "WanTransformer3DModel", "num_attention_heads": 12, "attention_head_dim": 128, "num_layers": 30,
        "patch_size": [1, 2, 2],
    }  # fmt: skip
    (folder / "transformer/config.json").write_text(json.dumps(config))
    assert find_video_network(str(folder)) == VIDEO_NETWORKS["wan-1.3b"]
    assert main(["plan", "--model", str(folder), "--frames", "5"]) == 0
    assert "2 latent frames of 52x30 tokens, 3,120 in all" in capsys.readouterr().out
    for change, message in (
        ({"_class_name": "FluxTransformer2DModel"}, "_class_name must be one of WanTransformer3DModel"),
        ({"num_layers": None}, "num_layers must be a whole number from 1 on, got None"),
        ({"num_attention_heads": "12"}, "num_attention_heads must be a whole number from 1 on, got '12'"),
    ):
        (folder / "transformer/config.json").write_text(json.dumps(config | change))
        assert main(["plan", "--model", str(folder), "--frames", "5"]) == 2
        line = capsys.readouterr().err
        assert line.count("\n") == 1 and message in line and str(folder) in line


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--frames", "80"], "--frames must be 1 + a multiple of 4 for this model, got 80: take 77 or 81"),
        (["--frames", "81", "--size", "840x480"], "--size must be positive multiples of 16, got 840x480"),
        (["--frames", "81", "--video", "clip.mp4"], "--video is for models of images, not for wan-1.3b"),
    ],
)
def test_what_does_not_fit_costs_one_line(flags: list[str], message: str, capsys: Any):
    assert main(["plan", "--model", "wan-1.3b", *flags]) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1 and message in line

"""Weights of checkpoints: which files are loaded, and that each network gets just the tensors of its own."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from edit_inputs import refusal
from safetensors.torch import load_file, save_file

from fame_accel.edit.checkpoint import find_checkpoint, find_controlnet
from fame_accel.edit.loading import load_pipeline
from fame_accel.edit.record import read_record
from fame_accel.media.weights import find_weights

FILES = {
    "unet": "unet/diffusion_pytorch_model.safetensors",
    "vae": "vae/diffusion_pytorch_model.safetensors",
    "text_encoder": "text_encoder/model.safetensors",
}


@pytest.fixture
def model(home: Path, tmp_path: Path) -> Path:
    """A copy of the checkpoint whose files can be replaced."""
    shutil.copytree(home / "model", tmp_path / "model", copy_function=os.link)
    return tmp_path / "model"


def rewrite(file: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    tensors = load_file(file)
    change(tensors)
    file.unlink()  # a link: the original must not change
    save_file(tensors, file, {"format": "pt"})


def shard(file: Path, *names: str) -> Path:
    """Split a file in two of these names, with an index."""
    tensors = load_file(file)
    file.unlink()
    keys = sorted(tensors)
    halves = keys[::2], keys[1::2]
    for name, half in zip(names, halves, strict=True):
        save_file({key: tensors[key] for key in half}, file.with_name(name), {"format": "pt"})
    weight_map = {key: name for name, half in zip(names, halves, strict=True) for key in half}
    index = file.with_name(f"{file.name}.index.json")
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return index


def _rename(tensors: dict[str, torch.Tensor]) -> None:
    for name in list(tensors):
        tensors[f"renamed.{name}"] = tensors.pop(name)


def _drop(tensors: dict[str, torch.Tensor]) -> None:
    del tensors[min(tensors)]


def _add(tensors: dict[str, torch.Tensor]) -> None:
    tensors["one.more"] = torch.zeros(1)


def _cut(tensors: dict[str, torch.Tensor]) -> None:
    name = min(tensors)
    tensors[name] = tensors[name][:1].clone()


@pytest.mark.parametrize("part", FILES)
@pytest.mark.parametrize(
    ("change", "words"),
    [(_rename, "missing: "), (_drop, "missing: "), (_add, "unexpected: one.more"), (_cut, "of another shape: ")],
)
def test_other_tensors_are_refused(home, model, capsys, part, change, words):
    rewrite(model / FILES[part], change)
    line = refusal(home, capsys, model=model)
    assert str(model / FILES[part]) in line and words in line
    if change is _rename:
        assert "unexpected: renamed." in line and " more" in line


def test_other_tensors_of_a_controlnet_are_refused(home, model, capsys):
    network = model.parent / "controlnet"
    shutil.copytree(home / "controlnet", network, copy_function=os.link)
    rewrite(network / "diffusion_pytorch_model.safetensors", _drop)
    line = refusal(home, capsys, model=model, controlnet=network, control="canny")
    assert "--controlnet" in line and "missing: " in line


def test_names_that_libraries_convert_are_accepted(home, model):
    """Names of older versions: of the VAE's attention, and of the text encoder with its positions."""
    older = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def rename_attention(tensors: dict[str, torch.Tensor]) -> None:
        for name in [name for name in tensors if ".attentions.0." in name]:
            new = name
            for now, before in older.items():
                new = new.replace(f".{now}.", f".{before}.")
            tensors[new] = tensors.pop(name)

    def prefix(tensors: dict[str, torch.Tensor]) -> None:
        for name in list(tensors):
            tensors[f"text_model.{name.removeprefix('text_model.')}"] = tensors.pop(name)
        tensors["text_model.embeddings.position_ids"] = torch.arange(77)[None]

    rewrite(model / FILES["vae"], rename_attention)
    rewrite(model / FILES["text_encoder"], prefix)
    assert any(".query." in name for name in load_file(model / FILES["vae"]))
    changed, original = (
        load_pipeline(find_checkpoint(folder), [], torch.float32) for folder in (model, home / "model")
    )
    for part in FILES:
        mine, theirs = (getattr(pipeline, part).state_dict() for pipeline in (changed, original))
        assert mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


@pytest.mark.parametrize("part", FILES)
def test_an_index_names_what_is_loaded_and_hashed(home, model, part):
    """A stray file of the usual name beside it is neither."""
    file = model / FILES[part]
    shard(file, "one.safetensors", "two.safetensors")
    save_file({"stray": torch.zeros(1)}, file)
    checkpoint = find_checkpoint(model)
    assert [found.name for found in checkpoint.weights[part].files] == ["one.safetensors", "two.safetensors"]
    hashed = checkpoint.identity()["files"]
    assert f"{part}/one.safetensors" in hashed and FILES[part] not in hashed
    loaded, original = (
        getattr(load_pipeline(find, [], torch.float32), part).state_dict()
        for find in (checkpoint, find_checkpoint(home / "model"))
    )
    assert all(torch.equal(loaded[name], original[name]) for name in original)


@pytest.mark.parametrize("name", ["weights.bin", "../two.safetensors", "/two.safetensors", "a\\two.safetensors", 5])
def test_an_index_names_plain_safetensors(home, model, capsys, name):
    index = shard(model / FILES["unet"], "one.safetensors", "two.safetensors")
    content = json.loads(index.read_text())
    content["weight_map"]["conv_in.weight"] = name
    index.write_text(json.dumps(content))
    assert "must name .safetensors files of its own folder, got " in refusal(home, capsys, model=model)


def test_an_index_and_its_files_agree(home, model, capsys):
    index = shard(model / FILES["unet"], "one.safetensors", "two.safetensors")
    content = json.loads(index.read_text())
    content["weight_map"].popitem()
    index.write_text(json.dumps(content))
    assert "two.safetensors must hold what" in refusal(home, capsys, model=model)
    (model / "unet/two.safetensors").unlink()
    assert "names two.safetensors, which is not there" in refusal(home, capsys, model=model)
    index.write_text('{"weight_map": []}')
    assert "must have a weight_map from tensors to files" in refusal(home, capsys, model=model)
    index.unlink()
    assert "holds no weights in safetensors of a usual name" in refusal(home, capsys, model=model)


@pytest.mark.parametrize("ending", ["safetensors.index.fp16.json", "safetensors.fp16.index.json"])
def test_an_index_of_a_variant(home, model, ending):
    index = shard(model / FILES["vae"], "a.fp16-1.safetensors", "a.fp16-2.safetensors")
    index.rename(index.with_name(f"diffusion_pytorch_model.{ending}"))
    found = find_checkpoint(model).weights["vae"]
    assert found.variant == "fp16" and len(found.files) == 2
    assert load_pipeline(find_checkpoint(model), [], torch.float32).vae is not None


def test_links_lead_nowhere_else(home, model, capsys):
    file = model / FILES["vae"]
    outside = model.parent / "elsewhere.safetensors"
    file.rename(outside)
    file.symlink_to(outside)
    assert "must not be a link out of" in refusal(home, capsys, model=model)


def test_the_layout_of_the_cache_of_hugging_face(home, tmp_path, monkeypatch, capsys):
    """A snapshot's files are links to blobs; a model is found by its name, and one that is not there is not fetched."""
    cached = tmp_path / "hub" / "models--some--model"
    (cached / "blobs").mkdir(parents=True)
    (cached / "refs").mkdir()
    (cached / "refs/main").write_text("0" * 40)
    for number, file in enumerate(sorted(file for file in (home / "model").rglob("*") if file.is_file())):
        link = cached / "snapshots" / ("0" * 40) / file.relative_to(home / "model")
        link.parent.mkdir(parents=True, exist_ok=True)
        os.link(file, cached / "blobs" / str(number))
        link.symlink_to(cached / "blobs" / str(number))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    found = find_checkpoint("some/model")
    assert found.identity() == find_checkpoint(home / "model").identity()
    line = refusal(home, capsys, model="other/model")
    assert "`hf download other/model`" in line
    line = refusal(home, capsys, controlnet="other/network", control="canny")
    assert line.startswith("fame-accel: --controlnet other/network: ") and "`hf download other/network`" in line


@pytest.mark.parametrize("name", [*FILES.values(), "tokenizer/tokenizer.json", "unet/config.json", "model_index.json"])
def test_pointers_of_git_lfs(home, model, capsys, name):
    (model / name).unlink()
    (model / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    assert (
        f"{name} is a pointer of git-lfs in place of the file: run `git lfs pull` in {(model / name).parent}"
        in refusal(home, capsys, model=model)
    )


def test_files_in_place_of_a_folder(home, tmp_path, capsys):
    remedies = {"model.ckpt": "which could run code: get it as .safetensors", "model.gguf": "got a file"}
    for name, remedy in remedies.items():
        (tmp_path / name).touch()
        line = refusal(home, capsys, model=tmp_path / name)
        assert "must be a checkpoint folder in diffusers' layout" in line and remedy in line


def test_a_variant_beside_plain_weights(tmp_path):
    for name in ("model.safetensors", "model.fp16.safetensors", "model.ema.safetensors"):
        save_file({"x": torch.zeros(1)}, tmp_path / name)
    found = find_weights(tmp_path, "model", "--clip")
    assert [file.name for file in found.files] == ["model.safetensors"] and found.variant is None


def test_a_controlnet_in_shards(home, tmp_path):
    shutil.copytree(home / "controlnet", tmp_path / "network", copy_function=os.link)
    shard(tmp_path / "network/diffusion_pytorch_model.safetensors", "a.safetensors", "b.safetensors")
    assert set(find_controlnet(tmp_path / "network").identity()["files"]) == {"a.safetensors", "b.safetensors"}


def test_names_in_the_cache_stay_in_a_record(home, tmp_path):
    networks = ["some/network", str(home / "controlnet")]
    options = {"model": "some/model", "controlnet": networks, "control": ["canny", "x"]}
    (tmp_path / "run.json").write_text(json.dumps({"options": options}))
    read = read_record(tmp_path / "run.json")["options"]
    assert read["model"] == "some/model" and read["controlnet"] == networks
    assert read["control"] == ["canny", str(tmp_path / "x")]

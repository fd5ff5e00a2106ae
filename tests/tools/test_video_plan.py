"""A video transformer's plan: its figures are those of tensors of these shapes, and the command tells them."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from planned import tokens_of

from fame_accel.cli import main
from fame_accel.core.planning import plan_attention
from fame_accel.core.presets import make_modulation
from fame_accel.tools.planner.estimate import level_bytes, level_plan_bytes
from fame_accel.tools.planner.memory import plan_bytes
from fame_accel.tools.planner.pairs import ModulationKind, RunCounts
from fame_accel.tools.planner.regions import EqualRegions
from fame_accel.tools.planner.video import read_video_model
from fame_accel.tools.planner.video_plan import VideoPlan


def planned(name: str, frames: int, size: tuple[int, int], *gpus: int, **options: Any) -> VideoPlan:
    return VideoPlan.of(read_video_model(name), frames, size, EqualRegions(2), gpus, **options)


def plan(capsys: pytest.CaptureFixture, *arguments: object) -> tuple[int, str, str]:
    status = main(["plan", *map(str, arguments)])
    printed = capsys.readouterr()
    return status, printed.out, printed.err


# ---- figures


def test_quadratic_figures_are_those_of_tensors():
    one = planned("wan-1.3b", 81, (480, 832))
    tokens = torch.empty(1, 12, 32760, 128, dtype=torch.bfloat16, device="meta")
    assert one.video_tokens == one.sequence == tokens.shape[2]
    assert one.mask_bytes == torch.empty(32760, 32760, dtype=torch.bool, device="meta").nbytes
    assert one.logits_bytes == (tokens @ tokens.mT).nbytes
    text = torch.empty(1, 12, 512, 128, dtype=torch.bfloat16, device="meta")
    assert one.cross_attention_bytes() == 2 * tokens.nbytes + 2 * text.nbytes
    assert one.weight_bytes == 2 * 1_418_996_800


@pytest.mark.parametrize("modulation", ["fame", "region-mask"])
def test_plan_bytes_are_those_of_a_plan(modulation: str):
    pytest.importorskip("triton")
    one = planned("wan-1.3b", 17, (256, 256), dtype="float16", modulation=modulation)
    preset = make_modulation(modulation, 5)
    made = plan_attention(
        tokens_of(one.setting), None, preset, backend="triton", head_dim=128, dtype=torch.float16
    ).tiles
    lists = (made.query_order, made.key_order, made.tiles, made.pair_span, made.pair_value)
    runs = RunCounts.of(EqualRegions(2).areas(5, 16, 16), ModulationKind.of(preset, 5))
    # tiles of this machine's kernels: level_plan_bytes counts those of one chip
    assert plan_bytes(runs, made.block_q, made.block_k) == sum(part.nbytes for part in lists)


def test_the_plan_of_720p_is_of_the_order_of_its_tokens():
    one = planned("wan-14b", 81, (720, 1280))
    counted = level_plan_bytes(one.setting, one.setting.network[0])
    assert 8 * one.video_tokens < counted < 24 * one.video_tokens < one.mask_bytes / 1000


def test_text_in_self_attention_is_counted():
    one = planned("cogvideox-5b", 49, (480, 720))
    assert one.sequence == one.video_tokens + 226 and one.mask_bytes == one.sequence**2
    assert one.cross_attention_bytes() == 0 and one.setting.guidance
    assert not planned("wan-14b", 81, (480, 832)).setting.guidance  # its halves are two calls


@pytest.mark.parametrize("guidance, batch", [(True, 2), (False, 1)])
def test_calls_that_are_merged_are_counted(guidance: bool, batch: int):
    one = planned("cogvideox-5b", 49, (480, 720), guidance=guidance)
    video, text = (torch.empty(batch, 48, n, 64, dtype=torch.bfloat16, device="meta") for n in (17550, 226))
    lse = torch.empty(batch, 48, 17550, device="meta")
    alone = level_bytes(one.setting, one.setting.network[0], "triton")
    # of the text query, key, value and out; of the video the part from the text, the merged result, lse of both parts
    assert one.attention_bytes() == alone + 4 * text.nbytes + 2 * video.nbytes + 2 * lse.nbytes


# ---- several GPUs


def sent_by_a_rank(shape: tuple[int, int, int, int], gpus: int) -> int:
    """Bytes of what the first rank's tensor [B, N, H, D] of its tokens holds of other ranks' heads."""
    batch, tokens, heads, head_dim = shape
    local = torch.empty(batch, tokens // gpus, heads, head_dim, dtype=torch.bfloat16, device="meta")
    return sum(part.numel() * part.itemsize for part in local.tensor_split(gpus, dim=2)[1:])


@pytest.mark.parametrize("gpus", [1, 4, 8])
def test_ranks_hold_and_send_their_share(gpus: int):
    one = planned("wan-14b", 81, (720, 1280))
    rank = one.rank(gpus)
    assert (rank.heads, rank.tokens, rank.obstacle) == (40 // gpus, 75600 // gpus, None)
    # query, key and value go to the ranks of their heads, out comes back to those of its tokens
    assert rank.layer_sent_bytes == 4 * sent_by_a_rank((1, 75600, 40, 128), gpus)
    assert rank.pass_sent_bytes == 40 * rank.layer_sent_bytes
    alone = level_bytes(one.setting, replace(one.setting.network[0], heads=40 // gpus), "triton")
    before = torch.empty(3, 75600 // gpus, 40, 128, dtype=torch.bfloat16, device="meta")
    assert rank.attention_bytes == alone + (before.nbytes if gpus > 1 else 0)


def test_batches_and_text_are_sent():
    one = planned("cogvideox-5b", 49, (480, 720))
    assert one.sequence == 17776
    assert one.rank(8).layer_sent_bytes == 4 * sent_by_a_rank((2, 17776, 48, 64), 8)


def test_tokens_that_do_not_divide_are_rounded_up():
    assert planned("mochi", 19, (480, 848)).rank(6).tokens == -(-6616 // 6) == 1103


def test_gpus_that_do_not_divide_the_heads():
    ranks = [planned("wan-14b", 81, (720, 1280), 8, 64).rank(gpus) for gpus in (8, 64)]
    assert ranks[0].obstacle is None
    assert ranks[1].obstacle == "64 does not divide 40 heads; 1, 2, 4, 5, 8, 10, 20, 40 do"
    with pytest.raises(ValueError, match="--gpus must divide the heads of wan-14b: 64 does not divide 40 heads"):
        planned("wan-14b", 81, (720, 1280), 64)


# ---- the command


def test_a_named_model_is_planned(capsys: pytest.CaptureFixture):
    given = ("--model", "wan-1.3b", "--frames", 81, "--width", 832, "--height", 480, "--memory", 24)
    status, out, err = plan(capsys, *given)
    assert (status, err) == (0, "")
    assert "wan-1.3b, 81 frames of 832x480 (width x height), fame, float16, one call, of one item" in out
    assert "32,760 tokens (21 frames of 52x30), 12 heads of 128, 30 layers; cross-attention to 512 text tokens" in out
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert {"an N x N mask would take 1 GiB", "N x N logits in float16 would take 24 GiB", "fits 24 GiB"} <= set(lines)
    assert "weights, 1,418,996,800 parameters 2.64 GiB" in lines
    assert "Not counted: other activations" in out and "GPUs" not in out


def test_frames_that_fit_are_those_of_the_video(capsys: pytest.CaptureFixture):
    given = ("--model", "wan-1.3b", "--memory", 24, "--json")
    report = json.loads(plan(capsys, *given)[1])
    assert (report["frames"], report["size"], report["video"]["token_frames"]) == (81, [480, 832], 21)
    most = report["frames_that_fit"]["reference"]["frames"]
    assert most % 4 == 1 and most < 81
    [row] = [row for row in report["rows"] if row["level"] == "52x30"]
    assert row["tokens"] == report["video"]["tokens"] == 32760
    for frames, fits in ((most, True), (most + 4, False)):
        rows = json.loads(plan(capsys, *given, "--frames", frames)[1])["rows"]
        assert (rows[0]["eager_bytes"] <= 24 * 2**30) == fits


def test_too_little_memory_is_told(capsys: pytest.CaptureFixture):
    assert "does NOT fit 24 GiB" in plan(capsys, "--model", "wan-14b", "--memory", 24)[1]


def test_gpus_are_a_table(capsys: pytest.CaptureFixture):
    given = ("--model", "wan-14b", "--size", "1280x720", "--gpus", 1, 4, 8, 64, "--memory", 24)
    status, out, _ = plan(capsys, *given)
    assert status == 0 and "Ulysses: each GPU holds all weights" in out
    lines = out.splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("GPUs"))
    rows = [line.split()[:3] for line in lines[start + 2 : start + 5]]
    assert rows == [["1", "40", "75,600"], ["4", "10", "18,900"], ["8", "5", "9,450"]]
    assert all(line.endswith("NO") for line in lines[start + 2 : start + 5])
    assert lines[start + 5] == "64 GPUs: 64 does not divide 40 heads; 1, 2, 4, 5, 8, 10, 20, 40 do"
    ranks = json.loads(plan(capsys, *given, "--json")[1])["video"]["ranks"]
    assert [rank["gpus"] for rank in ranks] == [1, 4, 8, 64] and ranks[3]["obstacle"]


def test_a_folder_is_planned(tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("fame_accel.tools.planner.video._count", lambda configs: None)
    (tmp_path / "transformer").mkdir()
    config = dict(_class_name="MochiTransformer3DModel", num_attention_heads=4, attention_head_dim=64, num_layers=2,
                  patch_size=2)  # fmt: skip
    (tmp_path / "transformer" / "config.json").write_text(json.dumps(config))
    status, out, _ = plan(capsys, "--model", tmp_path, "--frames", 7, "--size", 64, "--memory", 1, "--gpus", 2)
    assert status == 0 and "32 tokens (2 frames of 4x4), 4 heads of 64, 2 layers; 256 text tokens in it" in out
    assert "not counted: diffusers is not installed" in out and "fits" not in out
    assert [line.split()[3] for line in out.splitlines() if line.startswith("2  ")] == ["-"]


@pytest.mark.slow
def test_files_are_written(capsys: pytest.CaptureFixture, tmp_path: Path):
    pytest.importorskip("matplotlib")
    given = ("--model", "mochi", "--frames", 7, "--size", 64, "--backend", "sdpa", "--dtype", "float32")
    status, out, err = plan(capsys, *given, "--json", "--out", tmp_path / "plan")
    assert status == 0, err
    assert json.loads(out) == json.loads((tmp_path / "plan" / "plan.json").read_text())
    with (tmp_path / "plan" / "plan.csv").open(newline="") as file:
        assert [row["level"] for row in csv.DictReader(file)] == ["4x4", "all"]
    assert (tmp_path / "plan" / "plan.png").stat().st_size > 5000


def test_width_and_height_are_a_size(capsys: pytest.CaptureFixture):
    given = ("--frames", 2, "--json")
    assert plan(capsys, *given, "--size", "64x128")[1] == plan(capsys, *given, "--width", 64, "--height", 128)[1]


WAN = ("--model", "wan-1.3b")


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((*WAN, "--frames", 80), "--frames must be 4k+1 for wan-1.3b, such as 77 or 81, got 80"),
        ((*WAN, "--width", 832, "--height", 488), "--height must be a multiple of 16 for wan-1.3b, such as 480 or 496"),
        ((*WAN, "--size", "840x480"), "--size: width must be a multiple of 16 for wan-1.3b, such as 832 or 848"),
        ((*WAN, "--width", 830, "--height", 480), "--width must be a positive multiple of 8, got 830"),
        ((*WAN, "--gpus", 5), "--gpus must divide the heads of wan-1.3b: 5 does not divide 12 heads"),
        ((*WAN, "--gpus", 0), "--gpus must lie in 1 to 1000000, got 0"),
        ((*WAN, "--video", "x"), "--video is for UNets: for wan-1.3b give --regions"),
        ((*WAN, "--masks", "x"), "--masks is for UNets"),
        ((*WAN, "--auto-person-mask"), "--auto-person-mask is for UNets"),
        ((*WAN, "--frames", 40001), "--frames 40001: a plan would look at more than"),
        ((*WAN, "--tokens", "4x4"), "--tokens is in place of --model"),
    ],
)
def test_mistakes_end_in_one_line(capsys: pytest.CaptureFixture, arguments: tuple, message: str):
    status, out, err = plan(capsys, *arguments)
    assert status == 2 and out == "" and err.count("\n") == 1 and err.startswith("fame-accel: ")
    assert message in err


def test_a_folder_of_another_class_ends_in_one_line(capsys: pytest.CaptureFixture, tmp_path: Path):
    (tmp_path / "transformer").mkdir()
    (tmp_path / "transformer" / "config.json").write_text('{"_class_name": "SanaVideoTransformer3DModel"}')
    status, out, err = plan(capsys, "--model", tmp_path)
    assert status == 2 and out == "" and err.count("\n") == 1
    assert "_class_name must be one of WanTransformer3DModel, " in err and "got 'SanaVideoTransformer3DModel'" in err

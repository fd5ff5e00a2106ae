"""The planner: its layers are diffusers', its pairs a plan's, its bytes what calls allocate, its times the model's."""

from __future__ import annotations

import csv
import json
import math
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
import torch
from planned import allocated, attend, one_level, tokens_of
from support import ROOT

from benchmarks.results_table import GPU_SELF, newest
from fame_accel import SpaceTimeLayout
from fame_accel.cli import main
from fame_accel.core.dispatch import run_plan
from fame_accel.core.planning import plan_attention
from fame_accel.core.presets import make_modulation
from fame_accel.core.tables import merge_frames
from fame_accel.core.tiles import tile_plan
from fame_accel.tools.measure import reset_peak
from fame_accel.tools.parity_cases import three_regions
from fame_accel.tools.planner import MODULATIONS, predicted
from fame_accel.tools.planner.cycle_model import CHIPS
from fame_accel.tools.planner.estimate import Setting, most_frames, peak_bytes, plan_levels, refuses, total
from fame_accel.tools.planner.memory import CallShape, triton_bytes
from fame_accel.tools.planner.network import FAMILIES, AttentionLevel, attention_levels, read_network
from fame_accel.tools.planner.pairs import ModulationKind, RunCounts
from fame_accel.tools.planner.regions import EqualRegions, MaskRegions

SD15 = read_network("sd15")
SMALL, LARGER = (2, 40, 3, (16, 16), 2), (4, 64, 4, (16, 24), 3)  # heads, head_dim, frames, tokens a frame, regions
on_modulations = pytest.mark.parametrize("modulation", MODULATIONS)


def some_masks(regions: int, frames: int, side: int) -> torch.Tensor:
    """Blocks that overlap, move, and leave pixels in no region."""
    masks = torch.zeros(regions, frames, side, side, dtype=torch.bool)
    for region in range(regions):
        for frame in range(frames):
            first = 2 * region + frame
            masks[region, frame, first : first + side // 2 + frame, region : region + side // 2] = True
    return masks


# ---- layers


def test_families_by_hand():
    assert [tuple(vars(level).values()) for level in SD15] == [
        (1, 8, 40, 5), (2, 8, 80, 5), (4, 8, 160, 5), (8, 8, 160, 1)
    ]  # fmt: skip
    assert [(level.heads, level.head_dim) for level in read_network("sd21")] == [(5, 64), (10, 64), (20, 64), (20, 64)]
    assert [(level.divisor, level.layers) for level in read_network("sdxl")] == [(2, 10), (4, 60)]


ODD = dict(
    block_out_channels=[32, 64, 96],
    down_block_types=["CrossAttnDownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"],
    up_block_types=["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    layers_per_block=[1, 2, 3],
    transformer_layers_per_block=[3, 1, 2],
    attention_head_dim=[2, 4, 6],
)


@pytest.mark.parametrize(
    "config",
    [
        *FAMILIES.values(),
        ODD,
        ODD | dict(mid_block_type=None),
        ODD | dict(reverse_transformer_layers_per_block=[4, 5, 6]),
    ],
    ids=[*FAMILIES, "odd", "no middle", "other depth upward"],
)
def test_layers_are_those_of_diffusers(config: dict):
    diffusers = pytest.importorskip("diffusers")
    with torch.device("meta"):
        unet = diffusers.UNet2DConditionModel(**config, cross_attention_dim=32)
    blocks = len(config["block_out_channels"])
    result = Counter()
    for name, module in unet.named_modules():
        if name.endswith(".attn1"):
            position = name.split(".")
            level = {"down_blocks": lambda i: i, "up_blocks": lambda i: blocks - 1 - i}.get(position[0])
            divisor = 2 ** (blocks - 1 if level is None else level(int(position[1])))
            result[divisor, module.heads, module.to_q.out_features // module.heads] += 1
    planned = {(level.divisor, level.heads, level.head_dim): level.layers for level in attention_levels(config)}
    assert planned == dict(result)


def test_sizes_are_halved_upwards():
    assert [level.side_lengths((520, 72)) for level in SD15] == [(65, 9), (33, 5), (17, 3), (9, 2)]


def test_checkpoint_folder_is_read(tmp_path: Path):
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "config.json").write_text(json.dumps(FAMILIES["sd21"]))
    assert read_network(tmp_path) == read_network("sd21")


@pytest.mark.parametrize(
    "changed, message",
    [
        (dict(block_out_channels=None), "block_out_channels must be a list"),
        (dict(block_out_channels=[32, 64, "96"]), "block_out_channels must be whole numbers"),
        (dict(attention_head_dim=[2, 4]), "one entry for each of the 3 blocks"),
        (dict(attention_head_dim=[2, 4, 7]), "must be multiples of the heads"),
        (dict(down_block_types=["AttnDownBlock2D"] * 3), "down_block_types holds 'AttnDownBlock2D'"),
        (dict(up_block_types=None), "up_block_types holds None"),
        (dict(only_cross_attention=[False, True, False]), "only_cross_attention"),
        (dict(mid_block_type="UNetMidBlock2D"), "mid_block_type must be"),
        (dict(block_out_channels=[32, 64, 3000]), "head_dim of 500"),
    ],
)
def test_other_networks_are_refused(tmp_path: Path, changed: dict, message: str):
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "config.json").write_text(json.dumps(ODD | changed))
    with pytest.raises(ValueError, match=f"--model: .*config.json: .*{message}"):
        read_network(tmp_path)


# ---- pairs


@on_modulations
@pytest.mark.parametrize("frames", [1, 2, 4])
def test_pairs_are_those_of_a_plan(modulation: str, frames: int):
    layout = SpaceTimeLayout.from_masks(some_masks(3, frames, 24))
    tokens = layout.tokens(12, 10)
    preset = make_modulation(modulation, frames)
    tables = merge_frames(preset, frames, frames)
    plan = tile_plan(tokens, tokens, tables, 16, 8)
    runs = RunCounts.of(MaskRegions(layout).areas(frames, 12, 10), ModulationKind.of(preset, frames))
    tiles = runs.cut(16, 8)

    ends = plan.tiles[0].long()
    full_same, full_other, short_same, short_other = (int((ends[:, i + 1] - ends[:, i]).sum()) for i in range(2, 6))
    assert (tiles.query_tiles, tiles.listed) == (len(ends), len(plan.pair_span))
    # a hard mask's plan knows of every pair that it is of the same region, as the others are excluded
    assert (tiles.full, tiles.short) == ((full_other, full_same), (short_other, short_same))
    planned = (tables.strength is not None, tables.strength_pair is not None)
    assert (runs.kind.modulated, runs.kind.one_pass) == planned

    region, frame = tokens.region[0], tokens.frame[0].long()
    same = ((region[:, None] & region[None, :]) != 0).long()
    bias = torch.zeros(2, frames, frames) if preset.bias_table is None else preset.bias_table
    assert runs.active_pairs() == int((bias[same, frame[:, None], frame[None, :]] > -math.inf).sum())
    assert int(runs.tokens.sum()) == tokens.num_tokens


@pytest.mark.parametrize("number", [1, 3, 31])
def test_equal_regions_are_equal(number: int):
    areas = EqualRegions(number).areas(2, 9, 11)
    assert areas.bitsets.tolist() == [1 << region for region in range(number)]
    assert areas.tokens.sum(1).tolist() == [99, 99]
    assert areas.tokens.max() - areas.tokens.min() <= 1


def test_masks_repeat_for_more_frames():
    regions = MaskRegions(SpaceTimeLayout.from_masks(some_masks(2, 3, 16)))
    tokens = regions.areas(7, 12, 16).tokens
    assert torch.equal(tokens[:3], regions.areas(3, 12, 16).tokens) and torch.equal(tokens[3:6], tokens[:3])
    assert torch.equal(tokens[6], tokens[0]) and not torch.equal(tokens[1], tokens[0])


# ---- memory


def amx() -> bool:
    return torch.backends.cpu.get_cpu_capability() == "AVX512" and torch.cpu._is_amx_tile_supported()


def round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


@on_modulations
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    "backend, shape",
    [
        *((backend, shape) for backend in ("reference", "sdpa") for shape in (SMALL, LARGER)),
        ("sdpa", (2, 40, 3, (32, 28), 31)),  # runs of tokens too short for a call each
    ],
)
def test_bytes_are_those_allocated(modulation: str, dtype: str, backend: str, shape: tuple):
    heads, head_dim, frames, tokens, regions = shape
    setting = one_level(heads, head_dim, frames, tokens, regions, dtype=dtype, modulation=modulation)
    call = attend(setting, backend, tokens_of(setting))
    call()  # makes the plan
    planned, got = peak_bytes(setting, backend), allocated(call)
    if dtype == "float32":  # but for a plan's lists, which were there before the call
        assert planned == pytest.approx(got, rel=0.01)
    else:  # bfloat16 products have buffers of their own; with AMX, attention also packs keys and values for itself
        packed = 2 * 2 * heads * frames * math.prod(tokens) * round_up(head_dim, 32) if amx() else 0
        assert 0.92 * got - packed <= planned <= 1.08 * got


@on_modulations
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_bytes_of_the_kernels_are_those_allocated(modulation: str, dtype: str, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("triton")
    from fame_accel.bindings import tile_ops

    monkeypatch.setattr(tile_ops, "run", lambda call, like: None)  # all is allocated as ever, nothing is launched
    setting = one_level(4, 40, 4, (16, 24), 3, dtype=dtype, modulation=modulation)
    layout = tokens_of(setting)
    preset = make_modulation(modulation, 4)
    plan = plan_attention(layout, None, preset, backend="triton", head_dim=40, dtype=getattr(torch, dtype)).tiles
    shape = CallShape(4, layout.num_tokens, 40, getattr(torch, dtype))
    runs = RunCounts.of(setting.regions.areas(4, 16, 24), ModulationKind.of(preset, 4))
    lists = (plan.query_order, plan.key_order, plan.tiles, plan.pair_span, plan.pair_value)
    planned = triton_bytes(shape, runs, plan.block_q, plan.block_k)
    without_plan = planned - sum(part.numel() * part.element_size() for part in lists)
    call = attend(setting, "triton", layout)
    call()
    assert 3 * shape.tensor + without_plan == pytest.approx(allocated(call), rel=0.005)


@pytest.mark.parametrize("backend", ["sdpa", "reference"])
def test_bytes_of_a_guided_batch_are_those_allocated(backend: str):
    setting = one_level(2, 40, 3, (16, 16), 2, guidance=True)
    layout = tokens_of(setting)
    plan = plan_attention(layout, None, make_modulation("fame", 3), backend=backend, head_dim=40, dtype=torch.float32)
    strength, plain = layout.size_regularization()[None], torch.tensor([1])

    def guided() -> None:
        query, key, value = (torch.empty(2, 2, layout.num_tokens, 40).normal_() for _ in range(3))
        run_plan(plan, query, key, value, strength, None, 40**-0.5, False, plain)

    guided()
    assert peak_bytes(setting, backend) == pytest.approx(allocated(guided), rel=0.02)


# Prints, for each modulation and shape, the peak of resident memory above what stood before the tensors were made.
RESIDENT = """
import sys
import torch
sys.path.insert(0, {tests!r})
from fame_accel.tools.measure import peak_bytes, reset_peak
from planned import attend, one_level, tokens_of

torch.set_num_threads(1)
cpu = torch.device("cpu")
for modulation in {modulations!r}:
    for place, shape in enumerate([(1, 40, 2, (16, 20), 2), *{shapes!r}]):  # the first call warms up
        heads, head_dim, frames, tokens, regions = shape
        setting = one_level(heads, head_dim, frames, tokens, regions, modulation=modulation)
        layout = tokens_of(setting)
        call = attend(setting, {backend!r}, layout)
        base = reset_peak(cpu)
        call()
        if place:
            print(peak_bytes(cpu) - base)
"""
RESIDENT_SHAPES = [(4, 64, 4, (24, 24), 3), (1, 64, 4, (36, 36), 2)]  # N = 2304 and 5184


@pytest.mark.parametrize(
    "backend, modulations", [("reference", ("fame", "region-mask")), ("sdpa", ("fame", "fame-strength", "region-mask"))]
)
@pytest.mark.slow
def test_peaks_are_those_of_real_calls(backend: str, modulations: tuple[str, ...]):
    """Resident memory of a process: also what torch's own allocator is not asked for."""
    if reset_peak(torch.device("cpu")) is None:
        pytest.skip("the system does not tell peaks of resident memory")
    code = RESIDENT.format(tests=str(ROOT / "tests"), shapes=RESIDENT_SHAPES, modulations=modulations, backend=backend)
    # freed memory goes back at once, so that what is resident is what is held
    environment = os.environ | {"PYTHONPATH": str(ROOT), "MALLOC_MMAP_THRESHOLD_": str(2**17)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    measured = [int(line) for line in done.stdout.splitlines() if line.isdecimal()]
    cases = [(modulation, shape) for modulation in modulations for shape in RESIDENT_SHAPES]
    for (modulation, shape), peak in zip(cases, measured, strict=True):
        heads, head_dim, frames, tokens, regions = shape
        setting = one_level(heads, head_dim, frames, tokens, regions, modulation=modulation)
        assert peak_bytes(setting, backend) == pytest.approx(peak, rel=0.15)


# ---- frames that fit


@on_modulations
@pytest.mark.slow
@pytest.mark.parametrize("backend", ["reference", "triton", "sdpa"])
def test_most_frames_is_the_edge(modulation: str, backend: str):
    setting = Setting(SD15, EqualRegions(2), modulation=modulation, backend=backend)
    memory = 20 * 2**30
    frames, stopped = most_frames(setting, memory, backend)
    assert frames >= 1 and stopped is None
    assert peak_bytes(replace(setting, frames=frames), backend) <= memory
    assert peak_bytes(replace(setting, frames=frames + 1), backend) > memory


def test_no_frame_fits():
    assert most_frames(Setting(SD15, EqualRegions(2)), 2**20, "triton") == (0, None)


def test_the_plan_stops_more_frames():
    setting = Setting(SD15, EqualRegions(2))
    frames, stopped = most_frames(setting, 2**50, "triton")
    assert "a plan would look at more than" in stopped
    assert refuses(replace(setting, frames=frames)) is None
    with pytest.raises(ValueError, match=f"--frames {frames + 1}: a plan would look at more than"):
        plan_levels(replace(setting, frames=frames + 1))


def test_the_kernels_stop_more_frames():
    setting = Setting(SD15, EqualRegions(2), modulation="videograin")
    frames, stopped = most_frames(setting, 2**50, "triton")
    assert frames == (2**31 // 48 - 1) // 4096 and "the kernels take fewer than" in stopped


# ---- work and times


def test_sums_and_peaks():
    setting = Setting(SD15, EqualRegions(4), modulation="region-mask", guidance=True)
    levels = plan_levels(setting)
    first, whole = levels[0], total(levels)
    assert first.tokens == 16 * 64 * 64 and first.active == 0.25
    assert first.flop == 4 * 8 * 40 * first.tokens**2 * 5 // 4  # a quarter of the pairs, and the plain half
    assert first.moved_bytes == (6 + 4) * first.tokens * 8 * 40 * 2  # keys and values of the first are packed
    assert whole.layers == 16 and whole.flop == sum(level.layers * level.flop for level in levels)
    assert whole.eager_bytes == first.eager_bytes > whole.fused_bytes == first.fused_bytes
    alone = plan_levels(replace(setting, guidance=False))[0]
    assert alone.flop == 4 * 8 * 40 * first.tokens**2 // 4 and alone.eager_bytes < first.eager_bytes
    assert whole.milliseconds["H100"] == pytest.approx(sum(x.layers * x.milliseconds["H100"] for x in levels))


def test_no_time_where_nothing_was_counted():
    levels = plan_levels(Setting(SD15, EqualRegions(2), backend="sdpa"))
    assert set(total(levels).milliseconds.values()) == {None}
    levels = plan_levels(Setting(SD15, EqualRegions(2), dtype="float32"))
    assert set(total(levels).milliseconds.values()) == {None}
    odd = (AttentionLevel(1, 2, 72, 1), *SD15[1:])
    levels = plan_levels(Setting(odd, EqualRegions(2)))
    assert levels[0].milliseconds["H100"] is None and levels[1].milliseconds["H100"] > 0
    assert total(levels).milliseconds["H100"] is None


def test_the_table_of_cycles_is_the_models():
    pytest.importorskip("triton")
    from benchmarks.predict import planner_table

    assert predicted.FILE.read_text() == planner_table()


def test_times_are_the_predictions():
    """Those that the planner reads from its table are those of predictions.csv, made from the counts."""
    pytest.importorskip("triton")
    from benchmarks.predict import PREDICTIONS
    from benchmarks.shapes import SHAPES
    from fame_accel.bench.workload import operations

    with PREDICTIONS.open(newline="") as file:
        rows = {(*row.values(),)[:8]: float(row["predicted_ms"]) for row in csv.DictReader(file)}
    checked = 0
    for shape in SHAPES:
        if shape.text is not None or shape.motion:
            continue
        areas = MaskRegions(three_regions(shape.frames, shape.height)).areas(shape.frames, shape.height, shape.width)
        call = CallShape(shape.batch * shape.heads, shape.queries, shape.head_dim, torch.float16)
        sizes = (shape.frames, shape.height, shape.keys, shape.heads, shape.head_dim, shape.batch)
        for chip, operation in product(CHIPS, operations(shape)):
            modulation = operation.modulation(shape.frames, shape.frames)
            kind = ModulationKind() if modulation is None else ModulationKind.of(modulation, shape.frames)
            time = predicted.predicted_ms(chip, "float16", call, RunCounts.of(areas, kind))
            wanted = rows[(chip.name, operation.name, *map(str, sizes))]
            assert time == pytest.approx(wanted, rel=1e-3, abs=1e-4), (chip.name, shape.name, operation.name)
            checked += 1
    assert checked == sum(not operation.startswith("cross") for _, operation, *_ in rows)


# ---- the command


def run(capsys: pytest.CaptureFixture, *arguments: object) -> tuple[int, str, str]:
    status = main(["plan", *map(str, arguments)])
    printed = capsys.readouterr()
    return status, printed.out, printed.err


def test_the_table_is_printed(capsys: pytest.CaptureFixture):
    status, out, _ = run(capsys, "--memory", 24)
    assert status == 0
    assert "not measured on a GPU" in out and "2 of equal area, assumed" in out and "64x64" in out
    whole = total(plan_levels(Setting(SD15, EqualRegions(2))))
    [line] = [line for line in out.splitlines() if line.lstrip().startswith("all")]
    assert f"{whole.eager_bytes / 2**30:.0f} GiB" in line and f"{whole.milliseconds['H100']:.0f}" in line.split()
    frames = most_frames(Setting(SD15, EqualRegions(2)), 24 * 2**30, "triton")[0]
    assert f"fused (triton): at most {frames} frames fit 24 GiB" in out


def test_files_are_written(capsys: pytest.CaptureFixture, tmp_path: Path):
    image, getrgb = pytest.importorskip("PIL.Image"), pytest.importorskip("PIL.ImageColor").getrgb
    folder = tmp_path / "plans" / "one"
    status, out, _ = run(capsys, "--json", "--memory", 24, "--out", folder, "--modulation", "videograin", "--frames", 3)
    report = json.loads(out)
    assert status == 0 and report == json.loads((folder / "plan.json").read_text())
    assert report["modulation"] == "videograin" and report["frames_that_fit"]["reference"]["frames"] >= 1
    assert [row["level"] for row in report["rows"]] == ["64x64", "32x32", "16x16", "8x8", "all"]
    lines = (folder / "plan.csv").read_text().splitlines()
    assert lines[0].split(",") == list(report["rows"][0]) and len(lines) == 6
    picture = image.open(folder / "plan.png").convert("RGB")
    assert picture.size[0] > 800
    for line in ("#D55E00", "#0072B2"):  # eager, fused
        assert sum(count for count, color in picture.getcolors(2**20) if color == getrgb(line)) > 500


def test_regions_are_counted_in_masks(capsys: pytest.CaptureFixture, tmp_path: Path):
    image = pytest.importorskip("PIL.Image")
    numpy = pytest.importorskip("numpy")
    (tmp_path / "clip").mkdir()
    for frame in range(2):
        image.new("RGB", (64, 64)).save(tmp_path / "clip" / f"{frame}.png")
    masks = some_masks(2, 2, 64)
    numpy.savez(tmp_path / "masks.npz", a=masks[0].numpy(), b=masks[1].numpy())
    given = ("--video", tmp_path / "clip", "--masks", tmp_path / "masks.npz", "--frames", 2, "--size", 64)
    status, out, err = run(capsys, *given, "--modulation", "region-mask", "--json")
    assert status == 0, err
    report = json.loads(out)
    assert report["regions"].startswith("a, b, counted in")
    region = SpaceTimeLayout.from_masks(masks, rest=True).tokens(8, 8).region[0]
    share = ((region[:, None] & region[None, :]) != 0).double().mean().item()
    assert 0 < share < 1 and report["rows"][0]["active"] == pytest.approx(share)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("--frames", 0), "--frames must lie in 1 to"),
        (("--size", "500x512"), "--size must be positive multiples of 8, got 500x512"),
        (("--regions", 32), "--regions must lie in 1 to 31, got 32"),
        (("--model", "sd9"), "--model must be sd15, sd21, sdxl, wan-1.3b,"),
        (("--model", "{folder}"), "it has no unet/config.json and no transformer/config.json"),
        (("--gpus", 2), "--gpus needs a video transformer"),
        (("--width", 64), "--width needs --height"),
        (("--height", 64), "--height needs --width"),
        (("--size", 64, "--height", 64), "--size is in place of --width and --height"),
        (("--out", ""), "--out must not be empty"),
        (("--modulation", "hard"), "--modulation must be one of fame, fame-strength"),
        (("--guidance", "7.5"), "--guidance must be one of on, off, got '7.5'"),
        (("--dtype", "float64"), "--dtype must be one of float32, float16, bfloat16"),
        (("--backend", "reference"), "--backend must be one of triton, sdpa"),
        (("--memory", 0), "--memory must lie in 0.001 to"),
        (("--memory", "nan"), "--memory must lie in 0.001 to"),
        (("--masks", "x"), "--masks needs --video"),
        (("--auto-person-mask",), "--auto-person-mask needs --video"),
        (("--stride", 2), "--stride is for the frames of --video"),
        (("--video", "x"), "--video needs --masks or --auto-person-mask"),
        (("--video", "x", "--regions", 2, "--auto-person-mask"), "not both"),
        (("--video", "x", "--masks", "y", "--auto-person-mask"), "either --masks or --auto-person-mask"),
        (("--video", "x", "--auto-person-mask"), "x"),
        (("--frames", 5000), "--frames 5000: a plan would look at more than"),
        (("--out", __file__), "must be a folder"),
    ],
)
def test_mistakes_end_in_one_line(capsys: pytest.CaptureFixture, tmp_path: Path, arguments: tuple, message: str):
    status, out, err = run(capsys, *(str(given).format(folder=tmp_path) for given in arguments))
    assert status == 2 and out == "" and err.count("\n") == 1 and err.startswith("fame-accel: ")
    assert message in err


@pytest.mark.slow
def test_the_table_needs_torch_alone():
    hidden = ("diffusers", "transformers", "matplotlib", "PIL", "numpy", "av", "cv2", "triton")
    code = f"""
import sys
for name in {hidden!r}: sys.modules[name] = None
from fame_accel.cli import main
sys.exit(main(["plan", "--frames", "2"]))
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0 and "64x64" in done.stdout, done.stderr


def test_chip_names_are_the_tables():
    assert predicted.chips() == ("H100", "A100")
    assert set(plan_levels(Setting(SD15, EqualRegions(2)))[0].milliseconds) == set(predicted.chips())


@pytest.mark.parametrize("shape", GPU_SELF)
def test_peaks_are_those_measured_on_a_gpu(shape: str):
    """The committed rows of an H100, as its allocator saw them."""
    pytest.importorskip("triton")
    from benchmarks.shapes import BY_NAME
    from fame_accel.kernels.launch_table import choose_launch, planned_kernel

    names = {"region_mask_decay": "region-mask", "fame": "fame", "videograin": "videograin"}
    names |= {"fame_strength": "fame-strength"}
    one, checked = BY_NAME[shape], 0
    areas = MaskRegions(three_regions(one.frames, one.height)).areas(one.frames, one.height, one.width)
    for measured, name in names.items():
        row = newest(shape, measured, "ours_triton", device="H100").get("ours_triton")
        if row is None:
            continue
        runs = RunCounts.of(areas, ModulationKind.of(make_modulation(name, one.frames), one.frames))
        kernel = planned_kernel(runs.kind.modulated, runs.kind.one_pass)
        launch = choose_launch(kernel, "sm90", one.head_dim, 2)
        counted = CallShape(one.heads * one.batch, one.queries, one.head_dim, torch.float16)
        result = triton_bytes(counted, runs, launch.block_q, launch.block_k) / 2**20
        assert result == pytest.approx(float(row["peak_mib"]), rel=0.01)
        checked += 1
    assert checked >= 2

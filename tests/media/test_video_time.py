"""Which frames of a video are read, and how fast they play."""

import pytest
import torch
from PIL import Image
from video_files import encode, numbers, shades

from fame_accel.media.video import read_video


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """20 frames at 10 a second."""
    return encode(tmp_path_factory.mktemp("time") / "a.mp4", shades(20))


@pytest.fixture(scope="module")
def webm(tmp_path_factory):
    """A browser's recording: time stamps in milliseconds, and a header that says 1000 frames per second."""
    times = [round(index * 1000 / 30) for index in range(12)]
    path = tmp_path_factory.mktemp("time") / "a.webm"
    return encode(path, shades(12), times, rate=1000, codec="libvpx")


def test_the_rate_of_a_browsers_recording_is_that_of_its_time_stamps(webm):
    for frames, stride in ((12, 1), (4, 3)):
        video = read_video(webm, frames, stride)
        assert video.fps == pytest.approx(30 / stride, rel=0.01)
        assert numbers(video.frames) == list(range(0, 12, stride))


def test_a_variable_rate_is_the_mean_of_the_frames_that_are_taken(tmp_path):
    file = encode(tmp_path / "a.mkv", shades(6), [0, 20, 60, 80, 120, 520])
    video = read_video(file, 5)
    assert video.fps == pytest.approx(4 / 0.120)
    assert "variable frame rate: 20 to 40 ms between frames, written as 33.33 fps" in video.lines
    assert read_video(file, 3, 2).fps == pytest.approx(2 / 0.120)
    assert read_video(file).fps == pytest.approx(5 / 0.520)


def test_a_stated_rate_is_kept_exactly(clip):
    for frames in (1, 2, 20):
        assert read_video(clip, frames).fps == 10
    assert not any("variable" in line for line in read_video(clip).lines)


def test_a_raw_stream_asks_for_its_rate(tmp_path):
    file = encode(tmp_path / "a.h264", shades(4))
    for stride in (1, "auto"):
        with pytest.raises(ValueError, match=r"a\.h264 has no time stamps: give its frame rate with fps \(--fps\)"):
            read_video(file, 2, stride)
    video = read_video(file, 2, fps=24, start=1 / 24)
    assert video.fps == 24 and numbers(video.frames) == [1, 2]


@pytest.mark.parametrize(
    ("start", "first"), [(0, 0), (0.5, 5), (0.51, 6), (0.4999, 5), (1.8, 18)]
)  # the first frame at or after it
def test_start_is_in_seconds(clip, start, first):
    video = read_video(clip, 2, start=start)
    assert numbers(video.frames) == [first, first + 1] and video.first == first
    assert video.lines[0] == f"2 of 20 frames: {first / 10:.2f} to {(first + 2) / 10:.2f} s"


def test_start_of_a_folder_counts_its_frame_rate(tmp_path):
    for index, picture in enumerate(shades(12)):
        Image.fromarray(picture).save(tmp_path / f"{index}.png")
    video = read_video(tmp_path, 2, 2, start=0.5)
    assert numbers(video.frames) == [4, 6] and video.lines[0] == "2 of 12 frames, stride 2: 0.50 to 1.00 s"
    assert numbers(read_video(tmp_path, 2, fps=4, start=0.5).frames) == [2, 3]


def test_start_counts_from_the_first_frame(tmp_path):
    file = encode(tmp_path / "a.mkv", shades(4), [5000, 5100, 5200, 5300])
    assert numbers(read_video(file, 2, start=0.2).frames) == [2, 3]


@pytest.mark.parametrize("start", [1.9, 5])
def test_a_start_without_enough_frames_after_it(clip, start):
    left = 1 if start == 1.9 else 0
    with pytest.raises(ValueError, match=f"has 20 frames, {left} from frame .* on: 2 were asked for"):
        read_video(clip, 2, start=start)


def test_auto_stride_plays_about_8_frames_a_second(tmp_path, webm, clip):
    assert read_video(webm, 2, "auto").stride == 4
    assert read_video(clip, 2, "auto").stride == 1
    assert read_video(clip, 2, "auto", fps=25).stride == 3
    assert read_video(webm, 3, "auto").lines[0].startswith("3 frames, stride 4: 0.00 to 0.40 s")
    assert numbers(read_video(webm, 3, "auto").frames) == [0, 4, 8]


@pytest.mark.parametrize("name", ["stride", "start", "fit"])
def test_wrong_arguments_are_named(clip, name):
    wrong = {"stride": "often", "start": -1.0, "fit": "squeeze"}[name]
    with pytest.raises(ValueError, match=f"^{name} must be"):
        read_video(clip, **{name: wrong})


def test_reading_stops_after_the_frames_that_are_needed(tmp_path, monkeypatch):
    from fame_accel.media import video_file as module

    decoded = []
    decode = module.decode
    monkeypatch.setattr(module, "decode", lambda *given: (decoded.append(1) or frame for frame in decode(*given)))
    file = encode(tmp_path / "a.mp4", shades(20))
    assert len(read_video(file, 3, 2, start=0.2).frames) == 3 and len(decoded) == 7
    decoded.clear()
    assert len(read_video(file, most=4).frames) == 4 and len(decoded) == 4
    assert torch.equal(read_video(file, most=40).frames, read_video(file).frames)
    with pytest.raises(ValueError, match="has 20 frames: 30 were asked for"):
        read_video(file, 30, most=40)

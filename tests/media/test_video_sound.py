"""The sound of a video: copied where it stays in time, left out aloud otherwise."""

import av
import pytest
import torch
from video_files import encode, shades

from fame_accel.media.video import read_video
from fame_accel.media.writing import write_video

LEFT_OUT = "sound: left out, as the given frame rate is not that of the file"


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """2 seconds: 20 frames and a track of AAC."""
    return encode(tmp_path_factory.mktemp("sound") / "a.mp4", shades(20), sound="aac")


def packets(path):
    """The sound of a file: payloads, and the times of the first and the last packet in seconds."""
    with av.open(str(path)) as container:
        found = [packet for packet in container.demux(audio=0) if packet.size]
        return [bytes(packet) for packet in found], *(float(found[i].pts * found[i].time_base) for i in (0, -1))


@pytest.mark.parametrize(("frames", "stride", "start"), [(20, 1, 0), (5, 2, 0.5), (3, 1, 1.0)])
def test_the_sound_of_the_span_is_copied(tmp_path, clip, frames, stride, start):
    video = read_video(clip, frames, stride, start=start)
    assert "sound: copied" in video.lines
    assert set(video.lines) - set(video.picture_lines) == {"sound: copied"}
    write_video(tmp_path / "b.mp4", video.frames, video.fps, sound=video.sound)
    whole, copied = packets(clip), packets(tmp_path / "b.mp4")
    step = 1024 / 48000
    seconds = frames * stride / 10
    assert -step <= copied[1] <= step and seconds - 2 * step <= copied[2] <= seconds
    position = whole[0].index(copied[0][0])
    assert copied[0] == whole[0][position : position + len(copied[0])]
    assert read_video(tmp_path / "b.mp4").fps == pytest.approx(10 / stride)


def test_the_same_sound_gives_the_same_bytes(tmp_path, clip):
    video = read_video(clip, 4)
    for name in "ab":
        write_video(tmp_path / f"{name}.mp4", video.frames, video.fps, sound=video.sound)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()
    write_video(tmp_path / "b.mp4", video.frames, video.fps)
    assert len((tmp_path / "a.mp4").read_bytes()) > len((tmp_path / "b.mp4").read_bytes())


def test_sound_is_left_out_aloud(tmp_path, clip):
    given = read_video(clip, 4, fps=25)
    assert given.sound is None and LEFT_OUT in given.lines
    assert read_video(clip, 4, fps=10).sound is not None
    raw = read_video(encode(tmp_path / "a.mov", shades(5), sound="pcm_s16le"))
    assert raw.sound is None and any("MP4 file takes no pcm_s16le" in line for line in raw.lines)
    silent = read_video(encode(tmp_path / "b.mp4", shades(2)))
    assert silent.sound is None and not any("sound" in line for line in silent.lines)


def test_the_sound_of_a_stride_is_that_of_its_span(clip):
    """A stride keeps the timing, as the frames play more slowly."""
    video = read_video(clip, 4, 4)
    assert (video.sound.start, video.sound.end) == pytest.approx((0, 1.6)) and video.fps == 2.5
    assert torch.equal(video.frames, read_video(clip).frames[:16:4])

"""Video files that nobody vouches for: no other file is opened, and damage does not pass for pictures."""

import os

import av
import numpy as np
import pytest
from video_files import encode, numbers, shades

from fame_accel.media import decoding
from fame_accel.media.clip import load_clip
from fame_accel.media.video import read_video


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """24 frames of a real clip."""
    return encode(tmp_path_factory.mktemp("real") / "a.mp4", [frame.numpy() for frame in load_clip(24, 128)])


@pytest.mark.parametrize("name", ["a.m3u8", "a.mp4", "a.ffconcat", "a.mpd", "a.sdp"])
def test_a_script_opens_no_other_file(tmp_path, name):
    secret = encode(tmp_path / "secret.ts", shades(4), codec="mpeg2video")
    text = {
        "a.m3u8": f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{secret}\n#EXT-X-ENDLIST\n",
        "a.mpd": f'<?xml version="1.0"?><MPD><Period><BaseURL>{secret}</BaseURL></Period></MPD>',
        "a.sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 9 RTP/AVP 96\n",
    }.get(name, f"ffconcat version 1.0\nfile {secret.name}\n")
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=f"{name} cannot be read as a video"):
        read_video(tmp_path / name)


@pytest.mark.parametrize("name", ["a:b.mp4", "http:x.mp4", "concat:a.mp4|b.mp4", "pipe:0.mp4", "-i.mp4", "ä %d #?.mp4"])
def test_any_name_is_a_name(tmp_path, monkeypatch, name):
    encode(tmp_path / name, shades(2))
    monkeypatch.chdir(tmp_path)
    assert numbers(read_video(name).frames) == [0, 1]


@pytest.mark.parametrize("share", [0.02, 0.9])
def test_overwritten_bytes_are_told(tmp_path, real, share):
    data = bytearray(real.read_bytes())
    begin = round(share * len(data))
    data[begin : begin + 400] = np.random.default_rng(0).bytes(400)
    (tmp_path / "x.mp4").write_bytes(data)
    with pytest.raises(ValueError, match=r"x\.mp4 cannot be read as a video.*ffmpeg -i"):
        read_video(tmp_path / "x.mp4")


def test_damage_behind_the_frames_that_are_needed_does_not_matter(tmp_path, real):
    data = bytearray(real.read_bytes())
    end = data.index(b"moov")  # behind the frames
    data[end - 1500 : end - 500] = bytes(1000)
    (tmp_path / "x.mp4").write_bytes(data)
    with pytest.raises(ValueError, match="ffmpeg -i"):
        read_video(tmp_path / "x.mp4")
    assert len(read_video(tmp_path / "x.mp4", 4).frames) == 4


def test_a_frame_that_is_marked_as_damaged_is_refused(tmp_path):
    class Frame:
        is_corrupt = True

    class Stream:
        class codec_context:
            width = height = 8

    class Container:
        @staticmethod
        def decode(stream):
            return iter([Frame()])

    with pytest.raises(ValueError, match="frame 0 of .* is damaged"):
        next(decoding.decode(Container(), Stream(), tmp_path))


def test_sizes_are_checked_before_pixels(tmp_path, monkeypatch):
    file = encode(tmp_path / "a.mp4", shades(2))
    monkeypatch.setattr(decoding, "MAX_PIXELS", 48 * 32 - 1)
    with pytest.raises(ValueError, match="are 48x32 pixels: at most 1535 pixels are read"):
        read_video(file)


def test_a_stream_that_changes_size_is_refused(tmp_path):
    parts = [encode(tmp_path / f"{side}.h264", [np.zeros((side, 32, 3), np.uint8)] * 2) for side in (32, 64)]
    (tmp_path / "a.h264").write_bytes(b"".join(part.read_bytes() for part in parts))
    with pytest.raises(ValueError, match="differ in size: frame 2 is 32x64 pixels, the first one 32x32"):
        read_video(tmp_path / "a.h264", fps=10, size=(32, 32))


def test_sound_alone_is_no_video(tmp_path):
    sound = encode(tmp_path / "a.mp4", shades(2), sound="aac")
    with av.open(str(sound)) as source, av.open(str(tmp_path / "b.mka"), "w", format="matroska") as target:
        stream = target.add_stream_from_template(source.streams.audio[0])
        for packet in source.demux(audio=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    with pytest.raises(ValueError, match="b.mka has no video stream"):
        read_video(tmp_path / "b.mka")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
def test_a_pipe_is_no_video(tmp_path):
    os.mkfifo(tmp_path / "pipe.mp4")
    with pytest.raises(ValueError, match=r"pipe\.mp4 is neither a file nor a folder"):
        read_video(tmp_path / "pipe.mp4")

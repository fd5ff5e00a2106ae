"""What `fame-accel edit` takes of a video, and what it tells of it. The pipeline is a stand-in."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from edit_inputs import flags
from recording import Recorder
from video_files import encode, shades

from fame_accel.cli import main
from fame_accel.edit import prepare
from fame_accel.media.video import read_video


@pytest.fixture
def edit(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Edits a video of 48x32 pixels; returns the exit status and what was printed, on stdout or else stderr."""
    Recorder(monkeypatch)

    def run(video: Path, *more: str, **changed: Any) -> tuple[int, list[str]]:
        masks = np.zeros((32, 48), bool)
        masks[:, 12:36] = True
        np.savez(tmp_path / "masks.npz", man=masks, car=~masks)
        small = dict(video=video, masks=tmp_path / "masks.npz", stride=1, size=None) | changed
        status = main(["edit", *flags(home, tmp_path / "out.mp4", **small), *more])
        printed = capsys.readouterr()
        return status, (printed.err if status else printed.out).splitlines()

    return run


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 frames of 48x32 pixels at 10 a second, with sound."""
    return encode(tmp_path_factory.mktemp("reading") / "a.mp4", shades(20), sound="aac")


def test_the_default_keeps_the_aspect_ratio(edit, clip, tmp_path):
    status, printed = edit(clip)
    assert status == 0 and printed[:3] == [
        "2 of 20 frames: 0.00 to 0.20 s",
        "sound: copied",
        "48x32 at 10 fps, resized to 624x416 (width x height)",
    ]
    record = json.loads((tmp_path / "out_run.json").read_text())
    assert record["options"]["size"] is None and record["inputs"]["size"] == [416, 624]
    assert read_video(tmp_path / "out.mp4").size == (416, 624)


def test_one_side_keeps_the_aspect_ratio_and_replaces_a_recorded_size(edit, clip, tmp_path):
    assert edit(clip, size="96x64")[0] == 0
    record = json.loads((tmp_path / "out_run.json").read_text())
    assert record["options"]["size"] == [64, 96]
    assert main(["edit", "--config", str(tmp_path / "out_run.json"), "--width", "48"]) == 0
    record = json.loads((tmp_path / "out_run.json").read_text())
    assert record["inputs"]["size"] == [32, 48] and record["options"]["size"] is None
    assert main(["edit", "--config", str(tmp_path / "out_run.json"), "--size", "64"]) == 0
    record = json.loads((tmp_path / "out_run.json").read_text())
    assert record["inputs"]["size"] == [64, 64] and record["options"]["width"] is None


def test_padding_is_edited_and_comes_off(edit, clip, tmp_path):
    status, printed = edit(clip, size=96, fit="pad")
    assert status == 0 and "48x32 at 10 fps, resized to 96x64, padded to 96x96 (width x height)" in printed
    written = read_video(tmp_path / "out.mp4")
    assert written.size == (64, 96)
    source = read_video(clip, 2, size=(64, 96), fit="stretch").frames
    assert (written.frames.int() - source.int()).abs().float().mean() < 4
    assert main(["evaluate", str(clip), str(tmp_path / "out.mp4"), "--frames", "2", "--no-gender"]) == 0


def test_sound_goes_with_both_videos(edit, clip, tmp_path):
    assert edit(clip, "--start", "1", size=64, stride=2)[0] == 0
    for name in ("out.mp4", "out_side_by_side.mp4"):
        with av.open(str(tmp_path / name)) as container:
            last = max(float(packet.pts * packet.time_base) for packet in container.demux(audio=0) if packet.size)
        assert 0.3 < last < 0.4  # 2 frames at 5 a second


def test_a_raw_stream_asks_for_fps(edit, tmp_path):
    raw = encode(tmp_path / "a.h264", shades(4))
    status, printed = edit(raw, size=64)
    assert (
        status == 2
        and len(printed) == 1
        and printed[0].endswith("has no time stamps: give its frame rate with fps (--fps)")
    )
    status, printed = edit(raw, size=64, fps=5)
    assert status == 0 and printed[0] == "2 frames: 0.00 to 0.40 s"


def test_auto_stride(edit, tmp_path):
    fast = encode(tmp_path / "a.mp4", shades(20), rate=24)
    status, printed = edit(fast, size=64, stride="auto")
    assert status == 0 and printed[0] == "2 of 20 frames, stride 3: 0.00 to 0.25 s"
    record = json.loads((tmp_path / "out_run.json").read_text())
    assert record["options"]["stride"] == "auto"


def test_a_control_is_taken_frame_by_frame_from_the_same_index(edit, clip, home, tmp_path, monkeypatch):
    seen = []
    read = prepare.read_inputs
    monkeypatch.setattr(prepare, "read_inputs", lambda *given: seen.append(read(*given)) or seen[0])
    control = encode(tmp_path / "control.mp4", shades(20), rate=25)
    options = dict(controlnet=home / "controlnet", control=control, start=0.5, size=64, stride=3)
    assert edit(clip, **options)[0] == 0
    assert (seen[0].control.int() - seen[0].video.frames.int()).abs().max() <= 2 and seen[0].video.first == 5


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (dict(size=64, width=64), "give the size by either --size or --width and --height"),
        (dict(width=60), "--width must be a positive multiple of 8, got 60"),
        (dict(height=0), "--height must be a positive multiple of 8, got 0"),
        (dict(start=-1), "--start must be at least 0 and finite, got -1"),
        (dict(start="soon"), "--start must be a number, got 'soon'"),
        (dict(start=9), "has 20 frames, 0 from frame 20 on: 2 were asked for"),
        (dict(stride="often"), "--stride must be a whole number or auto, got 'often'"),
        (dict(fit="squeeze"), "--fit must be one of crop, pad, stretch, got 'squeeze'"),
        (dict(size="16x64"), "'car' .* is empty after the crop and resize to 16x64 .*--fit pad"),
    ],
)
def test_mistakes(edit, clip, changed, message):
    status, printed = edit(clip, **changed)
    assert status == 2 and len(printed) == 1 and re.search(message, printed[0]), printed


@pytest.mark.parametrize("value", [1.5, True, None])
def test_a_recorded_stride_is_checked(tmp_path, capsys, value):
    given = {"model": "m", "video": "v", "prompt": "p", "out": "o.mp4", "stride": value}
    (tmp_path / "run.json").write_text(json.dumps({"options": given}))
    assert main(["edit", "--config", str(tmp_path / "run.json")]) == 2
    assert "--stride must be" in capsys.readouterr().err


def test_plan_counts_the_regions_of_the_same_frames(clip, tmp_path, capsys):
    np.savez(tmp_path / "m.npz", man=np.arange(48) < 24 + np.zeros((20, 32, 1), int))
    common = ["plan", "--video", str(clip), "--masks", str(tmp_path / "m.npz"), "--frames", "2"]
    assert main([*common, "--start", "0.5"]) == 0
    printed = capsys.readouterr()
    assert "2 frames of 624x416 (width x height)" in printed.out
    assert printed.err.startswith("2 of 20 frames: 0.50 to 0.70 s\n")
    assert main(["plan", "--start", "0.5"]) == 2
    assert "--start is for the frames of --video, which is not given" in capsys.readouterr().err

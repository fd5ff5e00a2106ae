"""What an edit writes outlives bad names, full disks and interrupts, and goes on after them."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import shutil
import struct
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from certificates import make_certificate
from edit_inputs import flags
from PIL import Image

from fame_accel.cli import main
from fame_accel.edit import run
from fame_accel.edit.latents import differences
from fame_accel.media.outputs import exclusive
from fame_accel.media.video import read_video


@pytest.fixture(scope="module")
def whole(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An edit with fresh noise, of 3 steps, that nothing interrupted."""
    out = tmp_path_factory.mktemp("whole") / "a.mp4"
    assert main(["edit", *flags(home, out, steps=3, ddim_eta=0.5)]) == 0
    return out


def interrupt(monkeypatch: pytest.MonkeyPatch, stage: str, steps: int) -> None:
    """Ctrl-C once that many steps of inversion ("after_inverting") or editing ("after_editing") are saved."""
    from fame_accel.edit.steps import SavedSteps

    saves = getattr(SavedSteps, stage)

    def stop(self: SavedSteps, pipeline: Any, step: int, *rest: Any) -> Any:
        result = saves(self, pipeline, step, *rest)
        if step + 1 == steps:
            raise KeyboardInterrupt
        return result

    monkeypatch.setattr(SavedSteps, stage, stop)


def one_line(capsys: Any) -> str:
    """The last line on stderr, which is the command's."""
    line = capsys.readouterr().err.replace("\r", "\n").splitlines()[-1]
    assert line.startswith("fame-accel: ")
    return line


@pytest.mark.parametrize("stage, steps", [("after_inverting", 1), ("after_inverting", 3), ("after_editing", 2)])
@pytest.mark.slow
def test_an_interrupted_edit_goes_on(home, whole, tmp_path, capsys, monkeypatch, stage, steps):
    given = flags(home, tmp_path / "a.mp4", steps=3, ddim_eta=0.5)
    with monkeypatch.context() as patch:
        interrupt(patch, stage, steps)
        assert main(["edit", *given]) == 130
    assert one_line(capsys) == f"fame-accel: interrupted: --resume goes on from {tmp_path}/a_progress.safetensors"
    assert main(["edit", *given, "--seed", "1", "--resume"]) == 2
    assert re.search("--resume: .* belongs to another edit: options.seed 0 then, 1 now", one_line(capsys))
    assert main(["edit", *given, "--resume"]) == 0
    inverted, edited = (steps, 0) if stage == "after_inverting" else (3, steps)
    told = f"starting after {inverted} of 3 steps of inversion, {edited} of editing"
    assert told in capsys.readouterr().out
    assert (tmp_path / "a.mp4").read_bytes() == whole.read_bytes()
    assert not (tmp_path / "a_progress.safetensors").exists()


@pytest.mark.slow
def test_what_is_left_of_an_edit_is_not_dropped_silently(home, whole, tmp_path, capsys, monkeypatch):
    given = flags(home, tmp_path / "a.mp4", steps=3, ddim_eta=0.5)
    with monkeypatch.context() as patch:
        interrupt(patch, "after_editing", 1)
        main(["edit", *given])
    capsys.readouterr()
    assert main(["edit", *given]) == 0
    printed = capsys.readouterr()
    assert "a_progress.safetensors is of an interrupted edit, which --resume would go on with" in printed.err
    assert main(["edit", *given, "--resume"]) == 0
    assert "there is no" in capsys.readouterr().out  # progress is gone with the end of the edit


@pytest.mark.slow
def test_inverted_latents_serve_other_edits(home, tmp_path, capsys, monkeypatch):
    saved = tmp_path / "clip.safetensors"
    first = flags(home, tmp_path / "a.mp4", latents=saved)
    other = dict(prompt="a male doctor in a car", region=["man=male doctor", "car=car"], seed=3)
    assert main(["edit", *first]) == 0 and saved.exists()
    assert main(["edit", *flags(home, tmp_path / "b.mp4", **other)]) == 0
    before = saved.read_bytes()
    with monkeypatch.context() as patch:  # no step of inversion is made
        interrupt(patch, "after_inverting", 1)
        assert main(["edit", *flags(home, tmp_path / "c.mp4", latents=saved, **other)]) == 0
    assert (tmp_path / "c.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes() and saved.read_bytes() == before
    capsys.readouterr()
    for changed, difference in (
        (dict(steps=3), "steps 2 then, 3 now"),
        (dict(source_prompt="a dog"), 'source_prompt "a man in a car" then, "a dog" now'),
        (dict(stride=2), "frames_sha256 "),
    ):
        assert main(["edit", *flags(home, tmp_path / "d.mp4", latents=saved, **changed)]) == 2
        assert f"{saved} belongs to another edit: {difference}" in one_line(capsys)
    saved.write_bytes(b"no latents")
    assert main(["edit", *flags(home, tmp_path / "d.mp4", latents=saved)]) == 2
    assert f"--latents {saved} holds no latents of an edit" in one_line(capsys)


def test_differences_are_named():
    before = {"a": {"x": 1, "y": [1]}, "b": None, "digest": "0" * 64}
    after = {"a": {"x": 2, "y": [1]}, "b": "z", "digest": "1" * 64, "new": 0}
    found = differences(before, after)
    assert found[:2] == ["a.x 1 then, 2 now", 'b none then, "z" now'] and found[3] == "new none then, 0 now"
    assert found[2].startswith("digest ") and len(found) == 4
    assert differences(before, before) == []


# ---- names


@pytest.mark.slow
def test_names_that_ffmpeg_or_the_file_system_read_otherwise(home, tmp_path, capsys):
    """FFmpeg would take "take" for a protocol; the side-by-side video has the longest name."""
    folder = tmp_path / "http:a%d"
    folder.mkdir()
    longest = "n" * (255 - len("_progress.safetensors")) + ".mp4"
    for name in ("take:2.mp4", "-i.mp4", "pipe:1.mp4", "%d.mp4", longest):
        assert main(["edit", *flags(home, folder / name, steps=1)]) == 0
        assert len(list(folder.iterdir())) == 4
        shutil.rmtree(folder)
        folder.mkdir()
    capsys.readouterr()
    assert main(["edit", *flags(home, folder / f"n{longest}")]) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1 and "File name too long (256 bytes)" in line and not list(folder.iterdir())


def test_outputs_that_are_links_or_folders_are_refused(home, tmp_path, capsys):
    (tmp_path / "other.mp4").touch()
    (tmp_path / "a.mp4").symlink_to(tmp_path / "other.mp4")
    (tmp_path / "b_sheet.png").mkdir()
    os.mkfifo(tmp_path / "c_run.json")
    for name, message in (("a", "is a link or a device"), ("b", "is a folder"), ("c", "is a link or a device")):
        assert main(["edit", *flags(home, tmp_path / f"{name}.mp4")]) == 2
        assert message in one_line(capsys)
    assert (tmp_path / "other.mp4").read_bytes() == b""


def test_outputs_stay_out_of_inputs(home, tmp_path, capsys):
    assert main(["edit", *flags(home, home / "model/a.mp4")]) == 2
    assert "model, which is an input" in one_line(capsys)


def _hold(output: Path, held: Any, release: Any) -> None:
    with exclusive("--out", output):
        held.set()
        release.wait(60)


def test_two_commands_do_not_share_an_output(home, tmp_path, capsys):
    context = multiprocessing.get_context("fork")
    held, release = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(tmp_path / "a.mp4", held, release))
    other.start()
    held.wait(60)
    try:
        assert main(["edit", *flags(home, tmp_path / "a.mp4")]) == 2
        assert one_line(capsys) == f"fame-accel: --out {tmp_path}/a.mp4 is being written by another process"
    finally:
        release.set()
        other.join()
    assert not list(tmp_path.iterdir())  # the lock is gone too


# ---- failures at the end


@pytest.mark.slow
def test_finished_frames_outlive_a_failed_write(home, tmp_path, capsys, monkeypatch):
    assert main(["edit", *flags(home, tmp_path / "a.mp4")]) == 0
    before = {file: file.read_bytes() for file in tmp_path.iterdir()}

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(run, "contact_sheet", full)
        assert main(["edit", *flags(home, tmp_path / "a.mp4", seed=1, ddim_eta=1.0)]) == 2
    line = one_line(capsys)
    match = re.search(
        r"a.mp4 could not be written \(No space left on device\); the edited frames are kept in (\S+),", line
    )
    assert match
    kept = sorted(Path(match[1]).iterdir())
    assert len(kept) == 2 and Path(match[1]).parent == tmp_path
    assert {file: file.read_bytes() for file in tmp_path.iterdir() if file in before} == before  # the old edit, whole
    assert main(["edit", *flags(home, tmp_path / "a.mp4", seed=1, ddim_eta=1.0), "--resume"]) == 0
    with Image.open(kept[0]) as image:
        assert image.size == (64, 64)


def test_a_full_disk_is_seen_before_the_work(home, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(10**9, 10**9, 10**4))
    monkeypatch.setattr(run, "load_pipeline", lambda *_: pytest.fail("the weights were loaded"))
    assert main(["edit", *flags(home, tmp_path / "a.mp4")]) == 2
    assert "has 0.0 MB free, and the files may take 0.0 MB: free some space" in one_line(capsys)


# ---- the record


@pytest.mark.slow
def test_a_folder_that_is_moved_replays(home, tmp_path, capsys):
    """Where clip and record move together, and also where only one of them does."""
    project = tmp_path / "project"
    (project / "out").mkdir(parents=True)
    for name in ("clip.mp4", "masks.npz"):
        shutil.copy(home / name, project)
    given = dict(video=project / "clip.mp4", masks=project / "masks.npz")
    assert main(["edit", *flags(home, project / "out/a.mp4", **given)]) == 0
    first = (project / "out/a.mp4").read_bytes()
    options = json.loads((project / "out/a_run.json").read_text())["options"]
    assert (options["video"], options["masks"], options["out"]) == ("../clip.mp4", "../masks.npz", "a.mp4")

    moved = (tmp_path / "elsewhere/deeper").resolve()
    moved.mkdir(parents=True)
    project.rename(moved / "project")
    capsys.readouterr()
    assert main(["edit", "--config", str(moved / "project/out/a_run.json")]) == 0
    assert "the edited frames are those of the recorded run" in capsys.readouterr().out
    assert (moved / "project/out/a.mp4").read_bytes() == first


@pytest.mark.slow
def test_a_replay_names_what_differs(home, tmp_path, capsys, monkeypatch):
    assert main(["edit", *flags(home, tmp_path / "a.mp4")]) == 0
    file = tmp_path / "a_run.json"
    record = json.loads(file.read_text())
    record["versions"]["diffusers"], record["threads"], record["scheduler"]["beta_end"] = "0.1", 99, 0.5
    file.write_text(json.dumps(record))
    capsys.readouterr()
    assert main(["edit", "--config", str(file), "--stride", "2"]) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("fame-accel: ")]
    said = [line.removeprefix("fame-accel: unlike the recorded run: ").split()[0] for line in lines]
    assert said == [
        "inputs.frames_sha256", "inputs.fps", "scheduler.beta_end", "versions.diffusers",
        "threads",
    ]  # fmt: skip


# ---- what the files say of themselves


def test_outputs_say_that_they_are_edited(home, tmp_path):
    """In the box and the chunk in which XMP is looked for; deterministically, and the video still plays."""
    kind = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
    assert main(["edit", *flags(home, tmp_path / "a.mp4")]) == 0
    for name in ("a.mp4", "a_side_by_side.mp4"):
        data, boxes, at = (tmp_path / name).read_bytes(), {}, 0
        while at < len(data):
            size, box = struct.unpack_from(">I4s", data, at)
            boxes[box] = data[at + 8 : at + size]
            at += size
        assert list(boxes) == [b"ftyp", b"moov", b"free", b"mdat", b"uuid"]
        identifier, packet = boxes[b"uuid"][:16], boxes[b"uuid"][16:]
        assert identifier.hex() == "be7acfcb97a942e89c71999491e3afac"
        assert digital_source_type(packet) == kind
        assert len(read_video(tmp_path / name).frames) == 2
    with Image.open(tmp_path / "a_sheet.png") as sheet:
        assert digital_source_type(sheet.info["XML:com.adobe.xmp"].encode()) == kind


@pytest.mark.slow
def test_outputs_are_signed_on_request(home, tmp_path, capsys, monkeypatch):
    """C2PA's own reader finds the signature valid, and invalid where a byte of the pictures is changed."""
    import c2pa

    chain, key = tmp_path / "chain.pem", tmp_path / "key.pem"
    make_certificate(chain, key)
    (tmp_path / "out").mkdir()
    given = flags(home, tmp_path / "out/a.mp4", sign_cert=chain, sign_key=key)
    assert main(["edit", *given]) == 0
    assert len(list((tmp_path / "out").iterdir())) == 4
    for name in ("a.mp4", "a_side_by_side.mp4", "a_sheet.png"):
        reader = c2pa.Reader(str(tmp_path / "out" / name))
        [manifest] = json.loads(reader.json())["manifests"].values()
        [actions] = [entry["data"]["actions"] for entry in manifest["assertions"] if "actions" in entry["label"]]
        assert reader.get_validation_state() == "Valid" and manifest["signature_info"]["issuer"] == "tests"
        assert actions[0]["digitalSourceType"].endswith("/compositeWithTrainedAlgorithmicMedia")
    data = bytearray((tmp_path / "out/a.mp4").read_bytes())
    data[data.index(b"mdat") + 40] ^= 1
    (tmp_path / "changed.mp4").write_bytes(data)
    assert c2pa.Reader(str(tmp_path / "changed.mp4")).get_validation_state() == "Invalid"
    assert len(read_video(tmp_path / "out/a.mp4").frames) == 2

    monkeypatch.setattr(run, "load_pipeline", lambda *_: pytest.fail("the weights were loaded"))
    (tmp_path / "other.pem").write_text("no key")
    make_certificate(tmp_path / "another.pem", tmp_path / "another_key.pem")
    for changed, message in (
        (dict(sign_key=tmp_path / "another_key.pem"), "--sign-cert .* and --sign-key .*another_key.pem "),
        (dict(sign_key=None), "--sign-cert, a certificate, and --sign-key, its private key, must be given together"),
        (dict(sign_cert=tmp_path / "nowhere.pem"), "--sign-cert .*nowhere.pem cannot be read: No such file"),
        (dict(sign_key=tmp_path / "other.pem"), "--sign-key .*other.pem must be a private key in PEM"),
        (dict(sign_cert=tmp_path / "other.pem"), "--sign-cert .*other.pem and --sign-key .* cannot sign: "),
    ):
        capsys.readouterr()
        assert (
            main(["edit", *flags(home, tmp_path / "b.mp4", **{**dict(sign_cert=chain, sign_key=key), **changed})]) == 2
        )
        assert re.search(message, one_line(capsys))


def digital_source_type(packet: bytes) -> str | None:
    [description] = ElementTree.fromstring(packet).iter("{http://www.w3.org/1999/02/22-rdf-syntax-ns#}Description")
    return description.get("{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}DigitalSourceType")

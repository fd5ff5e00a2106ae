"""Outputs: what is refused before the work, and that files appear together or not at all."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from fame_accel.cli import main
from fame_accel.media.outputs import check_output_file, check_output_folder, exclusive, write_together


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def test_files_appear_together(tmp_path):
    paths = [tmp_path / name for name in ("a.mp4", "b.png", "record.json")]
    with write_together(*paths) as temporaries:
        for temporary in temporaries:
            temporary.write_text("new")
        assert not set(paths) & set(tmp_path.iterdir()) and [file.suffix for file in temporaries] == [
            ".mp4",
            ".png",
            ".json",
        ]
    assert names(tmp_path) == ["a.mp4", "b.png", "record.json"]
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(paths[0].stat().st_mode) == 0o666 & ~umask


def test_a_failure_leaves_the_old_files(tmp_path):
    paths = [tmp_path / "a", tmp_path / "record"]
    for path in paths:
        path.write_text("old")
    with pytest.raises(OSError, match="full"), write_together(*paths) as temporaries:
        temporaries[0].write_text("new")
        raise OSError("full")
    assert names(tmp_path) == ["a", "record"] and {path.read_text() for path in paths} == {"old"}


def test_no_record_stands_beside_files_of_another_run(tmp_path, monkeypatch):
    """Where renaming fails half way, the old record is gone before the first file changes."""
    paths = [tmp_path / "a", tmp_path / "b", tmp_path / "record"]
    for path in paths:
        path.write_text("old")
    replace = Path.replace

    def fail(self: Path, target: Path) -> Path:
        if Path(target).name == "b":
            raise OSError("gone")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="gone"), write_together(*paths) as temporaries:
        for temporary in temporaries:
            temporary.write_text("new")
    assert names(tmp_path) == ["a", "b"] and paths[0].read_text() == "new"


def test_files_that_cannot_be_written(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "target")
    (tmp_path / "frames").mkdir()
    cases = {
        tmp_path: "is a folder: name a file in it",
        tmp_path / "nowhere/a": "there is no folder",
        tmp_path / "link": "is a link or a device",
        Path("/dev/null"): "is a link or a device",
        Path("/proc/a.json"): "cannot write to /proc",
        tmp_path / ("n" * 256): "File name too long",
        tmp_path / "\udcff": "must be a name in Unicode",
        tmp_path / "frames/a": "frames, which is an input",
    }
    for path, message in cases.items():
        with pytest.raises(ValueError, match=f"^--out.*{message}") as raised:
            check_output_file("--out", path, [None, tmp_path / "frames"])
        assert "\n" not in str(raised.value)
    assert check_output_file("--out", tmp_path / "a", [None, tmp_path / "b"]) == tmp_path / "a"
    assert names(tmp_path) == ["frames", "link"]  # the check leaves nothing


def test_folders_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "frames").mkdir()
    (tmp_path / "out/results.csv").mkdir(parents=True)
    for folder, message in (
        (tmp_path / "file", "must be a folder"),
        (tmp_path / "frames", "must be outside of"),
        (tmp_path / "frames/deeper", "must be outside of"),
        (Path("/proc/a"), "cannot write to /proc"),
    ):
        with pytest.raises(ValueError, match=f"^--out {folder}.*{message}"):
            check_output_folder("--out", folder, ["results.csv"], [tmp_path / "frames"])
    for check in (lambda: check_output_folder("--out", "", []), lambda: check_output_file("--out", "")):
        with pytest.raises(ValueError, match="--out must not be empty"):
            check()
    with pytest.raises(ValueError, match="would overwrite .*clips/a.mp4"):
        check_output_folder("--out", tmp_path, ["clips"], [tmp_path / "clips/a.mp4"])
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    check_output_folder("--out", tmp_path / "new/deeper", ["clips"], [tmp_path / "a"])  # reading it says what is wrong
    check_output_folder("--out", tmp_path / "new/deeper", ["clips"], [tmp_path / "frames"])
    assert not (tmp_path / "new").exists()


def test_a_lock_goes_with_its_block(tmp_path):
    for output in (tmp_path, tmp_path / "a.mp4"):
        with exclusive("--out", output):
            with pytest.raises(RuntimeError, match=f"--out {output} is being written by another process"):
                with exclusive("--out", output):
                    pass
        assert names(tmp_path) == []


@pytest.mark.parametrize("command", [["evaluate", "a", "b", "--no-gender"], ["tune", "--device", "cpu"]])
def test_commands_refuse_a_forbidden_folder_before_the_work(command, capsys):
    assert main([*command, "--out", "/proc/a.json"]) == 2
    assert (
        capsys.readouterr().err == "fame-accel: --out /proc/a.json: cannot write to /proc: No such file or directory\n"
    )

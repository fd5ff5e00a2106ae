"""The launch table: its own entries, what it gives for unknown chips, and the files that it loads."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from types import ModuleType

import pytest

from fame_accel.kernels import launch_table as built_in
from fame_accel.kernels.launch import Launch

ROW = dict(
    kernel="tiled", family="sm90", head_dim=64, element_size=2, block_q=64, block_k=32, num_warps=8, num_stages=2
)
ENTRIES = {
    f"{kernel}-{family}-{key[0]}-{key[1]}": (kernel, family, key, launch)
    for kernel, families in built_in._TABLE.items()
    for family, entries in families.items()
    for key, launch in entries.items()
}


def written(folder: Path, *rows: object) -> Path:
    path = folder / "launches.json"
    path.write_text(json.dumps(rows))
    return path


# Its own entries


@pytest.mark.parametrize("kernel, family, key, launch", ENTRIES.values(), ids=ENTRIES)
def test_entries(kernel: str, family: str, key: tuple[int, int], launch: Launch) -> None:
    tiles = (launch.block_q,) if kernel == "few_keys" else (launch.block_q, launch.block_k)
    assert all(size >= 16 and size & (size - 1) == 0 for size in tiles)
    assert launch.num_warps in (1, 2, 4, 8) and launch.num_stages >= 1
    assert launch.parts in (1, 8) and (launch.block_k == 0 or kernel != "few_keys")
    if family in ("rdna", "sm75", "interpreter"):
        assert launch.num_stages == 1
    row = dict(kernel=kernel, family=family, head_dim=key[0], element_size=key[1], **launch._asdict())
    assert built_in._problem(row) is None  # and so a file may hold it


@pytest.mark.parametrize("kernel", ["tiled", "streamed_keys"])
def test_every_call_has_an_entry(kernel: str, launch_table: ModuleType) -> None:
    for family in launch_table._TABLE["tiled"]:
        for element_size in (2, 4):
            for head_dim in (1, 40, 64, 80, 128, 160, 256):
                assert launch_table.choose_launch(kernel, family, head_dim, element_size) is not None
    assert not launch_table._unknown_logged


def test_the_closest_entry_of_a_pulled_kernel(launch_table: ModuleType, tmp_path: Path) -> None:
    """Its own before "tiled"'s of the same reach, but no wider one before a closer one."""
    tiled = launch_table.choose_launch("tiled", "sm80", 40, 2)
    assert launch_table.choose_launch("one_pass", "sm80", 40, 2) == tiled
    wide = ROW | dict(kernel="one_pass", family="sm80", head_dim=160, element_size=4, block_q=16)
    launch_table.load(written(tmp_path, wide))
    assert launch_table.choose_launch("one_pass", "sm80", 40, 2) == tiled
    assert launch_table.choose_launch("one_pass", "sm80", 160, 4) == Launch(16, 32, 8, 2)
    assert launch_table.choose_launch("two_pass", "sm80", 160, 4) != Launch(16, 32, 8, 2)
    launch_table.load(written(tmp_path, ROW | dict(kernel="one_pass", family="sm80")))
    assert launch_table.choose_launch("one_pass", "sm80", 64, 2) == Launch(64, 32, 8, 2)
    assert launch_table.choose_launch("tiled", "sm80", 64, 2) != Launch(64, 32, 8, 2)


def test_families_share_no_entries(launch_table: ModuleType) -> None:
    """A file for one chip must not change another's."""
    for families in built_in._TABLE.values():
        assert len({id(entries) for entries in families.values()}) == len(families)


def test_unknown_family(launch_table: ModuleType, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="fame_accel"):
        for head_dim in (64, 160):
            assert launch_table.choose_launch("few_keys", "sm130", head_dim, 2) is None
            for kernel in ("tiled", "streamed_keys"):
                assert launch_table.choose_launch(kernel, "sm130", head_dim, 2) == launch_table._SAFE
    [record] = caplog.records
    assert "sm130" in record.message and "32 x 32" in record.message


def test_unknown_family_with_some_entries(launch_table: ModuleType, tmp_path: Path) -> None:
    """What a file leaves out is still safe."""
    launch_table.load(written(tmp_path, ROW | dict(family="sm130")))
    assert launch_table.choose_launch("tiled", "sm130", 64, 2) == Launch(64, 32, 8, 2)
    assert launch_table.choose_launch("tiled", "sm130", 65, 2) == launch_table._SAFE
    assert launch_table.choose_launch("streamed_keys", "sm130", 64, 2) == launch_table._SAFE
    assert launch_table.choose_launch("few_keys", "sm130", 64, 2) is None


@pytest.mark.parametrize("family", ["sm90", "sm130"])
def test_override(family: str, launch_table: ModuleType) -> None:
    before = launch_table.choose_launch("tiled", family, 40, 2)
    with pytest.raises(KeyError), launch_table.override("tiled", family, 40, 2, Launch(16, 16, 2, 1)):
        assert launch_table.choose_launch("tiled", family, 40, 2) == Launch(16, 16, 2, 1)
        raise KeyError
    assert launch_table.choose_launch("tiled", family, 40, 2) == before
    assert launch_table._TABLE == built_in._TABLE


# Files


def test_load(launch_table: ModuleType, tmp_path: Path) -> None:
    few = ROW | dict(kernel="few_keys", block_k=0, num_warps=2, parts=1)
    path = written(tmp_path, ROW | dict(ms=1.5, device="a GPU", note=None), few)
    other = launch_table.choose_launch("tiled", "sm90", 65, 2)
    assert launch_table.load(path) == 2
    assert launch_table.choose_launch("tiled", "sm90", 64, 2) == Launch(64, 32, 8, 2)
    assert launch_table.choose_launch("few_keys", "sm90", 40, 2) == Launch(64, 0, 2, 2, 1)
    assert launch_table.choose_launch("tiled", "sm90", 65, 2) == other
    assert launch_table.choose_launch("tiled", "sm80", 64, 2) == built_in._TABLE["tiled"]["sm80"][64, 2]


BAD_ROWS = {
    "not an object": (3, "must have kernel"),
    "no kernel": ({key: ROW[key] for key in ROW if key != "kernel"}, r"must have kernel \(str\)"),
    "unknown kernel": (ROW | dict(kernel="fast"), "kernel must be one of tiled"),
    "family a number": (ROW | dict(family=90), r"must have family \(str\)"),
    "misspelt family": (ROW | dict(family="sm_90"), "family must be"),
    "empty family": (ROW | dict(family=""), "family must be"),
    "head_dim negative": (ROW | dict(head_dim=-64), "head_dim must lie in"),
    "head_dim 0": (ROW | dict(head_dim=0), "head_dim must lie in"),
    "head_dim 257": (ROW | dict(head_dim=257), "head_dim must lie in"),
    "head_dim text": (ROW | dict(head_dim="64"), r"must have head_dim \(int\)"),
    "head_dim bool": (ROW | dict(head_dim=True), r"must have head_dim \(int\)"),
    "element_size 3": (ROW | dict(element_size=3), "element_size must be 2 or 4"),
    "block_q 0": (ROW | dict(block_q=0), "block_q must be a power of two"),
    "block_q 48": (ROW | dict(block_q=48), "block_q must be a power of two"),
    "block_q 8": (ROW | dict(block_q=8), "block_q must be a power of two, from 16 to 256"),
    "block_k 0": (ROW | dict(block_k=0), "block_k must be a power of two"),
    "block_k negative": (ROW | dict(block_k=-32), "block_k must be a power of two"),
    "block_k of few_keys": (ROW | dict(kernel="few_keys"), "block_k must be 0 for few_keys"),
    "num_warps 3": (ROW | dict(num_warps=3), "num_warps must be a power of two"),
    "num_warps bool": (ROW | dict(num_warps=True), r"must have num_warps \(int\)"),
    "num_warps float": (ROW | dict(num_warps=4.0), r"must have num_warps \(int\)"),
    "parts 3": (ROW | dict(parts=3), "parts must be a power of two"),
    "parts 32": (ROW | dict(parts=32), "parts must be a power of two, at most 16"),
    "parts bool": (ROW | dict(parts=True), r"must have parts \(int\)"),
    "registers 300": (ROW | dict(registers=300), r"registers must lie in \[24, 255\]"),
    "registers on AMD": (ROW | dict(family="cdna", registers=128), "registers are limited on NVIDIA chips alone"),
    "num_stages 0": (ROW | dict(num_stages=0), "num_stages must be at least 1"),
    "num_stages absent": (ROW | dict(num_stages=None), r"must have num_stages \(int\)"),
}


@pytest.mark.parametrize("row, message", BAD_ROWS.values(), ids=BAD_ROWS)
def test_bad_rows(row: object, message: str, launch_table: ModuleType, tmp_path: Path) -> None:
    """The message names the file, what is wrong and the row; the good row before it is not taken either."""
    path = written(tmp_path, ROW, row)
    with pytest.raises(ValueError, match=re.escape(str(path)) + ".*" + message) as caught:
        launch_table.load(path)
    assert repr(row) in str(caught.value)
    assert launch_table._TABLE == built_in._TABLE


BAD_FILES = {
    "not JSON": (b"[{", "cannot be read.*line 1"),
    "empty": (b"", "cannot be read"),
    "not text": (b"\xff\xfe\x00", "cannot be read"),
    "an object": (b"{}", "must hold a list of launches, got dict"),
}


@pytest.mark.parametrize("content, message", BAD_FILES.values(), ids=BAD_FILES)
def test_bad_files(content: bytes, message: str, launch_table: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "launches.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(str(path)) + ".*" + message):
        launch_table.load(path)


@pytest.mark.parametrize("name", ["nowhere.json", "."], ids=["missing", "a folder"])
def test_files_that_cannot_be_opened(name: str, launch_table: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=re.escape(str(tmp_path / name)) + " cannot be read"):
        launch_table.load(tmp_path / name)


def test_variable(launch_table: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its file is read at the first launch, once."""
    path = written(tmp_path, ROW)
    monkeypatch.setenv("FAME_ACCEL_LAUNCHES", str(path))
    assert launch_table.choose_launch("tiled", "sm90", 64, 2) == Launch(64, 32, 8, 2)
    path.unlink()
    assert launch_table.choose_launch("tiled", "sm90", 64, 2) == Launch(64, 32, 8, 2)


def test_variable_with_a_bad_file(launch_table: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It stays an error: the second launch does not run on the built-in table as if nothing had been asked for."""
    monkeypatch.setenv("FAME_ACCEL_LAUNCHES", str(tmp_path / "nowhere.json"))
    for _ in range(2):
        with pytest.raises(ValueError, match="nowhere.json cannot be read"):
            launch_table.choose_launch("tiled", "sm90", 64, 2)

"""Images that are not what their names say, too large, or missing in their row."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

import pytest
from PIL import Image

from fame_accel.media.files import check_numbering, image_files, open_image
from fame_accel.media.masks import read_masks
from fame_accel.media.video import read_video


def frames(folder: Path, *names: str) -> Path:
    for name in names:
        Image.new("RGB", (8, 8)).save(folder / name)
    return folder


def test_a_format_by_another_name_is_not_opened(tmp_path):
    """Pillow would hand PostScript to Ghostscript, whatever the suffix."""
    (tmp_path / "0.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\nshowpage\n")
    Image.new("RGB", (8, 8)).save(tmp_path / "1.tiff")
    (tmp_path / "1.tiff").rename(tmp_path / "1.png")
    for name in ("0.png", "1.png"):
        with pytest.raises(ValueError, match=f"{name} cannot be read as an image"):
            open_image(tmp_path / name)


def test_sizes_are_checked_before_pixels(tmp_path):
    header = struct.pack(">IIBBBBB", 9000, 9000, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    png = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", len(header)) + chunk + struct.pack(">I", zlib.crc32(chunk))
    data = b"IDAT" + zlib.compress(b"")
    (tmp_path / "0.png").write_bytes(
        png + struct.pack(">I", len(data) - 4) + data + struct.pack(">I", zlib.crc32(data))
    )
    with pytest.raises(ValueError, match="0.png is 9000x9000 pixels: at most 67108864 pixels are read"):
        read_video(tmp_path)


def test_animations_are_refused(tmp_path):
    pictures = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    for name in ("0.png", "0.webp"):
        pictures[0].save(tmp_path / name, save_all=True, append_images=pictures[1:])
        with pytest.raises(ValueError, match=f"{name} is animated, 2 frames: save each frame as an image of its own"):
            open_image(tmp_path / name)


def test_entries_that_are_no_files_are_errors(tmp_path):
    folder = frames(tmp_path, "0.png")
    (folder / "1.png").symlink_to(folder / "gone.png")
    with pytest.raises(ValueError, match=r"1\.png is a broken link, among the images of"):
        read_video(folder)
    (folder / "1.png").unlink()
    os.mkfifo(folder / "1.png")  # opening it would wait forever
    with pytest.raises(ValueError, match=r"1\.png is no regular file"):
        read_video(folder)
    (folder / "1.png").unlink()
    (folder / "1.png").symlink_to(folder / "0.png")
    (folder / ".2.png").mkdir()
    assert len(image_files(folder)) == 2


@pytest.mark.parametrize(
    "names, message",
    [
        (("f_0001.png", "f_0003.png"), "lacks number 2, before f_0003.png"),
        (("f_1.png", "f_2.png", "f_10.png"), "lacks number 3, before f_10.png"),
        (("f_1.png", "f_1.jpg", "f_2.png"), "holds number 1 twice"),
        (("f_01.png", "f_1.png"), "holds number 1 twice"),
        (("shot2_1_left.png", "shot2_3_left.png"), "lacks number 2"),
    ],
)
def test_numbers_have_no_gaps(tmp_path, names, message):
    folder = frames(tmp_path, *names)
    with pytest.raises(ValueError, match=message):
        read_video(folder)
    with pytest.raises(ValueError, match=message):
        read_masks(folder, (8, 8), 1)


def test_names_without_a_row_of_numbers_are_free(tmp_path):
    check_numbering(image_files(frames(tmp_path, "a.png", "b.png", "shot1_5.png", "shot2_9.png")))
    (tmp_path / "row").mkdir()
    assert len(read_video(frames(tmp_path / "row", "f5.png", "f6.png", "f7.png")).frames) == 3

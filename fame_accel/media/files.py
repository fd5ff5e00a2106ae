"""Image files that are not trusted: those of a folder in natural order, and reading one."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from fame_accel.core.limits import MAX_PIXELS, width_x_height
from fame_accel.media.packages import require

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
# Pillow's names. It would also open PostScript, by running Ghostscript, whatever the suffix.
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP")


def natural_order(path: Path) -> tuple[list[tuple[int, str]], str]:
    """Return a sort key that puts frame2 before frame10."""
    parts = re.split(r"(\d+)", path.name)  # text and digits alternate
    return [(int(part), "") if index % 2 else (0, part) for index, part in enumerate(parts)], path.name


def image_files(folder: Path) -> list[Path]:
    """List the images of a folder in natural order. Hidden files, which some systems create, are left out.

    Raises:
        ValueError: an entry with the suffix of an image is no file, such as a broken link.
    """
    files = [entry for entry in folder.iterdir() if entry.suffix.lower() in IMAGE_SUFFIXES]
    files = sorted((file for file in files if not file.name.startswith(".")), key=natural_order)
    for file in files:
        if not file.is_file():
            kind = "a broken link" if file.is_symlink() and not file.exists() else "no regular file"
            raise ValueError(f"{file} is {kind}, among the images of {folder}: remove or replace it")
    return files


def check_numbering(files: list[Path]) -> None:
    """Raise ValueError where the numbers of frames have a gap or one number is there twice.

    Args:
        files: in natural order. Names that differ in more than their last number are not judged.
    """
    names = [re.fullmatch(r"(.*?)(\d+)(\D*)", file.stem) for file in files]
    if len(files) < 2 or not all(names) or len({(name[1], name[3]) for name in names if name}) > 1:
        return
    numbers = [int(name[2]) for name in names if name]
    for before, after, file in zip(numbers, numbers[1:], files[1:], strict=False):
        if after == before:
            raise ValueError(f"{file.parent} holds number {after} twice: {file.name} is the second")
        if after > before + 1:
            raise ValueError(
                f"{file.parent} lacks number {before + 1}, before {file.name}: frames must be numbered without gaps"
            )


def open_image(file: Path) -> Any:
    """Load a Pillow image and turn it upright.

    Raises:
        ValueError: Pillow cannot read it as PNG, JPEG, WebP or BMP, it has more than 2**26 pixels, or is animated.
    """
    pillow, operations = require("PIL.Image", "diffusers"), require("PIL.ImageOps", "diffusers")
    try:
        with pillow.open(file, formats=_FORMATS) as image:
            _check(file, image)
            image.load()
            return operations.exif_transpose(image)
    except _Refused as error:
        raise ValueError(str(error)) from error
    except Exception as error:  # each of Pillow's formats raises errors of its own: OSError, SyntaxError, ValueError
        raise ValueError(f"{file} cannot be read as an image: {error}") from error


class _Refused(Exception):
    """An image that Pillow could read."""


def _check(file: Path, image: Any) -> None:
    """Refuse an image by its header, before its pixels are decoded."""
    if image.width * image.height > MAX_PIXELS:
        size = width_x_height((image.height, image.width))
        raise _Refused(f"{file} is {size} pixels: at most {MAX_PIXELS} pixels are read")
    if image.format in ("PNG", "WEBP") and getattr(image, "n_frames", 1) > 1:
        raise _Refused(f"{file} is animated, {image.n_frames} frames: save each frame as an image of its own")

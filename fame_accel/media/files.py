"""Image files: those of a folder in natural order, and reading one."""

import re
from pathlib import Path
from typing import Any

from fame_accel.media.packages import require

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


def natural_order(path: Path) -> tuple[list[tuple[int, str]], str]:
    """Return a sort key that puts frame2 before frame10."""
    parts = re.split(r"(\d+)", path.name)  # text and digits alternate
    return [(int(part), "") if index % 2 else (0, part) for index, part in enumerate(parts)], path.name


def image_files(folder: Path, suffixes: tuple[str, ...] = IMAGE_SUFFIXES) -> list[Path]:
    """List the images of a folder in natural order. Hidden files, which some systems create, are left out."""
    files = [file for file in folder.iterdir() if file.is_file() and not file.name.startswith(".")]
    return sorted((file for file in files if file.suffix.lower() in suffixes), key=natural_order)


def open_image(file: Path) -> Any:
    """Load a Pillow image and turn it upright; ValueError if Pillow cannot read it."""
    pillow, operations = require("PIL.Image", "diffusers"), require("PIL.ImageOps", "diffusers")
    try:
        with pillow.open(file) as image:
            image.load()
            return operations.exif_transpose(image)
    except Exception as error:  # each of Pillow's formats raises errors of its own: OSError, SyntaxError, ValueError
        raise ValueError(f"{file} cannot be read as an image: {error}") from error

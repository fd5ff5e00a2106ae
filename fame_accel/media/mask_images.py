"""Masks as images: a folder per region, or label images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fame_accel.core.limits import width_x_height
from fame_accel.media.files import check_numbering, image_files, natural_order, open_image
from fame_accel.media.mask_levels import FrameChoice, inside
from fame_accel.media.packages import require

if TYPE_CHECKING:
    from numpy import ndarray
    from PIL.Image import Image

_JPEG = (".jpg", ".jpeg")  # keeps no labels: it blurs them
_LABELS = 31  # at most, one per region
_BETWEEN = 0.05  # share of pixels between black and white from which on a JPEG is no mask
_OPAQUE = 128  # of an alpha channel


def read_region_folders(folders: list[Path], choice: FrameChoice) -> list[tuple[str, Tensor]]:
    """(name, bool [frames or 1, H, W]) of each folder."""
    regions = []
    for folder in sorted(folders, key=natural_order):
        files = image_files(folder)
        if not files:
            raise ValueError(f"{folder} holds no images: it must hold a mask per frame, or one for all")
        check_numbering(files)
        pictures = [_levels(open_image(files[index])) for index in choice.of(len(files), str(folder))]
        regions.append((folder.name, inside(_stack(pictures, folder))))
    return regions


def read_labels(path: Path, choice: FrameChoice) -> list[tuple[str, Tensor]]:
    """(name, bool [frames or 1, H, W]) of each label of a folder of images, or of one image for all frames."""
    folder = path if path.is_dir() else path.parent
    files = image_files(path) if path.is_dir() else [path]
    check_numbering(files)
    selected = [files[index] for index in choice.of(len(files), str(path))]
    named = _label_names(folder / "labels.json")
    if any(file.suffix.lower() in _JPEG for file in selected):
        return _one_region(path, _stack([_levels(open_image(file)) for file in selected], path), named)
    labels, colored = _stack_labels([_label_image(open_image(file), file) for file in selected], path)
    values = [value for value in labels.unique().tolist() if value]
    if values == [255] and not colored and (named is None or len(named) == 1):
        return _one_region(path, labels, named)
    if len(values) > _LABELS:
        kind = "colors" if colored else "labels"
        raise ValueError(
            f"{path} has {len(values)} different {kind}: at most {_LABELS} regions fit; a soft mask of one region goes "
            "into a subfolder that is named after it"
        )
    if named is None:
        if not values:
            raise ValueError(f"{path}: every label is 0, no region")
        named = {value: _hex(value) if colored else f"region{value}" for value in values}
    if unnamed := sorted(set(values) - set(named)):
        shown = [_hex(value) for value in unnamed] if colored else unnamed
        raise ValueError(f"{folder / 'labels.json'} names no region for the labels {shown}")
    return [(name, labels == value) for value, name in named.items()]


def _one_region(path: Path, levels: Tensor, named: dict[int, str] | None) -> list[tuple[str, Tensor]]:
    """The region of masks that are black and white."""
    most = levels.max()
    if float(((4 * levels > most) & (4 * levels < 3 * most)).float().mean()) > _BETWEEN:
        raise ValueError(f"{path} is not black and white, and JPEG keeps no labels: save them as PNG")
    if named is not None and len(named) > 1:
        raise ValueError(f"{path} is black and white, one region, but labels.json names {', '.join(named.values())}")
    return [(next(iter(named.values())) if named else "region1", inside(levels))]


def _levels(image: Image) -> Tensor:
    """How far each pixel is inside, int32 [H, W]: its brightness and opacity.

    In an image of one color, such as a cut-out silhouette, the opacity alone.
    """
    if image.mode.startswith(("I", "F")):
        return torch.from_numpy(_pixels(image).astype("int32"))
    if not image.has_transparency_data:
        return torch.from_numpy(_pixels(image.convert("RGB")).max(-1).astype("int32"))
    rgba = torch.from_numpy(_pixels(image.convert("RGBA")).astype("int32"))
    alpha, brightness = rgba[..., 3], rgba[..., :3].amax(-1)
    visible = brightness[alpha > 0]
    if alpha.min() < alpha.max() and visible.min() == visible.max():
        return alpha
    return brightness * alpha // 255


def _label_image(image: Image, file: Path) -> tuple[Tensor, bool]:
    """Labels, int32 [H, W], and whether they are colors, 0xRRGGBB; what is transparent has label 0."""
    if image.mode in ("1", "L", "P") or image.mode.startswith("I"):  # a palette image gives its indices
        return torch.from_numpy(_pixels(image).astype("int32")), False
    if image.mode not in ("LA", "RGB", "RGBA", "PA", "CMYK", "YCbCr"):
        raise ValueError(f"{file} must hold labels as gray levels, palette indices or colors, got {image.mode}")
    rgba = torch.from_numpy(_pixels(image.convert("RGBA")).astype("int32"))
    red, green, blue, alpha = rgba.unbind(-1)
    gray = bool(((red == green) & (green == blue)).all())
    labels = red if gray else (red << 16) + (green << 8) + blue
    return labels.masked_fill(alpha < _OPAQUE, 0), not gray


def _stack_labels(pictures: list[tuple[Tensor, bool]], path: Path) -> tuple[Tensor, bool]:
    """Labels [F, H, W], and whether they are colors; then those of gray images are colors too."""
    colored = any(is_color for _, is_color in pictures)
    if colored:
        pictures = [(labels if is_color else labels * 0x010101, True) for labels, is_color in pictures]
    return _stack([labels for labels, _ in pictures], path), colored


def _label_names(file: Path) -> dict[int, str] | None:
    """The region names by label, in the order of the labels, or None if there is no such file."""
    if not file.exists():
        return None
    wanted = f'{file} must hold names by label, {{"1": "name", "#ff0000": "other"}}'
    try:
        entries = json.loads(file.read_text(encoding="utf-8")).items()
        names = {int(label[1:], 16) if label.startswith("#") else int(label): name for label, name in entries}
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise ValueError(f"{wanted}: {error}") from error
    valid = all(1 <= label <= 0xFFFFFF and isinstance(name, str) and name for label, name in names.items())
    if not names or not valid or len(set(names.values())) < len(names):
        raise ValueError(f"{wanted}, labels from 1 on and each name once, got {names}")
    return dict(sorted(names.items()))


def _hex(color: int) -> str:
    return f"#{color:06x}"


def _pixels(image: Image) -> ndarray:
    return require("numpy", "diffusers").array(image)


def _stack(pictures: list[Tensor], path: Path) -> Tensor:
    if len(sizes := {(picture.shape[0], picture.shape[1]) for picture in pictures}) > 1:
        shown = ", ".join(map(width_x_height, sorted(sizes)))
        raise ValueError(f"the masks in {path} must have one size, got {shown} (width x height)")
    return torch.stack(pictures)

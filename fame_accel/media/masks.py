"""Masks of a video's regions: a folder of masks per region, a folder of label images, or an .npz file."""

from __future__ import annotations

import json
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fame_accel.core.limits import width_x_height
from fame_accel.media.files import image_files, natural_order, open_image
from fame_accel.media.frames import fit_masks
from fame_accel.media.packages import require
from fame_accel.media.selection import check_selection, select_frames

if TYPE_CHECKING:
    from numpy import ndarray
    from PIL.Image import Image

MAX_REGIONS = 31  # bits of a region bitset
FORMS = (
    "masks must be a folder with a subfolder of PNGs per region, a folder of label PNGs, or an .npz file with an "
    "array per region"
)


def read_masks(
    path: str | PathLike[str],
    source_size: tuple[int, int],
    frames: int,
    stride: int = 1,
    size: tuple[int, int] | None = None,
    *,
    first: int = 0,
    fit: str = "crop",
    stored_size: tuple[int, int] | None = None,
) -> tuple[Tensor, list[str]]:
    """Read the masks of a video's regions, for the frames that `read_video` takes with the same arguments.

    There are three forms. All have the size of the source video, and mask i belongs to frame i in natural order:

    - a folder with a subfolder of PNGs per region, named after the region; pixels that are not black are inside;
    - a folder of PNGs with one channel (gray or palette) whose values are labels, 0 for no region. The file
      labels.json in it names the labels: ``{"1": "doctor", "2": "car"}``. Without it their names are "region1",
      "region2" and so on;
    - an .npz file with an array [frames, H, W], bool or uint8, per region; values other than 0 are inside.

    A single PNG, or an array [H, W], is used for every frame. In the first and third form, regions may overlap.

    Args:
        path: the folder or file.
        source_size: (height, width) in pixels of the source video, before cropping and resizing.
        frames, stride: the selection of frames, as for the video.
        size: (height, width) in pixels to bring the masks to, nearest neighbor; None keeps the size.
        first: index of the first frame in the source.
        stored_size: another size that the masks may have, of the video before its pixels were made square.
        fit: how the masks come to the aspect ratio of ``size``, as for the video.

    Returns:
        bool tensor [R, F, H, W] on the CPU, and the R names (1 to 31) in natural order, or in the order of the labels.

    Raises:
        ValueError: the path does not exist, has none of the three forms, or holds a file that cannot be read, too few
            frames, masks of another size, a region that is empty in all frames, or more than 31 regions.
        ImportError: numpy or Pillow is missing.
    """
    path = Path(path)
    check_selection(frames, stride, size, fit=fit)
    if not path.exists():
        raise ValueError(f"no such masks: {path}")
    if path.is_dir():
        folders = [item for item in path.iterdir() if item.is_dir() and not item.name.startswith(".")]
        if folders and image_files(path, (".png",)):
            raise ValueError(f"{path} holds both PNGs and folders: {FORMS}")
        regions = _region_folders(folders, frames, stride, first) if folders else _labels(path, frames, stride, first)
    elif path.suffix.lower() == ".npz":
        regions = _arrays(path, frames, stride, first)
    else:
        raise ValueError(f"{path}: {FORMS}")
    if len(regions) > MAX_REGIONS:
        raise ValueError(f"{path} has {len(regions)} regions: at most {MAX_REGIONS} fit")
    for name, mask in regions.items():
        if tuple(mask.shape[1:]) == stored_size:
            regions[name] = mask = fit_masks(mask[None], source_size, "stretch")[0]
        if tuple(mask.shape[1:]) != tuple(source_size):
            got, wanted = map(width_x_height, (mask.shape[1:], source_size))
            raise ValueError(f"the masks of region {name!r} in {path} are {got} pixels: the video has {wanted}")
    masks = torch.stack([mask.expand(frames, -1, -1) for mask in regions.values()])
    whole = masks
    masks = masks if size is None else fit_masks(masks, size, fit)
    for name, mask, before in zip(regions, masks, whole, strict=True):
        if before.any() and not mask.any() and size is not None:
            cut = f"the crop and resize to {width_x_height(size)} (width x height)"
            raise ValueError(f"region {name!r} in {path} is empty after {cut}: change --size, or use --fit pad")
        if not mask.any():
            raise ValueError(f"region {name!r} in {path} is empty in every frame that is used")
    return masks, list(regions)


def _region_folders(folders: list[Path], frames: int, stride: int, first: int) -> dict[str, Tensor]:
    regions = {}
    for folder in sorted(folders, key=natural_order):
        pictures = []
        for file in _selected_pngs(folder, frames, stride, first):
            image = open_image(file)
            if image.has_transparency_data and image.convert("RGBA").getchannel("A").getextrema()[0] < 255:
                raise ValueError(f"{file} is partly transparent: save the mask in black and white")
            deep = image.mode.startswith(("I", "F"))
            inside = _pixels(image if deep else image.convert("RGB")) != 0
            pictures.append(torch.from_numpy(inside if deep else inside.any(-1)))
        regions[folder.name] = _one_size(pictures, folder)
    return regions


def _labels(folder: Path, frames: int, stride: int, first: int) -> dict[str, Tensor]:
    pictures = []
    for file in _selected_pngs(folder, frames, stride, first):
        image = open_image(file)
        if image.mode not in ("1", "L", "P"):
            raise ValueError(f"{file} must have one channel of labels, gray or palette, got {image.mode}")
        pictures.append(torch.from_numpy(_pixels(image).astype("uint8")))  # a palette image gives its indices
    labels = _one_size(pictures, folder)
    values = [value for value in labels.unique().tolist() if value]
    names = _label_names(folder / "labels.json")
    if names is None:
        if not values:
            raise ValueError(f"{folder}: every label is 0, no region")
        if len(values) > MAX_REGIONS:
            raise ValueError(f"{folder} has {len(values)} different labels: at most {MAX_REGIONS} regions fit")
        names = {value: f"region{value}" for value in values}
    if unnamed := sorted(set(values) - set(names)):
        raise ValueError(f"{folder / 'labels.json'} names no region for the labels {unnamed}")
    return {name: labels == value for value, name in names.items()}


def _label_names(file: Path) -> dict[int, str] | None:
    """Return the region names by label, in the order of the labels, or None if there is no such file."""
    if not file.exists():
        return None
    wanted = f'{file} must hold names by label, {{"1": "name", ...}}'
    try:
        names = {int(label): name for label, name in json.loads(file.read_text(encoding="utf-8")).items()}
    except (OSError, ValueError, AttributeError) as error:
        raise ValueError(f"{wanted}: {error}") from error
    valid = all(1 <= label <= 255 and isinstance(name, str) and name for label, name in names.items())
    if not names or not valid or len(set(names.values())) < len(names):
        raise ValueError(f"{wanted}, labels 1 to 255 and each name once, got {names}")
    return dict(sorted(names.items()))


def _arrays(file: Path, frames: int, stride: int, first: int) -> dict[str, Tensor]:
    numpy = require("numpy", "diffusers")
    try:
        with numpy.load(file, allow_pickle=False) as archive:  # unpickling could run code
            arrays = {name: archive[name] for name in archive.files}
    except Exception as error:  # a damaged file fails in numpy, zipfile, zlib or tokenize, each with its own errors
        raise ValueError(f"{file} is not an .npz file of plain arrays: {error}") from error
    if not arrays:
        raise ValueError(f"{file} holds no arrays: {FORMS}")
    regions = {}
    for name in sorted(arrays, key=lambda name: natural_order(Path(name))):
        array, source = arrays[name], f"{name!r} in {file}"
        if not isinstance(array, numpy.ndarray):
            raise ValueError(f"{source} is not an array: {FORMS}")
        if array.dtype not in (numpy.bool_, numpy.uint8) or array.ndim not in (2, 3):
            raise ValueError(f"{source} must be bool or uint8 [frames, H, W], got {array.dtype} {list(array.shape)}")
        mask = torch.from_numpy(array != 0)
        every = mask.ndim == 2
        regions[name] = mask[None] if every else mask[list(select_frames(len(mask), frames, stride, source, first))]
    return regions


def _selected_pngs(folder: Path, frames: int, stride: int, first: int) -> list[Path]:
    files = image_files(folder, (".png",))
    if not files:
        raise ValueError(f"{folder} holds no PNGs: {FORMS}")
    if len(files) == 1:  # for every frame
        return files
    return [files[index] for index in select_frames(len(files), frames, stride, str(folder), first)]


def _pixels(image: Image) -> ndarray:
    return require("numpy", "diffusers").array(image)


def _one_size(pictures: list[Tensor], folder: Path) -> Tensor:
    if len(shapes := {tuple(picture.shape) for picture in pictures}) > 1:
        raise ValueError(f"the masks in {folder} must have one size, got {sorted(shapes)}")
    return torch.stack(pictures)

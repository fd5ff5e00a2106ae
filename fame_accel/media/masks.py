"""Masks of a video's regions, in the forms that people have them: which form a path is, and the checks of all forms."""

from __future__ import annotations

import unicodedata
from os import PathLike
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from fame_accel.core.limits import width_x_height
from fame_accel.media.files import IMAGE_SUFFIXES, image_files
from fame_accel.media.frames import fit_masks
from fame_accel.media.mask_arrays import read_arrays
from fame_accel.media.mask_images import read_labels, read_region_folders
from fame_accel.media.mask_levels import FrameChoice
from fame_accel.media.mask_videos import VIDEO_SUFFIXES, read_mask_videos, video_files
from fame_accel.media.selection import check_selection

MAX_REGIONS = 31  # bits of a region bitset
FORMS = (
    "masks must be a folder with a subfolder of images per region, a folder of label images or one such image, a video "
    "or a folder with a video per region, or an .npz file with an array per region"
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

    Mask i belongs to frame i, in natural order. In a mask that is not black and white, pixels of at least half of the
    region's largest value are inside. The forms:

    - a folder with a subfolder of images per region, named after the region. White is inside; in images of one color
      on a transparent ground, what is opaque;
    - a folder of label images: gray, palette or colored, 0 or black for no region. The file labels.json in it names the
      labels: ``{"1": "doctor", "#ff0000": "car"}``. Without it gray labels are "region1", "region2" and so on, and
      colors are named as "#ff0000". Images of 0 and 255 alone, and JPEGs, are masks of one region, "region1";
    - an .npz file with an array [frames, H, W] of numbers per region;
    - a black-and-white video, named after its region, or a folder of them.

    One image, or an array [H, W], is used for every frame. Masks may have any resolution in the aspect ratio of the
    video. Regions may overlap, but for those of label images.

    Args:
        path: the folder or file.
        source_size: (height, width) in pixels of the source video, before cropping and resizing.
        frames, stride: the selection of frames, as for the video.
        size: (height, width) in pixels to bring the masks to, nearest neighbor; None gives them the source's size.
        first: index of the first frame in the source.
        stored_size: another size that the masks may have, of the video before its pixels were made square.
        fit: how the masks come to the aspect ratio of ``size``, as for the video.

    Returns:
        bool tensor [R, F, H, W] on the CPU, and the R names (1 to 31) in natural order, or in the order of the labels.
        Names are in Unicode's composed form (NFC).

    Raises:
        ValueError: the path does not exist, has none of the forms, or holds a file that cannot be read, too few
            frames, masks of another aspect ratio, a region that is empty in all frames, or more than 31 regions.
        ImportError: numpy, Pillow or PyAV is missing.
    """
    path = Path(path)
    check_selection(frames, stride, size, fit=fit)
    if not path.exists():
        raise ValueError(f"no such masks: {path}")
    read = _read(path, FrameChoice(frames, stride, first))
    regions = {unicodedata.normalize("NFC", name): mask for name, mask in read}
    if len(regions) < len(read):
        raise ValueError(f"{path} has two regions of one name: {', '.join(sorted(name for name, _ in read))}")
    if len(regions) > MAX_REGIONS:
        raise ValueError(f"{path} has {len(regions)} regions: at most {MAX_REGIONS} fit")
    masks = []
    for name, mask in regions.items():
        _check_aspect(name, path, (mask.shape[1], mask.shape[2]), source_size, stored_size)
        whole = _resized(mask, source_size)
        result = whole if size is None else fit_masks(whole[None], size, fit)[0]
        if size is not None and whole.any() and not result.any():
            cut = f"the crop and resize to {width_x_height(size)} (width x height)"
            raise ValueError(f"region {name!r} in {path} is empty after {cut}: change --size, or use --fit pad")
        if not result.any():
            raise ValueError(f"region {name!r} in {path} is empty in every frame that is used")
        masks.append(result.expand(frames, -1, -1))
    return torch.stack(masks), list(regions)


def _read(path: Path, choice: FrameChoice) -> list[tuple[str, Tensor]]:
    """(name, bool [frames or 1, H, W] of any size) of each region, by whatever form the path has."""
    if path.is_dir():
        folders = [item for item in path.iterdir() if item.is_dir() and not item.name.startswith(".")]
        forms = {"images": bool(image_files(path)), "folders": bool(folders), "videos": bool(video_files(path))}
        present = [form for form, is_there in forms.items() if is_there]
        if len(present) != 1:
            raise ValueError(f"{path} holds {' and '.join(present) or 'no masks'}: {FORMS}")
        if folders:
            return read_region_folders(folders, choice)
        return read_labels(path, choice) if forms["images"] else read_mask_videos(video_files(path), choice)
    suffix = path.suffix.lower()
    if suffix == ".npz":
        return read_arrays(path, choice)
    if suffix in VIDEO_SUFFIXES:
        return read_mask_videos([path], choice)
    if suffix in IMAGE_SUFFIXES:
        return read_labels(path, choice)
    raise ValueError(f"{path}: {FORMS}")


def _check_aspect(
    name: str, path: Path, size: tuple[int, int], source: tuple[int, int], stored: tuple[int, int] | None
) -> None:
    """Raise ValueError unless masks have the aspect ratio of the video, to within a pixel of theirs."""
    for wanted in filter(None, (source, stored)):
        if abs(size[0] * wanted[1] - size[1] * wanted[0]) <= max(wanted):
            return
    raise ValueError(
        f"the masks of region {name!r} in {path} are {width_x_height(size)} pixels: the video has "
        f"{width_x_height(source)}, and masks must have its aspect ratio"
    )


def _resized(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """A mask [F, h, w] in another size, by nearest neighbor."""
    if tuple(mask.shape[1:]) == tuple(size):
        return mask
    return interpolate(mask[None].float(), size=size, mode="nearest-exact")[0].bool()

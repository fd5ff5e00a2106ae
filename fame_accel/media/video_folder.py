"""Reading a video from a folder of images."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from fame_accel.core.limits import width_x_height
from fame_accel.media.files import IMAGE_SUFFIXES, check_numbering, image_files, open_image
from fame_accel.media.light import OVER_BLACK, over_black
from fame_accel.media.packages import require
from fame_accel.media.selection import ROUNDING, Choice, select_frames
from fame_accel.media.taken import Video
from fame_accel.media.timing import auto_stride, describe_span

FOLDER_FPS = 8.0


def read_folder(folder: Path, choice: Choice) -> Video:
    """Read a folder of images; ValueError where they are none, damaged, or of several sizes."""
    files = image_files(folder)
    if not files:
        raise ValueError(f"{folder} holds no images ({', '.join(IMAGE_SUFFIXES)})")
    check_numbering(files)
    numpy = require("numpy", "diffusers")
    fps = choice.fps or FOLDER_FPS
    stride = auto_stride(fps) if isinstance(choice.stride, str) else choice.stride
    first = next((index for index in range(len(files)) if index / fps >= choice.start - ROUNDING), len(files))
    pictures: list[Tensor] = []
    source_size, transparent = (0, 0), False
    for index in select_frames(len(files), choice.frames, stride, str(folder), first)[: choice.most]:
        image = open_image(files[index])
        if image.mode.startswith(("I", "F")):
            raise ValueError(f"{files[index]} has more than 8 bits a channel ({image.mode}): save it with 8")
        picture = torch.from_numpy(numpy.array(image.convert("RGBA" if image.has_transparency_data else "RGB")))
        if picture.shape[-1] == 4:
            picture, here = over_black(picture)
            transparent = transparent or here
        size_here = (picture.shape[0], picture.shape[1])
        source_size = size_here if not pictures else source_size
        if size_here != source_size:
            raise ValueError(
                f"the images of {folder} must have one size: {files[index].name} is {width_x_height(size_here)}, "
                f"{files[first].name} is {width_x_height(source_size)}"
            )
        pictures.append(choice.fitted(picture))
    count = len(pictures)
    span = describe_span(count, len(files), stride, first / fps, count * stride / fps)
    lines = (span, *[OVER_BLACK] * transparent)
    return Video(torch.stack(pictures), fps / stride, source_size, source_size, first, stride, choice.fit, None, lines)

"""Videos: reading a file or a folder of images, and writing H.264 in MP4."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fame_accel.media.frames import check_choice, check_frames, chosen, fit_frames, natural_order, replacing
from fame_accel.media.packages import require

if TYPE_CHECKING:
    from av import VideoFrame

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
FOLDER_FPS = 8.0
BIT_EXACT = 1 << 23  # FFmpeg's AV_CODEC_FLAG_BITEXACT: no version of the encoder in the stream
BT709, LIMITED = 1, 1  # FFmpeg's numbers of the colour space and of the range 16 to 235


@dataclass(frozen=True, eq=False)
class Video:
    """frames: uint8 [F, H, W, 3], RGB, on the CPU; fps: frames a second of these frames, the stride counted in;
    source_size: (height, width) in pixels before cropping and resizing, upright."""

    frames: Tensor
    fps: float
    source_size: tuple[int, int]


def read_video(
    path: str | PathLike[str],
    frames: int | None = None,
    stride: int = 1,
    size: tuple[int, int] | None = None,
    fps: float | None = None,
) -> Video:
    """Read a video file, or a folder of images of one size as its frames.

    The images of a folder are its .png, .jpg, .jpeg, .webp and .bmp files, in natural order (frame2 before frame10);
    other files there are left alone. Rotation noted in the file is applied.

    Args:
        path: a file that FFmpeg reads, or a folder.
        frames: how many to take from the beginning; None takes all.
        stride: take every stride-th frame.
        size: (height, width) in pixels: the centre is cropped to this aspect and resized; None keeps the size.
        fps: frames a second of the source, before the stride; None is the file's own, or 8 for a folder.

    Raises:
        ValueError: an argument is out of range; no such path; the file is no video, is damaged, or states no frame
            rate; an image cannot be read or differs in size; there are fewer frames than asked for.
        ImportError: PyAV or Pillow is missing.
    """
    path = Path(path)
    check_choice(frames, stride, size)
    if fps is not None and not 0 < fps < float("inf"):
        raise ValueError(f"fps must be above 0 and finite, got {fps}")
    if not path.exists():
        raise ValueError(f"no such video file or folder: {path}")
    read = _read_folder if path.is_dir() else _read_file
    pictures, source_size, rate = read(path, frames, stride, size)
    rate = fps or rate
    if not rate:
        raise ValueError(f"{path} states no frame rate: give fps")
    return Video(pictures, rate / stride, source_size)


def write_video(path: str | PathLike[str], frames: Tensor, fps: float) -> None:
    """Write H.264 (yuv420p, BT.709, CRF 18) in MP4, its index first so that it plays while it loads.

    The same frames give the same bytes with the same FFmpeg. The file appears under its name once it is whole.

    Args:
        path: the file to write, .mp4.
        frames: uint8 tensor [F, H, W, 3], RGB, H and W even: yuv420p halves the resolution of colour.
        fps: frames a second, 0.01 to 1000; rounded to a fraction with a denominator of at most 1001.

    Raises:
        ValueError: another suffix, shape or dtype, an odd size, or fps out of range.
        ImportError: PyAV is missing.
    """
    path = Path(path)
    check_frames(frames)
    height, width = frames.shape[1:3]
    if path.suffix.lower() != ".mp4":
        raise ValueError(f"path must end in .mp4, got {path}")
    if height % 2 or width % 2:
        raise ValueError(f"frames must have even height and width for yuv420p, got {height}x{width}")
    check_fps(fps)
    av = require("av", "diffusers")
    muxing = {"movflags": "+faststart", "fflags": "+bitexact"}
    with replacing(path) as temporary, av.open(str(temporary), "w", format="mp4", options=muxing) as container:
        rate = Fraction(fps).limit_denominator(1001)
        stream = container.add_stream("libx264", rate=rate, options={"crf": "18", "preset": "medium"})
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        codec = stream.codec_context
        codec.thread_count = 1  # x264 divides its work by threads, and the bytes depend on it
        codec.flags |= BIT_EXACT
        codec.colorspace = codec.color_primaries = codec.color_trc = BT709
        codec.color_range = LIMITED
        for frame in frames.cpu():
            picture = av.VideoFrame.from_ndarray(frame.contiguous().numpy(), format="rgb24")
            picture = picture.reformat(format="yuv420p", dst_colorspace=BT709, dst_color_range=LIMITED)
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))


def check_fps(fps: float) -> None:
    """Raise ValueError for a frame rate that `write_video` cannot write."""
    if not 0.01 <= fps <= 1000:
        raise ValueError(f"fps must lie in 0.01 to 1000, got {fps}")


def image_files(folder: Path, suffixes: tuple[str, ...] = IMAGE_SUFFIXES) -> list[Path]:
    """The images of a folder in natural order; hidden files, which some systems add, are none."""
    files = [file for file in folder.iterdir() if file.is_file() and not file.name.startswith(".")]
    return sorted((file for file in files if file.suffix.lower() in suffixes), key=natural_order)


def open_image(file: Path) -> Any:
    """A whole image, upright; ValueError where Pillow cannot read it."""
    pillow, operations = require("PIL.Image", "diffusers"), require("PIL.ImageOps", "diffusers")
    try:
        with pillow.open(file) as image:
            image.load()
            return operations.exif_transpose(image)
    except Exception as error:  # OSError, SyntaxError, ValueError, ...: each of Pillow's readers has errors of its own
        raise ValueError(f"{file} is not an image that can be read: {error}") from error


def _read_folder(
    folder: Path, frames: int | None, stride: int, size: tuple[int, int] | None
) -> tuple[Tensor, tuple[int, int], float]:
    files = image_files(folder)
    if not files:
        raise ValueError(f"{folder} holds no images ({', '.join(IMAGE_SUFFIXES)})")
    numpy = require("numpy", "diffusers")
    pictures, source_size = [], None
    for index in chosen(len(files), frames, stride, str(folder)):
        image = open_image(files[index])
        if image.mode.startswith(("I", "F")):
            raise ValueError(f"{files[index]} has more than 8 bits a channel ({image.mode}): save it with 8")
        picture = torch.from_numpy(numpy.array(image.convert("RGB")))
        source_size = source_size or tuple(picture.shape[:2])
        if tuple(picture.shape[:2]) != source_size:
            raise ValueError(
                f"the images of {folder} must have one size: {files[index].name} is {_by(picture.shape)}, "
                f"{files[0].name} is {_by(source_size)}"
            )
        pictures.append(_fitted(picture, size))
    return torch.stack(pictures), source_size, FOLDER_FPS


def _read_file(
    file: Path, frames: int | None, stride: int, size: tuple[int, int] | None
) -> tuple[Tensor, tuple[int, int], float]:
    av = require("av", "diffusers")
    last = None if frames is None else (frames - 1) * stride
    pictures, source_size, count = [], (0, 0), 0
    try:
        with av.open(str(file)) as container:
            if not container.streams.video:
                raise ValueError(f"{file} has no video stream")
            stream = container.streams.video[0]
            rate = float(stream.average_rate or 0)
            for picture in _upright(container.decode(stream)):
                if count % stride == 0:  # fitted one by one: a long 4k video would not fit the memory
                    source_size = tuple(picture.shape[:2])
                    pictures.append(_fitted(picture, size))
                count += 1
                if last is not None and count > last:
                    break
    except av.error.FFmpegError as error:
        read = f" past frame {count}" if count else ""
        raise ValueError(f"{file} cannot be read as a video{read}: {error.strerror}") from error
    if not count:
        raise ValueError(f"{file} holds no frames")
    chosen(count, frames, stride, str(file))
    if len({picture.shape for picture in pictures}) > 1:
        raise ValueError(f"{file} changes its size from frame to frame: give size, or convert it")
    return torch.stack(pictures), source_size, rate


def _upright(decoded: Iterator[VideoFrame]) -> Iterator[Tensor]:
    """uint8 [H, W, 3] of each frame, turned as its display matrix says."""
    for frame in decoded:
        picture = torch.from_numpy(frame.to_ndarray(format="rgb24"))
        turns = round(frame.rotation / 90)  # counterclockwise
        yield torch.rot90(picture, turns).contiguous() if turns % 4 else picture


def _fitted(picture: Tensor, size: tuple[int, int] | None) -> Tensor:
    return picture if size is None else fit_frames(picture[None], size)[0]


def _by(shape: tuple[int, ...]) -> str:
    return f"{shape[0]}x{shape[1]}"

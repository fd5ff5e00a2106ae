"""Edited frames outlive a failed write."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torch import Tensor

from fame_accel.media.drawing import as_image


@contextmanager
def kept_if_writing_fails(frames: Tensor, output: Path) -> Iterator[None]:
    """Save frames as PNGs if the block fails: in a new folder beside the output, or in that of temporary files.

    Args:
        frames: uint8 [F, H, W, 3].
        output: the file that the block writes.

    Raises:
        OSError: the block failed; the message names the folder.
    """
    try:
        yield
    except Exception as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        folder = _save(frames, output)
        kept = "could not be kept either" if folder is None else f"are kept in {folder}, one PNG each"
        raise OSError(f"--out {output} could not be written ({reason}); the edited frames {kept}") from error


def _save(frames: Tensor, output: Path) -> Path | None:
    for parent in (str(output.parent), tempfile.gettempdir()):
        try:
            folder = Path(tempfile.mkdtemp(prefix="edited_frames_", dir=parent))
            for index, frame in enumerate(frames):
                as_image(frame).save(folder / f"{index:05}.png", "PNG")
            return folder
        except OSError:
            continue
    return None

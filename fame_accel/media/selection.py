"""Which frames of a video are read, and their size: the arguments that videos and masks share."""

MAX_VALUE = 2**31 - 1  # the largest count that torch and FFmpeg handle


def check_selection(frames: int | None, stride: int, size: tuple[int, int] | None) -> None:
    """Raise ValueError if a number is out of range.

    Args:
        frames: number of frames, 1 to 2**31 - 1, or None for all.
        stride: distance between the frames, 1 to 2**31 - 1.
        size: (height, width) in pixels, each 1 to 2**31 - 1, or None to keep the size.
    """
    for name, value in (("frames", frames), ("stride", stride)):
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
        if value is not None and value > MAX_VALUE:
            raise ValueError(f"{name} must be at most {MAX_VALUE}, got {value}")
    if size is not None and (len(size) != 2 or min(size) < 1 or max(size) > MAX_VALUE):
        raise ValueError(f"size must be (height, width) in pixels, each 1 to {MAX_VALUE}, got {size}")


def select_frames(available: int, frames: int | None, stride: int, source: str) -> range:
    """Return the indices of the first ``frames`` of every ``stride``-th frame.

    Args:
        available: number of frames in the source.
        frames: how many to take; None takes all.
        stride: distance between two frames.
        source: name of the source, for the error message.

    Raises:
        ValueError: the source has too few frames.
    """
    indices = range(0, available, stride)
    if frames is None:
        return indices
    if len(indices) < frames:
        strided = f", {len(indices)} at stride {stride}" if stride > 1 else ""
        raise ValueError(f"{source} has {available} frame{'s' * (available != 1)}{strided}: {frames} were asked for")
    return indices[:frames]

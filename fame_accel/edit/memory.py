"""What an edit that ran out of memory may change."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from fame_accel.core.limits import MAX_REGIONS
from fame_accel.edit.options import EditOptions
from fame_accel.tools.planner import FUSED, MODULATIONS
from fame_accel.tools.planner.estimate import Setting
from fame_accel.tools.planner.footprint import read_footprint
from fame_accel.tools.planner.network import read_network
from fame_accel.tools.planner.regions import EqualRegions
from fame_accel.tools.planner.whole import WholeEdit, in_bytes


@contextmanager
def out_of_memory_advised(
    options: EditOptions, folder: Path, size: tuple[int, int], device: torch.device, regions: int
) -> Iterator[None]:
    """Turn a lack of memory in the block into a RuntimeError whose message says what would lower the need.

    Args:
        options: of the edit, its dtype and backend filled in.
        folder: the checkpoint's.
        size: (height, width) in pixels of the frames.
        device: where it runs.
        regions: how many there are.
    """
    try:
        yield
        return
    except (RuntimeError, MemoryError) as error:
        if not lacks_memory(error):
            raise
    # Past the handler the tensors of the failed edit are freed: what follows needs some memory itself.
    try:
        change = what_to_change(options, folder, size, device, regions)
    except ValueError:  # a network or a number of frames that is not planned
        change = "fewer --frames and a smaller --size take less"
    raise RuntimeError(f"out of memory on {device}: {change}")


def lacks_memory(error: BaseException) -> bool:
    """Whether an error is an allocator's: that of CUDA, of the CPU, or of Python."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


def what_to_change(
    options: EditOptions, folder: Path, size: tuple[int, int], device: torch.device, regions: int
) -> str:
    """What the edit takes, and what with each saving that it does not use yet, as `fame-accel plan` counts them.

    Args:
        options, folder, size, device, regions: as in `out_of_memory_advised`.

    Raises:
        ValueError: the checkpoint or the edit is not one that is planned.
    """
    footprint = read_footprint(folder)
    if footprint is None or options.backend not in FUSED or options.modulation not in MODULATIONS:
        raise ValueError("not planned")
    setting = Setting(
        read_network(folder), EqualRegions(min(regions, MAX_REGIONS)), options.frames, size,
        options.dtype or "float32", options.modulation, options.guidance > 1, options.backend,
    )  # fmt: skip
    edit = WholeEdit(setting, footprint, options.split_guidance, options.chunk_size, options.offload)
    savings = {words: one for words, one in edit.savings().items() if device.type == "cuda" or "--off" not in words}
    peaks = [f"{words} takes {in_bytes(saving.peak_bytes())}" for words, saving in savings.items()]
    return f"the edit takes about {in_bytes(edit.peak_bytes())}; {', '.join(peaks)}"

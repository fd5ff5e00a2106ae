"""What an edit that ran out of memory may change."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

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
    options: EditOptions, size: tuple[int, int], device: torch.device, regions: int
) -> Iterator[None]:
    """Turn a lack of memory in the block into a RuntimeError whose message says what would lower the need.

    Args:
        options: of the edit, its dtype and backend filled in.
        size: (height, width) in pixels of its frames.
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
    raise RuntimeError(f"out of memory on {device}: {what_to_change(options, size, device, regions)}")


def lacks_memory(error: BaseException) -> bool:
    """Whether an error is an allocator's: that of CUDA, of the CPU, or of Python."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


def what_to_change(options: EditOptions, size: tuple[int, int], device: torch.device, regions: int) -> str:
    """What the edit takes, and what with each saving that it does not use yet, as `fame-accel plan` counts them."""
    footprint = read_footprint(options.model)
    if footprint is None or options.backend not in FUSED or options.modulation not in MODULATIONS:
        return (
            f"`fame-accel plan --model {options.model}` says what fits; fewer --frames and a smaller --size take less"
        )
    setting = Setting(
        read_network(options.model), EqualRegions(min(regions, MAX_REGIONS)), options.frames, size,
        options.dtype or "float32", options.modulation, options.guidance > 1, options.backend,
    )  # fmt: skip
    edit = WholeEdit(setting, footprint, options.split_guidance, options.chunk_size, options.offload)
    savings = {words: one for words, one in edit.savings().items() if device.type == "cuda" or "--off" not in words}
    peaks = [f"{words} takes {in_bytes(saving.peak_bytes())}" for words, saving in savings.items()]
    return f"the edit takes about {in_bytes(edit.peak_bytes())}; {', '.join(peaks)}"

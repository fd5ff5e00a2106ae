"""Room for a compiled UNet's variants."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

VARIANTS = 64


@contextmanager
def more_compiled_variants() -> Iterator[None]:
    """Within the block torch.compile keeps up to 64 variants of a piece of code.

    The transformer blocks of a UNet share theirs: four sizes, each in inversion, in modulated and in plain steps with
    guidance. From its default of 8 on, torch.compile gives up and runs the rest eagerly.
    """
    if "torch._dynamo" not in sys.modules:  # nothing is compiled, and importing it takes seconds
        yield
        return
    from torch._dynamo import config

    with config.patch(recompile_limit=max(VARIANTS, config.recompile_limit)):
        yield

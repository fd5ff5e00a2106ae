"""What other packages would send or leave behind, turned off before they are imported."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

# onnxruntime queues events with a device id in the user's cache folder, and looks up the host they go to
SETTINGS = {
    "ORT_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DISABLE_TELEMETRY": "1",  # diffusers and transformers
    "DO_NOT_TRACK": "1",
    "GRADIO_ANALYTICS_ENABLED": "False",
}


_FOLDER = "MPLCONFIGDIR"  # where matplotlib writes its list of fonts


def stop_telemetry() -> None:
    """Set the environment variables that stop it, where the user has not set them."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)


@contextmanager
def nothing_left_behind() -> Iterator[None]:
    """`stop_telemetry`; and for the block, matplotlib's files go to a temporary folder."""
    stop_telemetry()
    if _FOLDER in os.environ:
        yield
        return
    with tempfile.TemporaryDirectory(prefix="fame-accel-") as folder:
        os.environ[_FOLDER] = folder
        try:
            yield
        finally:
            del os.environ[_FOLDER]

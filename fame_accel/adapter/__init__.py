"""FAME attention for diffusers pipelines whose UNet sees the frames of a clip as a batch."""

try:
    import diffusers  # noqa: F401
except ImportError as error:
    raise ImportError("fame_accel's adapter needs diffusers: pip install 'fame-accel[diffusers]'") from error

from fame_accel.adapter.config import FameConfig
from fame_accel.adapter.install import FameHandle, apply_fame, restore_fame
from fame_accel.adapter.processors import FameCrossAttnProcessor, FameSelfAttnProcessor

__all__ = ["FameConfig", "FameCrossAttnProcessor", "FameHandle", "FameSelfAttnProcessor", "apply_fame", "restore_fame"]

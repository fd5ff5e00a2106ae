"""FAME attention for the models of diffusers: UNets that see the frames of a clip as a batch, video transformers."""

try:
    import diffusers  # noqa: F401
except ImportError as error:
    raise ImportError("fame_accel's adapter needs diffusers: pip install 'fame-accel[diffusers]'") from error

from fame_accel.adapter.config import FameConfig
from fame_accel.adapter.families import VideoFamily
from fame_accel.adapter.handle import FameHandle
from fame_accel.adapter.hook import AttentionHook, hook_attention
from fame_accel.adapter.install import apply_fame, restore_fame
from fame_accel.adapter.motion import MotionFamily
from fame_accel.adapter.processors import FameCrossAttnProcessor, FameSelfAttnProcessor

__all__ = [
    "AttentionHook",
    "FameConfig",
    "FameCrossAttnProcessor",
    "FameHandle",
    "FameSelfAttnProcessor",
    "MotionFamily",
    "VideoFamily",
    "apply_fame",
    "hook_attention",
    "restore_fame",
]

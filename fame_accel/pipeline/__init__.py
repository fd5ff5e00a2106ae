# ruff: noqa: E402
"""Video edits as diffusers pipelines: `FameVideoEditPipeline` for Stable Diffusion 1.x and 2.x,
`FameVideoEditXLPipeline` for Stable Diffusion XL, `FameWanVideoEditPipeline` for Wan 2.1 and 2.2."""

from fame_accel.media.privacy import stop_telemetry

stop_telemetry()  # before diffusers loads onnxruntime

from fame_accel.pipeline.stable_diffusion import FameVideoEditPipeline
from fame_accel.pipeline.stable_diffusion_xl import FameVideoEditXLPipeline
from fame_accel.pipeline.video_edit import FameVideoEditOutput
from fame_accel.pipeline.wan import FameWanVideoEditPipeline

__all__ = ["FameVideoEditOutput", "FameVideoEditPipeline", "FameVideoEditXLPipeline", "FameWanVideoEditPipeline"]

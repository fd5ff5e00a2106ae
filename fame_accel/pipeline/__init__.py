"""FameVideoEditPipeline: FAME edits of a clip with a Stable Diffusion checkpoint."""

from fame_accel.pipeline.video_edit import FameVideoEditOutput, FameVideoEditPipeline

__all__ = ["FameVideoEditOutput", "FameVideoEditPipeline"]

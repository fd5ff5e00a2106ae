"""FameVideoEditPipeline: the edit with a Stable Diffusion 1.x or 2.x checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from diffusers import AutoencoderKL, ControlNetModel, DiffusionPipeline, SchedulerMixin, UNet2DConditionModel
from diffusers.loaders import StableDiffusionLoraLoaderMixin, TextualInversionLoaderMixin
from diffusers.models.controlnets.multicontrolnet import MultiControlNetModel
from diffusers.pipelines.pipeline_utils import StableDiffusionMixin
from transformers import CLIPTextModel, CLIPTokenizer

from fame_accel.pipeline import schedule
from fame_accel.pipeline.supported import check_parts
from fame_accel.pipeline.text import EditText, encode_text
from fame_accel.pipeline.video_edit import VideoEdit


class FameVideoEditPipeline(
    VideoEdit, DiffusionPipeline, StableDiffusionMixin, TextualInversionLoaderMixin, StableDiffusionLoraLoaderMixin
):
    """Edits a clip with a pretrained Stable Diffusion 1.x or 2.x, without training, after FAME: see `VideoEdit`.

    Args:
        vae, text_encoder, tokenizer, unet: of the checkpoint.
        scheduler: of the checkpoint. If it is not DDIM, a DDIMScheduler with its noise schedule replaces it, with a
            logged warning.
        controlnet: a ControlNet for the UNet, several, or None.
    """

    model_cpu_offload_seq = "text_encoder->unet->vae"
    _optional_components = ["controlnet"]

    def __init__(
        self,
        vae: AutoencoderKL,
        text_encoder: CLIPTextModel,
        tokenizer: CLIPTokenizer,
        unet: UNet2DConditionModel,
        scheduler: SchedulerMixin,
        controlnet: ControlNetModel | MultiControlNetModel | Sequence[ControlNetModel] | None = None,
    ) -> None:
        super().__init__()
        self.register_modules(
            vae=vae,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            unet=unet,
            scheduler=schedule.ddim(scheduler),
            controlnet=MultiControlNetModel(controlnet) if isinstance(controlnet, (list, tuple)) else controlnet,
        )
        self._finish_construction()
        check_parts(self, False, [text_encoder])

    def _encode_text(self, prompt: str, clip_skip: int | None, **options: Any) -> EditText:
        layer = dict(hidden_layer=-1 - (clip_skip or 0), final_norm=bool(clip_skip))
        return encode_text(self, [(self.tokenizer, self.text_encoder)], prompt, layer=layer, **options)

"""FameVideoEditXLPipeline: the edit with a Stable Diffusion XL checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from diffusers import AutoencoderKL, ControlNetModel, DiffusionPipeline, SchedulerMixin, UNet2DConditionModel
from diffusers.loaders import StableDiffusionXLLoraLoaderMixin, TextualInversionLoaderMixin
from diffusers.models.controlnets.multicontrolnet import MultiControlNetModel
from diffusers.pipelines.pipeline_utils import StableDiffusionMixin
from torch import Tensor
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from fame_accel.pipeline import schedule
from fame_accel.pipeline.supported import check_parts
from fame_accel.pipeline.text import EditText, encode_text
from fame_accel.pipeline.video_edit import VideoEdit


class FameVideoEditXLPipeline(
    VideoEdit, DiffusionPipeline, StableDiffusionMixin, TextualInversionLoaderMixin, StableDiffusionXLLoraLoaderMixin
):
    """Edits a clip with a pretrained Stable Diffusion XL (base), without training, after FAME: see `VideoEdit`.

    A VAE in float16 runs in float32 if its config has force_upcast.

    Args:
        vae, text_encoder, text_encoder_2, tokenizer, tokenizer_2, unet: of the checkpoint.
        scheduler: of the checkpoint. If it is not DDIM, a DDIMScheduler with its noise schedule replaces it, with a
            logged warning.
        controlnet: a ControlNet for the UNet, several, or None.
        force_zeros_for_empty_prompt: embed an empty negative prompt as zeros, as in training of the base checkpoint.
    """

    model_cpu_offload_seq = "text_encoder->text_encoder_2->unet->vae"
    _optional_components = ["controlnet"]

    def __init__(
        self,
        vae: AutoencoderKL,
        text_encoder: CLIPTextModel,
        text_encoder_2: CLIPTextModelWithProjection,
        tokenizer: CLIPTokenizer,
        tokenizer_2: CLIPTokenizer,
        unet: UNet2DConditionModel,
        scheduler: SchedulerMixin,
        controlnet: ControlNetModel | MultiControlNetModel | Sequence[ControlNetModel] | None = None,
        force_zeros_for_empty_prompt: bool = True,
    ) -> None:
        super().__init__()
        self.register_modules(
            vae=vae,
            text_encoder=text_encoder,
            text_encoder_2=text_encoder_2,
            tokenizer=tokenizer,
            tokenizer_2=tokenizer_2,
            unet=unet,
            scheduler=schedule.ddim(scheduler),
            controlnet=MultiControlNetModel(controlnet) if isinstance(controlnet, (list, tuple)) else controlnet,
        )
        self.register_to_config(force_zeros_for_empty_prompt=force_zeros_for_empty_prompt)
        self._finish_construction()
        check_parts(self, True, [text_encoder, text_encoder_2])

    def _encode_text(self, prompt: str, clip_skip: int | None, **options: Any) -> EditText:
        encoders = [(self.tokenizer, self.text_encoder), (self.tokenizer_2, self.text_encoder_2)]
        return encode_text(self, encoders, prompt, layer=dict(hidden_layer=-2 - (clip_skip or 0)), **options)

    def _encode_negative(self, prompt: str, clip_skip: int | None) -> EditText:
        text = self._encode_text(prompt, clip_skip)
        if prompt or not self.config.force_zeros_for_empty_prompt:
            return text
        assert text.pooled is not None  # the second encoder of Stable Diffusion XL has one
        return replace(text, prompt_embeds=torch.zeros_like(text.prompt_embeds), pooled=torch.zeros_like(text.pooled))

    def _added_conditions(self, text: EditText, height: int, width: int) -> dict[str, Tensor]:
        assert text.pooled is not None
        size = (height, width)
        ids = torch.tensor([[*size, 0, 0, *size]], device=text.pooled.device)  # original size, crop, target size
        return {"text_embeds": text.pooled, "time_ids": ids}

    def _encode(self, clip: Tensor, chunk_size: int) -> Tensor:
        with self._upcast_vae():
            return super()._encode(clip, chunk_size)

    def _decode(self, latents: Tensor, chunk_size: int) -> Tensor:
        with self._upcast_vae():
            return super()._decode(latents, chunk_size)

    def _upcast_vae(self) -> AbstractContextManager[None]:
        """Within the block, a VAE that overflows in float16 is in float32."""
        overflows = self.vae.dtype == torch.float16 and self.vae.config.force_upcast
        return self._vae_in_float32() if overflows else nullcontext()

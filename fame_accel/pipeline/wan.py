"""FameWanVideoEditPipeline: the edit with a video transformer, Wan 2.1 or 2.2."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKLWan, DiffusionPipeline, SchedulerMixin, WanTransformer3DModel
from diffusers.loaders import WanLoraLoaderMixin
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor
from torch.nn.functional import pad
from transformers import PreTrainedTokenizerFast, UMT5EncoderModel

from fame_accel.adapter import FameConfig, apply_fame
from fame_accel.core.checks import is_number, shown
from fame_accel.core.layout import SpaceTimeLayout
from fame_accel.core.limits import WAN_TEXT_TOKENS
from fame_accel.core.modulation import Modulation
from fame_accel.core.presets import CROSS_FACTOR, MODULATED_SHARE, POWER, SELF_FACTOR
from fame_accel.fairness import Debias
from fame_accel.pipeline import checks
from fame_accel.pipeline.flow import flow_edit_step, flow_scheduler, flow_steps
from fame_accel.pipeline.frames import Frames, as_frames, as_masks, as_output
from fame_accel.pipeline.text import EditText, encode_text
from fame_accel.pipeline.video_edit import FameVideoEditOutput, StepCallback


class FameWanVideoEditPipeline(DiffusionPipeline, WanLoraLoaderMixin):
    """Edits a clip with a pretrained Wan 2.1 or 2.2, text to video, without training or inversion.

    Inversion is replaced by FlowEdit (arXiv 2412.08629), which moves the clip along the difference of the velocities
    under the target and the source prompt. FAME (arXiv 2510.22960) modulates the target's velocity in the first steps:
    self-attention over all frames is drawn to regions and weighted by time decay, and cross-attention favors the phrase
    of each region, weighted by the similarity of its tokens to the debiasing direction.

    Args:
        tokenizer, text_encoder, vae, transformer: of the checkpoint.
        scheduler: of the checkpoint; a FlowMatchEulerDiscreteScheduler of its shift takes its place if it is another.
        transformer_2: of Wan 2.2, which is used below boundary_ratio of the noise.
        boundary_ratio, expand_timesteps: as the checkpoint's model_index.json has them.
    """

    model_cpu_offload_seq = "text_encoder->transformer->transformer_2->vae"
    _optional_components = ["transformer_2"]
    _callback_tensor_inputs = ["latents"]

    # registered below; diffusers sets them as attributes
    vae: Any
    transformer: Any
    transformer_2: Any
    scheduler: Any
    tokenizer: Any
    text_encoder: Any

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        text_encoder: UMT5EncoderModel,
        vae: AutoencoderKLWan,
        scheduler: SchedulerMixin,
        transformer: WanTransformer3DModel,
        transformer_2: WanTransformer3DModel | None = None,
        boundary_ratio: float | None = None,
        expand_timesteps: bool = False,
    ) -> None:
        super().__init__()
        self.register_modules(
            tokenizer=tokenizer,
            text_encoder=text_encoder,
            vae=vae,
            scheduler=flow_scheduler(scheduler),
            transformer=transformer,
            transformer_2=transformer_2,
        )
        self.register_to_config(boundary_ratio=boundary_ratio, expand_timesteps=expand_timesteps)
        _check_parts(transformer, vae, transformer_2, boundary_ratio)
        self._interrupt = False

    @property
    def pixels_per_token(self) -> int:
        """Pixels along a side of a token: of the VAE's compression and the transformer's patches."""
        return self.vae.config.scale_factor_spatial * self.transformer.config.patch_size[1]

    @property
    def interrupt(self) -> bool:
        """Whether the remaining steps are skipped: a callback may set ``pipeline._interrupt = True``."""
        return self._interrupt

    def maybe_convert_prompt(self, prompt: str, tokenizer: Any) -> str:
        """The prompt itself: Wan has no textual inversion."""
        return prompt

    @torch.no_grad()
    def __call__(
        self,
        frames: Frames,
        prompt: str,
        masks: Mapping[str, Tensor | np.ndarray],
        regions: Mapping[str, str] | None = None,
        source_prompt: str = "",
        negative_prompt: str = "",
        *,
        debias: Sequence[Debias] = (),
        num_inference_steps: int = 50,
        strength: float = 0.66,
        modulated_steps: int | None = None,
        guidance_scale: float = 7.5,
        source_guidance_scale: float = 3.5,
        modulation: Modulation | None = None,
        self_factor: float = SELF_FACTOR,
        cross_factor: float = CROSS_FACTOR,
        power: float = POWER,
        rest: bool = True,
        isolate_phrases: bool = True,
        generator: torch.Generator | None = None,
        latents: Tensor | None = None,
        first_step: int = 0,
        backend: str = "auto",
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: StepCallback | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        **unsupported: Any,
    ) -> FameVideoEditOutput | tuple:
        """Edit a clip.

        Args:
            frames: F images of one size, in the forms that `FameVideoEditPipeline` takes. F is 1 + a multiple of 4, the
                VAE's temporal compression; sides are multiples of `pixels_per_token`, 16 for most checkpoints.
            prompt, masks, regions, source_prompt, negative_prompt, debias, rest, isolate_phrases: as
                `FameVideoEditPipeline` takes them. A prompt has at most 512 tokens.
            num_inference_steps: steps from pure noise.
            strength: share of these steps that the edit takes, in (0, 1]: FlowEdit's n_max, 33 of 50 by default.
            modulated_steps: how many of the steps taken, the first ones, are modulated. None is 30% of them.
            guidance_scale, source_guidance_scale: classifier-free guidance of the target's and the source's velocity,
                used above 1. The defaults are between those that FlowEdit has for its models.
            modulation: of self-attention, for the latent frames, 1 + (F - 1) / 4. None is `Modulation.fame`.
            self_factor, cross_factor, power, backend: as in `FameConfig`.
            generator: draws the noise of each step.
            latents: the latents of an edit after first_step steps, to go on from.
            first_step: how many steps of the edit `latents` have behind them.
            output_type: "pil", "np" (float [F, H, W, 3] in [0, 1]), "pt" (float [F, 3, H, W] in [0, 1]) or "latent"
                ([1, C, f, h, w]).
            return_dict, callback_on_step_end, callback_on_step_end_tensor_inputs, unsupported: as
                `FameVideoEditPipeline` takes them.

        Returns:
            FameVideoEditOutput, or the tuple (frames, injections) without return_dict.

        Raises:
            ValueError, TypeError: an argument has the wrong form or is out of range.
            RuntimeError: the backend cannot run. All errors come before the VAE or the transformer runs.
        """
        checks.refuse_unsupported(unsupported)
        clip = self._check_clip(frames)
        stacked = as_masks(masks, (len(clip), *clip.shape[2:]))
        checks.check_sampling(guidance_scale, 0.0, output_type, callback_on_step_end_tensor_inputs)
        _check_flow(source_guidance_scale, strength, generator)
        checks.check_callback(callback_on_step_end)
        checks.check_flags(isolate_phrases=isolate_phrases, return_dict=return_dict)
        device, dtype = self._execution_device, self.transformer.dtype
        checks.check_backend(backend, device, dtype)
        checks.check_counts(num_inference_steps, None, 1, self.scheduler.config.num_train_timesteps)
        steps = flow_steps(self.scheduler, num_inference_steps, strength, device)
        checks.check_counts(len(steps), modulated_steps, 1, len(steps))
        checks.check_first_step(first_step, len(steps), latents)
        text = self._encode_text(prompt, debias=debias, phrases=regions, names=list(masks), isolate=isolate_phrases)
        source_text = self._encode_text(source_prompt)
        is_guided = max(guidance_scale, source_guidance_scale) > 1
        negative = self._encode_text(negative_prompt) if is_guided else None
        layout = SpaceTimeLayout.from_masks(stacked, rest=rest, temporal=self.vae.config.scale_factor_temporal)
        modulated_steps = round(MODULATED_SHARE * len(steps)) if modulated_steps is None else modulated_steps
        if first_step >= modulated_steps:
            modulated_steps = 0  # none is left to be
        config = FameConfig(
            layout,
            Modulation.fame(layout.num_frames) if modulation is None else modulation,
            token_regions=text.token_regions,
            token_weights=text.token_weights,
            self_factor=self_factor,
            cross_factor=cross_factor,
            power=power,
            active_fraction=modulated_steps / len(steps),
            backend=backend,
        )
        source = self._encode(clip)
        edited = source if latents is None else latents.to(source)
        if edited.shape != source.shape:
            raise ValueError(f"latents must have shape {tuple(source.shape)}, got {tuple(edited.shape)}")
        self._interrupt = False
        self.scheduler.timesteps = steps.timesteps  # those of the edit: its first steps are the first of these
        with apply_fame(self, config) as handle, self.progress_bar(total=len(steps)) as bar:

            def target(x: Tensor, timestep: Tensor) -> Tensor:
                return self._velocity(x, timestep, text, negative, guidance_scale)

            def of_source(x: Tensor, timestep: Tensor) -> Tensor:
                with handle.paused():
                    return self._velocity(x, timestep, source_text, negative, source_guidance_scale)

            for number, step in enumerate(steps):
                if self.interrupt or number < first_step:
                    continue
                noise = randn_tensor(source.shape, generator=generator, device=device, dtype=source.dtype)
                edited = flow_edit_step(edited, source, noise, step, target, of_source)
                checks.check_finite("latents", edited, dtype, f"step {number + 1} of editing")
                if callback_on_step_end is not None:
                    tensors = dict.fromkeys(callback_on_step_end_tensor_inputs, edited)
                    edited = (callback_on_step_end(self, number, step[0], tensors) or {}).get("latents", edited)
                bar.update()
        result = edited if output_type == "latent" else as_output(self._decode(edited), output_type)
        self.maybe_free_model_hooks()
        return FameVideoEditOutput(result, text.injections) if return_dict else (result, text.injections)

    def _encode_text(self, prompt: str, **options: Any) -> EditText:
        """Encode a prompt, padded with zeros as Wan has it."""
        layer = dict(hidden_layer=-1, final_norm=False)
        text = encode_text(self, [(self.tokenizer, self.text_encoder)], prompt, layer=layer, **options)
        missing = WAN_TEXT_TOKENS - text.prompt_embeds.shape[1]
        if missing < 0:
            raise ValueError(
                f"a prompt must have at most {WAN_TEXT_TOKENS} tokens, got {WAN_TEXT_TOKENS - missing}: {prompt!r}"
            )
        embeddings = pad(text.prompt_embeds, (0, 0, 0, missing)).to(self._execution_device, self.transformer.dtype)
        weights = None if text.token_weights is None else pad(text.token_weights, (0, missing), value=1.0)
        return replace(
            text, prompt_embeds=embeddings, token_regions=pad(text.token_regions, (0, missing)), token_weights=weights
        )

    def _velocity(
        self, latents: Tensor, timestep: Tensor, text: EditText, negative: EditText | None, guidance_scale: float
    ) -> Tensor:
        """The model's velocity under guidance, in the dtype of the latents."""
        boundary = self.config.boundary_ratio
        is_late = boundary is not None and timestep < boundary * self.scheduler.config.num_train_timesteps
        model = self.transformer_2 if is_late else self.transformer
        _, _, frames, height, width = latents.shape
        patch = model.config.patch_size
        tokens = (frames // patch[0]) * (height // patch[1]) * (width // patch[2])
        steps = timestep.expand(1, tokens) if self.config.expand_timesteps else timestep.expand(1)

        def call(name: str, embeddings: Tensor) -> Tensor:
            with model.cache_context(name):
                velocity = model(
                    hidden_states=latents.to(model.dtype), timestep=steps, encoder_hidden_states=embeddings,
                    return_dict=False,
                )[0]  # fmt: skip
            return velocity.to(latents.dtype)

        velocity = call("cond", text.prompt_embeds)
        if negative is None or guidance_scale <= 1:
            return velocity
        unconditional = call("uncond", negative.prompt_embeds)
        return unconditional + guidance_scale * (velocity - unconditional)

    def _check_clip(self, frames: Frames) -> Tensor:
        """The clip as float32 [F, 3, H, W] in [0, 1]; ValueError where the model cannot take its size."""
        clip = as_frames("frames", frames)
        count, _, height, width = clip.shape
        multiple, temporal = self.pixels_per_token, self.vae.config.scale_factor_temporal
        if height % multiple or width % multiple:
            raise ValueError(f"frames must have sides that are multiples of {multiple}, got {height} x {width}")
        if (count - 1) % temporal:
            below = count - (count - 1) % temporal
            raise ValueError(
                f"frames must be 1 + a multiple of {temporal}, got {count}: take {below} or {below + temporal}"
            )
        return clip

    def _scaled(self, latents: Tensor, back: bool) -> Tensor:
        """Latents of the VAE as the transformer has them; or back."""
        mean, deviation = (
            torch.tensor(getattr(self.vae.config, name), device=latents.device, dtype=latents.dtype)[
                :, None, None, None
            ]
            for name in ("latents_mean", "latents_std")
        )
        return latents * deviation + mean if back else (latents - mean) / deviation

    def _encode(self, clip: Tensor) -> Tensor:
        """Encode [F, 3, H, W] in [0, 1] to float32 latents [1, C, f, h, w]: the mean of the VAE's distribution."""
        video = (clip * 2 - 1).transpose(0, 1)[None].to(self._execution_device, self.vae.dtype)
        mean = self.vae.encode(video).latent_dist.mean
        checks.check_finite("latents", mean, self.vae.dtype, "the VAE's encoder")
        return self._scaled(mean.float(), back=False)

    def _decode(self, latents: Tensor) -> Tensor:
        """Decode latents [1, C, f, h, w] to [F, 3, H, W], in about [-1, 1]."""
        video = self.vae.decode(self._scaled(latents, back=True).to(self.vae.dtype), return_dict=False)[0]
        checks.check_finite("frames", video, self.vae.dtype, "the VAE's decoder")
        return video[0].transpose(0, 1)


def _check_parts(transformer: Any, vae: Any, transformer_2: Any, boundary_ratio: float | None) -> None:
    """ValueError unless the parts are those of a Wan that makes videos from text."""
    for name, model in (("transformer", transformer), ("transformer_2", transformer_2)):
        if model is None and name == "transformer_2":
            continue
        if not isinstance(model, WanTransformer3DModel):
            raise ValueError(
                f"{name} must be a WanTransformer3DModel, got {type(model).__name__}: other video transformers, and "
                "Wan's VACE, are edited by their own pipelines under apply_fame"
            )
        wanted, channels = vae.config.z_dim, model.config.in_channels
        if channels != wanted or model.config.image_dim is not None:
            raise ValueError(
                f"{name} must make videos from text, with {wanted} channels in, got {channels}: a model that takes an "
                "image or a video besides is edited by its own pipeline under apply_fame"
            )
    if (transformer_2 is None) != (boundary_ratio is None):
        raise ValueError(
            f"boundary_ratio must be given with transformer_2, and only then, got {boundary_ratio!r} and "
            f"{type(transformer_2).__name__}"
        )


def _check_flow(source_guidance_scale: float, strength: float, generator: torch.Generator | None) -> None:
    if not (is_number(source_guidance_scale) and source_guidance_scale >= 0):
        raise ValueError(f"source_guidance_scale must be a finite number >= 0, got {shown(source_guidance_scale)}")
    if not (is_number(strength) and 0 < strength <= 1):
        raise ValueError(f"strength must be a number in (0, 1], got {shown(strength)}")
    if generator is not None and not isinstance(generator, torch.Generator):
        raise TypeError(f"generator must be a torch.Generator or None, got {type(generator).__name__}")

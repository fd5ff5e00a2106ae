"""The pipeline: a clip is inverted under its source prompt and denoised under the target prompt with FAME attention."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers.utils import BaseOutput
from PIL import Image
from torch import Tensor

from fame_accel import bindings
from fame_accel.adapter import FameConfig, FameHandle, apply_fame
from fame_accel.core.layout import SpaceTimeLayout
from fame_accel.core.modulation import Modulation
from fame_accel.fairness import Debias, Injection
from fame_accel.pipeline import frames as media
from fame_accel.pipeline import schedule
from fame_accel.pipeline.noise import Conditions, Control, NoisePredictor, chunks
from fame_accel.pipeline.text import EditText

MODULATED_SHARE = 0.3  # VideoGrain: the first 15 of 50 steps


@dataclass
class FameVideoEditOutput(BaseOutput):
    """frames: the edited clip in the output_type asked for; a list of images, an array or a tensor. injections: what
    each debiasing came to, text encoder by text encoder."""

    frames: list[Image.Image] | np.ndarray | Tensor
    injections: tuple[Injection, ...] = ()


class VideoEdit:
    """An edit of a clip with a pretrained text-to-image diffusion model, without training, after FAME
    (arXiv 2510.22960). What `FameVideoEditPipeline` and `FameVideoEditXLPipeline` have in common.

    The frames are the UNet's batch. Self-attention runs over the tokens of all frames; in the first steps it is
    constrained to regions and weighted by time decay, and cross-attention is drawn to the phrase of each region,
    reweighted by the tokens' similarity to the debiasing direction. The defaults are VideoGrain's (arXiv 2502.17258):
    50 steps of which 15 are modulated, factors 0.3 and 1.0, power 5, guidance 7.5. VideoGrain's code modulates latents
    from half resolution down, as eager attention cannot hold full resolution, and follows optical flow there; here
    full resolution is modulated too (levels=(2, 4, 8) leaves it to each frame by itself). Steps without modulation,
    those of inversion among them, run torch's flash attention over all frames.

    Latents are kept in float32 (float64 for a UNet in float64) whatever the dtype of the models.
    """

    _callback_tensor_inputs = ["latents"]
    _encode_text: Callable[
        ..., EditText
    ]  # each pipeline's own: (prompt, clip_skip, **what encode_text in text.py takes)

    def _start(self) -> None:
        """The rest of a pipeline's construction, once its components are registered."""
        self.vae_scale_factor = 2 ** (len(self.vae.config.block_out_channels) - 1)
        self._guidance_scale = 1.0
        self._num_timesteps = 0
        self._interrupt = False

    def _encode_negative(self, prompt: str, clip_skip: int | None) -> EditText:
        return self._encode_text(prompt, clip_skip)

    def _added_conditions(self, text: EditText, height: int, width: int) -> dict[str, Tensor]:
        """Further inputs [1, ...] of the UNet and ControlNet, by name, for frames of height x width pixels."""
        return {}

    @property
    def guidance_scale(self) -> float:
        return self._guidance_scale

    @property
    def num_timesteps(self) -> int:
        return self._num_timesteps

    @property
    def interrupt(self) -> bool:
        """A callback sets `pipeline._interrupt = True` to leave out the steps that remain."""
        return self._interrupt

    @torch.no_grad()
    def invert(
        self,
        frames: media.Frames,
        source_prompt: str = "",
        *,
        num_inference_steps: int = 50,
        control_frames: media.Frames | None = None,
        controlnet_conditioning_scale: float = 1.0,
        levels: tuple[int, ...] = (1, 2, 4, 8),
        clip_skip: int | None = None,
        latents: Tensor | None = None,
        chunk_size: int = 4,
        backend: str = "auto",
    ) -> Tensor:
        """DDIM inversion of a clip, without guidance: the latents [F, 4, h, w] that a call takes as `latents`.

        For several edits of one clip, which share everything named here. latents: of the clip as it is, in place of
        the VAE's encoding. Other arguments as in `__call__`.
        """
        clip, control_clip = self._check_clip(frames, control_frames)
        self._check_numbers(num_inference_steps, None, chunk_size)
        self._check_latents(latents, clip)
        self.scheduler = schedule.ddim(self.scheduler)  # as in construction: it may have been set to another since
        device = self._execution_device
        scheduler = schedule.inverse(self.scheduler, num_inference_steps, device)
        text = self._encode_text(source_prompt, clip_skip)
        if latents is None:
            latents = self._encode(clip, chunk_size)
        latents = latents.to(device, self._latents_dtype)
        config = FameConfig(
            SpaceTimeLayout.from_masks(torch.zeros(0, len(clip), 1, 1, dtype=torch.bool)),
            Modulation(),
            token_regions=text.token_regions,
            active_fraction=0.0,
            levels=levels,
            backend=backend,
        )
        control = self._control(control_clip, controlnet_conditioning_scale, chunk_size)
        with self._steps(config, num_inference_steps, "inversion") as (handle, bar):
            predict = NoisePredictor(self.unet, handle, len(clip), self._conditions(text, clip), control=control)
            for timestep in scheduler.timesteps:
                latents = scheduler.step(predict(latents, timestep), timestep, latents).prev_sample
                bar.update()
        self.maybe_free_model_hooks()
        return latents

    @torch.no_grad()
    def __call__(
        self,
        frames: media.Frames,
        prompt: str,
        masks: Mapping[str, Tensor | np.ndarray],
        regions: Mapping[str, str] | None = None,
        source_prompt: str = "",
        negative_prompt: str = "",
        *,
        debias: Sequence[Debias] = (),
        num_inference_steps: int = 50,
        modulated_steps: int | None = None,
        guidance_scale: float = 7.5,
        control_frames: media.Frames | None = None,
        controlnet_conditioning_scale: float = 1.0,
        modulation: Modulation | None = None,
        self_factor: float = 0.3,
        cross_factor: float = 1.0,
        power: float = 5.0,
        levels: tuple[int, ...] = (1, 2, 4, 8),
        isolate_phrases: bool = True,
        clip_skip: int | None = None,
        ddim_eta: float = 0.0,
        generator: torch.Generator | None = None,
        latents: Tensor | None = None,
        chunk_size: int = 4,
        split_guidance: bool = False,
        backend: str = "auto",
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable[[Any, int, Tensor, dict[str, Tensor]], dict[str, Tensor]] | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
    ) -> FameVideoEditOutput | tuple:
        """Edit a clip.

        frames: F images of one size, sides multiples of 8 (the VAE's factor): PIL images, a uint8 array or tensor
            [F, H, W, 3], a float array [F, H, W, 3] or a float tensor [F, 3, H, W] in [0, 1].
        prompt: of the edited clip, at most 77 tokens; source_prompt: of the clip as it is.
        masks: by region name a bool or uint8 mask [F, H, W]; regions may overlap. At most 31.
        regions: by region name the phrase of `prompt` that belongs there; a region may have none.
        debias: fairness options, `fame_accel.fairness.Debias`, one per subject. Where one has a debiasing phrase
            (toward), cross-attention is reweighted by the tokens' similarity to the debiasing direction, but for the
            phrases of other regions; where subjects are only balanced it is not, as they are similar to no group.
        num_inference_steps: of inversion and of denoising; the first modulated_steps of the latter are modulated,
            30% of them where None.
        guidance_scale: classifier-free guidance where above 1; split_guidance runs its halves one after the other,
            which takes less memory.
        control_frames: conditioning of the pipeline's ControlNet, as `frames` in form and size; used in inversion too.
        modulation: of self-attention, for F frames; None is `Modulation.fame(F)`. self_factor, cross_factor, power,
            levels, backend: as in `FameConfig`.
        isolate_phrases: the embeddings of a region's phrase are those of the phrase encoded alone, as in VideoGrain,
            so that words of other regions do not leak into it; where phrases overlap, of the longest.
        ddim_eta, generator: share of fresh noise in each step, in [0, 1], and where it is drawn from.
        latents: what `invert` returned for this clip, in place of inversion.
        chunk_size: how many images go through the VAE and the ControlNet at once; the result is the same.
        output_type: "pil", "np" (float [F, H, W, 3] in [0, 1]), "pt" (float [F, 3, H, W] in [0, 1]) or "latent".
        callback_on_step_end: called after each denoising step with (pipeline, step, timestep, {"latents": ...});
            may return {"latents": ...} to go on with.

        Returns FameVideoEditOutput, or the tuple (frames, injections) where return_dict is False. Raises ValueError or
        TypeError for arguments out of range or form, RuntimeError for a backend that cannot run, before the VAE or the
        UNet runs.
        """
        clip, control_clip = self._check_clip(frames, control_frames)
        count, _, height, width = clip.shape
        stacked = media.as_masks(masks, (count, height, width))
        self._check_numbers(num_inference_steps, modulated_steps, chunk_size)
        self._check_call(guidance_scale, ddim_eta, output_type, callback_on_step_end_tensor_inputs)
        self.scheduler = schedule.ddim(self.scheduler)
        device = self._execution_device
        self._check_backend(backend, device)
        self._check_latents(latents, clip)
        if latents is None:
            schedule.inverse(self.scheduler, num_inference_steps, device)  # refuses what it cannot go back along
        text = self._encode_text(
            prompt, clip_skip, debias=debias, phrases=regions, names=list(masks), isolate=isolate_phrases
        )
        negative = None
        if guidance_scale > 1:
            negative = self._conditions(self._encode_negative(negative_prompt, clip_skip), clip)
        self.scheduler.set_timesteps(num_inference_steps, device=device)
        timesteps = self.scheduler.timesteps
        if modulated_steps is None:
            modulated_steps = round(MODULATED_SHARE * num_inference_steps)
        steps = self.scheduler.config.num_train_timesteps
        config = FameConfig(
            SpaceTimeLayout.from_masks(stacked),
            Modulation.fame(count) if modulation is None else modulation,
            token_regions=text.token_regions,
            token_weights=text.token_weights,
            self_factor=self_factor,
            cross_factor=cross_factor,
            power=power,
            cross_size="frame",
            active_fraction=schedule.active_fraction(timesteps, modulated_steps, steps),
            num_train_timesteps=steps,
            levels=levels,
            backend=backend,
        )
        if latents is None:
            latents = self.invert(
                clip, source_prompt, num_inference_steps=num_inference_steps, control_frames=control_clip,
                controlnet_conditioning_scale=controlnet_conditioning_scale, levels=levels, clip_skip=clip_skip,
                chunk_size=chunk_size, backend=backend,
            )  # fmt: skip
        latents = latents.to(device, self._latents_dtype)

        self._guidance_scale, self._num_timesteps, self._interrupt = guidance_scale, num_inference_steps, False
        control = self._control(control_clip, controlnet_conditioning_scale, chunk_size)
        with self._steps(config, num_inference_steps, "editing") as (handle, bar):
            predict = NoisePredictor(
                self.unet,
                handle,
                count,
                self._conditions(text, clip),
                negative,
                guidance_scale,
                split_guidance,
                control,
            )
            for step, timestep in enumerate(timesteps):
                if self.interrupt:
                    continue
                noise = predict(latents, timestep)
                latents = self.scheduler.step(noise, timestep, latents, eta=ddim_eta, generator=generator).prev_sample
                if callback_on_step_end is not None:
                    given = dict.fromkeys(callback_on_step_end_tensor_inputs, latents)
                    latents = (callback_on_step_end(self, step, timestep, given) or {}).get("latents", latents)
                bar.update()

        if getattr(self, "final_offload_hook", None) is not None and self.controlnet is not None:
            self.unet.to("cpu")  # the hooks hand on from model to model, and know of no ControlNet
            self.controlnet.to("cpu")
        result = latents if output_type == "latent" else media.as_output(self._decode(latents, chunk_size), output_type)
        self.maybe_free_model_hooks()
        return FameVideoEditOutput(result, text.injections) if return_dict else (result, text.injections)

    @contextmanager
    def _steps(self, config: FameConfig, steps: int, title: str) -> Iterator[tuple[FameHandle, Any]]:
        with apply_fame(self, config) as handle, self.progress_bar(total=steps) as bar:
            bar.set_description(getattr(self, "_progress_bar_config", {}).get("desc", title))
            yield handle, bar

    @property
    def _latents_dtype(self) -> torch.dtype:
        return torch.float64 if self.unet.dtype == torch.float64 else torch.float32

    def _encode(self, clip: Tensor, chunk_size: int) -> Tensor:
        """[F, 3, H, W] in [0, 1] -> latents [F, 4, h, w]: the mean of the VAE's distribution."""
        device, dtype = self._execution_device, self.vae.dtype
        parts = [
            self.vae.encode((clip[chunk] * 2 - 1).to(device, dtype)).latent_dist.mean
            for chunk in chunks(len(clip), chunk_size)
        ]
        return torch.cat(parts).to(self._latents_dtype) * self.vae.config.scaling_factor

    def _decode(self, latents: Tensor, chunk_size: int) -> Tensor:
        """latents [F, 4, h, w] -> [F, 3, H, W] in about [-1, 1]"""
        scaled = (latents / self.vae.config.scaling_factor).to(self.vae.dtype)
        return torch.cat([self.vae.decode(scaled[c], return_dict=False)[0] for c in chunks(len(scaled), chunk_size)])

    def _conditions(self, text: EditText, clip: Tensor) -> Conditions:
        return Conditions(text.prompt_embeds, self._added_conditions(text, *clip.shape[2:]))

    def _control(self, frames: Tensor | None, scale: float, chunk_size: int) -> Control | None:
        if frames is None:
            return None
        frames = frames.to(self._execution_device, self.controlnet.dtype)
        return Control(self.controlnet, frames, float(scale), chunk_size)

    def _check_clip(self, frames: media.Frames, control_frames: media.Frames | None) -> tuple[Tensor, Tensor | None]:
        """Both as float [F, 3, H, W] in [0, 1]."""
        clip = media.as_frames("frames", frames)
        factor = self.vae_scale_factor
        if clip.shape[2] % factor or clip.shape[3] % factor:
            height, width = clip.shape[2:]
            raise ValueError(f"frames must have sides that are multiples of {factor}, got {height} x {width}")
        if control_frames is None:
            if self.controlnet is not None:
                raise ValueError("control_frames must be given: the pipeline has a ControlNet")
            return clip, None
        if self.controlnet is None:
            raise ValueError("control_frames must be None: the pipeline has no ControlNet")
        control = media.as_frames("control_frames", control_frames)
        if control.shape != clip.shape:
            (f, _, h, w), (cf, _, ch, cw) = clip.shape, control.shape
            raise ValueError(f"control_frames must be like frames, {f} of {h} x {w}, got {cf} of {ch} x {cw}")
        return clip, control

    def _check_latents(self, latents: Tensor | None, clip: Tensor) -> None:
        frames, _, height, width = clip.shape
        factor = self.vae_scale_factor
        wanted = (frames, self.unet.config.in_channels, height // factor, width // factor)
        if latents is not None and tuple(latents.shape) != wanted:
            raise ValueError(f"latents must have shape {wanted} for these frames, got {tuple(latents.shape)}")

    def _check_numbers(self, num_inference_steps: int, modulated_steps: int | None, chunk_size: int) -> None:
        most = self.scheduler.config.num_train_timesteps
        limits = {
            "num_inference_steps": (num_inference_steps, 1, most),
            "modulated_steps": (modulated_steps, 0, num_inference_steps),
            "chunk_size": (chunk_size, 1, None),
        }
        for name, (value, low, high) in limits.items():
            if value is None and name == "modulated_steps":
                continue
            if type(value) is not int or value < low or (high is not None and value > high):
                upto = "" if high is None else f" to {high}"
                raise ValueError(f"{name} must be an int from {low}{upto}, got {value!r}")

    def _check_backend(self, backend: str, device: torch.device) -> None:
        """What would otherwise show at the first modulated step, after the inversion."""
        dtype = self.unet.dtype
        if dtype == torch.float64 and backend != "reference":
            raise ValueError(f"backend must be 'reference' for a UNet in float64, got {backend!r}")
        if backend == "triton" and (reason := bindings.triton_unavailable(device, dtype)) is not None:
            raise RuntimeError(f"backend='triton' cannot run here: {reason}")

    def _check_call(
        self, guidance_scale: float, ddim_eta: float, output_type: str, tensor_inputs: Sequence[str]
    ) -> None:
        if not 0 <= guidance_scale < float("inf"):
            raise ValueError(f"guidance_scale must be finite and >= 0, got {guidance_scale!r}")
        if not 0 <= ddim_eta <= 1:
            raise ValueError(f"ddim_eta must lie in [0, 1], got {ddim_eta!r}")
        if output_type not in media.OUTPUT_TYPES:
            raise ValueError(f"output_type must be one of {', '.join(media.OUTPUT_TYPES)}, got {output_type!r}")
        unknown = set(tensor_inputs) - set(self._callback_tensor_inputs)
        if unknown:
            raise ValueError(f"callback_on_step_end_tensor_inputs may hold 'latents' alone, got {sorted(unknown)}")

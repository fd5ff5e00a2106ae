"""The edit: a clip is inverted under its source prompt, then denoised under the target prompt with FAME attention."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from diffusers.utils import BaseOutput
from PIL import Image
from torch import Tensor

from fame_accel.adapter import FameConfig, FameHandle, apply_fame
from fame_accel.core.layout import SpaceTimeLayout
from fame_accel.core.modulation import Modulation
from fame_accel.core.presets import CROSS_FACTOR, MODULATED_SHARE, POWER, SELF_FACTOR
from fame_accel.fairness import Debias, Injection
from fame_accel.pipeline import checks, schedule
from fame_accel.pipeline.frames import Frames, as_masks, as_output
from fame_accel.pipeline.noise import Conditions, Control, NoisePredictor, chunks
from fame_accel.pipeline.supported import controlnets
from fame_accel.pipeline.text import EditText

StepCallback: TypeAlias = Callable[[Any, int, Tensor, dict[str, Tensor]], dict[str, Tensor] | None]


@dataclass
class FameVideoEditOutput(BaseOutput):
    """The result of an edit.

    Attributes:
        frames: the edited clip as a list of images, an array or a tensor: see output_type.
        injections: the outcome of each debiasing, one text encoder after the other.
    """

    frames: list[Image.Image] | np.ndarray | Tensor
    injections: tuple[Injection, ...] = ()


class VideoEdit:
    """Edits a clip with a pretrained text-to-image diffusion model, without training, after FAME (arXiv 2510.22960).

    This is what `FameVideoEditPipeline` and `FameVideoEditXLPipeline` have in common.

    The frames are the UNet's batch. Self-attention spans the tokens of all frames. In the first steps it is
    constrained to regions and weighted by time decay; cross-attention then favors the phrase of each region, weighted
    by the similarity of its tokens to the debiasing direction. The defaults are VideoGrain's (arXiv 2502.17258):
    50 steps of which 15 are modulated, factors 0.3 and 1.0, power 5, guidance 7.5. VideoGrain's code modulates latents
    from half resolution down, as eager attention does not fit in memory at full resolution, and follows optical flow
    there. Here full resolution is modulated too; with levels=(2, 4, 8), its attention stays within each frame. Steps
    without modulation, those of inversion included, run torch's own attention over all frames.

    Latents are kept in float32 (float64 for a UNet in float64), whatever the dtype of the models.
    """

    # registered by the pipelines; diffusers sets them as attributes
    vae: Any
    unet: Any
    scheduler: Any
    controlnet: Any
    _execution_device: torch.device
    progress_bar: Callable[..., Any]
    maybe_free_model_hooks: Callable[[], None]

    _callback_tensor_inputs = ["latents"]

    def _encode_text(self, prompt: str, clip_skip: int | None, **options: Any) -> EditText:
        """Encode a prompt with the pipeline's text encoders; ``options`` are those of `encode_text`."""
        raise NotImplementedError

    def _finish_construction(self) -> None:
        """Set the attributes that depend on the registered components."""
        self.vae_scale_factor = 2 ** (len(self.vae.config.block_out_channels) - 1)
        self._guidance_scale = 1.0
        self._num_timesteps = 0
        self._interrupt = False

    def _encode_negative(self, prompt: str, clip_skip: int | None) -> EditText:
        """Encode the negative prompt."""
        return self._encode_text(prompt, clip_skip)

    def _added_conditions(self, text: EditText, height: int, width: int) -> dict[str, Tensor]:
        """Return further inputs [1, ...] of the UNet and ControlNet by name, for frames of height x width pixels."""
        return {}

    @property
    def guidance_scale(self) -> float:
        """The guidance of the current or last edit."""
        return self._guidance_scale

    @property
    def num_timesteps(self) -> int:
        """The number of denoising steps of the current or last edit."""
        return self._num_timesteps

    @property
    def interrupt(self) -> bool:
        """Whether the remaining steps are skipped: a callback may set ``pipeline._interrupt = True``."""
        return self._interrupt

    @torch.no_grad()
    def invert(
        self,
        frames: Frames,
        source_prompt: str = "",
        *,
        num_inference_steps: int = 50,
        control_frames: Frames | Sequence[Frames] | None = None,
        controlnet_conditioning_scale: float | Sequence[float] = 1.0,
        levels: tuple[int, ...] = (1, 2, 4, 8),
        clip_skip: int | None = None,
        latents: Tensor | None = None,
        first_step: int = 0,
        chunk_size: int = 4,
        backend: str = "auto",
        callback_on_step_end: StepCallback | None = None,
    ) -> Tensor:
        """Invert a clip with DDIM, without guidance, once for several edits of it.

        Args:
            latents: latents [F, C, h, w] of the unedited clip, used instead of the VAE's encoding; or, with first_step,
                latents after that many steps.
            first_step: how many steps of the inversion `latents` have behind them.
            callback_on_step_end: as in `__call__`, for the steps of the inversion.
            frames, source_prompt, num_inference_steps, control_frames, controlnet_conditioning_scale, levels,
                clip_skip, chunk_size, backend: as in `__call__`; the edits need the same.

        Returns:
            float32 tensor [F, C, h, w], which `__call__` takes as ``latents``.

        Raises:
            ValueError, TypeError: an argument has the wrong form or is out of range.
        """
        clip, control, device = self._check_common(
            frames, control_frames, controlnet_conditioning_scale, num_inference_steps, None, chunk_size, latents
        )
        checks.check_first_step(first_step, num_inference_steps, latents)
        checks.check_clip_skip(clip_skip)
        checks.check_callback(callback_on_step_end)
        checks.check_backend(backend, device, self.unet.dtype)
        config = FameConfig(
            SpaceTimeLayout.from_masks(torch.zeros(0, len(clip), 1, 1, dtype=torch.bool, device="cpu")),
            Modulation(),
            active_fraction=0.0,
            levels=levels,
            backend=backend,
        )
        scheduler = schedule.inverse(self.scheduler, num_inference_steps, device)
        text = self._encode_text(source_prompt, clip_skip)
        if latents is None:
            latents = self._encode(clip, chunk_size)
        latents = latents.to(device, self._latents_dtype)
        with self._installed(config, num_inference_steps, "inversion") as (handle, bar):
            predict = NoisePredictor(self.unet, handle, len(clip), self._conditions(text, clip), control=control)
            for step, timestep in enumerate(scheduler.timesteps):
                if step < first_step:
                    continue
                latents = scheduler.step(predict(latents, timestep), timestep, latents).prev_sample.contiguous()
                checks.check_finite("latents", latents, self.unet.dtype, f"step {step + 1} of inversion")
                if callback_on_step_end is not None:
                    tensors = {"latents": latents}
                    latents = (callback_on_step_end(self, step, timestep, tensors) or {}).get("latents", latents)
                bar.update()
        self.maybe_free_model_hooks()
        return latents

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
        modulated_steps: int | None = None,
        guidance_scale: float = 7.5,
        control_frames: Frames | Sequence[Frames] | None = None,
        controlnet_conditioning_scale: float | Sequence[float] = 1.0,
        modulation: Modulation | None = None,
        self_factor: float = SELF_FACTOR,
        cross_factor: float = CROSS_FACTOR,
        power: float = POWER,
        levels: tuple[int, ...] = (1, 2, 4, 8),
        rest: bool = True,
        isolate_phrases: bool = True,
        clip_skip: int | None = None,
        ddim_eta: float = 0.0,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: Tensor | None = None,
        first_step: int = 0,
        chunk_size: int = 4,
        split_guidance: bool = False,
        backend: str = "auto",
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: StepCallback | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        **unsupported: Any,
    ) -> FameVideoEditOutput | tuple:
        """Edit a clip.

        Args:
            frames: F images of one size, with sides that are multiples of 8 (the VAE's factor): PIL images, a uint8
                array or tensor [F, H, W, 3], a float array [F, H, W, 3] or a float tensor [F, 3, H, W] in [0, 1].
            prompt: describes the edited clip, in at most 77 tokens.
            masks: a mask [F, H, W], bool or uint8, for each region, by name. Regions may overlap; at most 31.
            regions: the phrase of ``prompt`` that belongs to a region, by the region's name. A region may have none.
            source_prompt: describes the clip before the edit.
            negative_prompt: describes what guidance leads away from.
            debias: fairness options (`fame_accel.fairness.Debias`), one per subject. If one has a debiasing phrase
                (toward), cross-attention is weighted by the similarity of the tokens to the debiasing direction,
                except for the phrases of other regions. Subjects that are only balanced are similar to no group, and
                nothing is weighted.
            num_inference_steps: steps of inversion, and of denoising.
            modulated_steps: how many denoising steps, the first ones, are modulated. None is 30% of them.
            guidance_scale: classifier-free guidance, used above 1.
            control_frames: conditioning of the pipeline's ControlNet, of the form and size of ``frames``. It is used
                in inversion too. For several ControlNets, a list of such clips, one for each.
            controlnet_conditioning_scale: weight of the ControlNets, one for all or a list with one for each.
            modulation: of self-attention, for F frames. None is `Modulation.fame(F)`.
            self_factor, cross_factor, power, levels, backend: as in `FameConfig`.
            rest: make the pixels that all masks leave out a region of its own. Without it they are in no region, as
                in VideoGrain: self-attention pulls all that they see toward its lowest logits, and hard masks give
                them nothing to see.
            isolate_phrases: encode the phrase of each region by itself, as VideoGrain does, so that words of other
                regions do not leak into its embeddings. If phrases overlap, the longest one counts.
            clip_skip: number of final layers of the text encoders to skip, as in diffusers.
            ddim_eta: fraction of fresh noise in each step, in [0, 1].
            generator: draws that noise; a list has one for each frame.
            latents: the result of `invert` for this clip, used instead of inverting it; or, with first_step, the
                latents of an edit after that many of its steps.
            first_step: how many steps of the edit `latents` have behind them.
            chunk_size: how many images pass through the VAE and the ControlNet at once. The result does not depend on
                it.
            split_guidance: run the two halves of guidance one after the other, which takes less memory.
            output_type: "pil", "np" (float [F, H, W, 3] in [0, 1]), "pt" (float [F, 3, H, W] in [0, 1]) or "latent".
            return_dict: return a FameVideoEditOutput rather than a tuple.
            callback_on_step_end: called after each denoising step with (pipeline, step, timestep, {"latents": ...}).
                It may return {"latents": ...} to go on with.
            callback_on_step_end_tensor_inputs: the names in that dictionary: ("latents",) or ().
            unsupported: arguments of other pipelines; TypeError says what to do instead.

        Returns:
            FameVideoEditOutput, or the tuple (frames, injections) without return_dict.

        Raises:
            ValueError, TypeError: an argument has the wrong form or is out of range.
            RuntimeError: the backend cannot run. All errors come before the VAE or the UNet runs.
        """
        checks.refuse_unsupported(unsupported)
        clip, control, device = self._check_common(
            frames, control_frames, controlnet_conditioning_scale, num_inference_steps, modulated_steps, chunk_size,
            latents,
        )  # fmt: skip
        count, _, height, width = clip.shape
        stacked = as_masks(masks, (count, height, width))
        checks.check_first_step(first_step, num_inference_steps, latents)
        checks.check_sampling(guidance_scale, ddim_eta, output_type, callback_on_step_end_tensor_inputs)
        checks.check_generator(generator, count)
        checks.check_clip_skip(clip_skip)
        checks.check_callback(callback_on_step_end)
        checks.check_flags(isolate_phrases=isolate_phrases, split_guidance=split_guidance, return_dict=return_dict)
        checks.check_backend(backend, device, self.unet.dtype)
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
        if first_step >= modulated_steps:
            modulated_steps = 0  # none is left to be
        trained_timesteps = self.scheduler.config.num_train_timesteps
        config = FameConfig(
            SpaceTimeLayout.from_masks(stacked, rest=rest),
            Modulation.fame(count) if modulation is None else modulation,
            token_regions=text.token_regions,
            token_weights=text.token_weights,
            self_factor=self_factor,
            cross_factor=cross_factor,
            power=power,
            cross_size="frame",
            active_fraction=schedule.active_fraction(timesteps, modulated_steps, trained_timesteps),
            num_train_timesteps=trained_timesteps,
            levels=levels,
            backend=backend,
        )
        if latents is None:
            latents = self.invert(
                clip, source_prompt, num_inference_steps=num_inference_steps, control_frames=control_frames,
                controlnet_conditioning_scale=controlnet_conditioning_scale, levels=levels, clip_skip=clip_skip,
                chunk_size=chunk_size, backend=backend,
            )  # fmt: skip
        latents = latents.to(device, self._latents_dtype)

        self._guidance_scale, self._num_timesteps, self._interrupt = guidance_scale, num_inference_steps, False
        with self._installed(config, num_inference_steps, "editing") as (handle, bar):
            positive = self._conditions(text, clip)
            predict = NoisePredictor(
                self.unet, handle, count, positive, negative, guidance_scale, split_guidance, control
            )
            for step, timestep in enumerate(timesteps):
                if self.interrupt or step < first_step:
                    continue
                noise = predict(latents, timestep)
                stepped = self.scheduler.step(noise, timestep, latents, eta=ddim_eta, generator=generator)
                latents = stepped.prev_sample.contiguous()  # as they are when they are saved and given again
                checks.check_finite("latents", latents, self.unet.dtype, f"step {step + 1} of editing")
                if callback_on_step_end is not None:
                    tensors = dict.fromkeys(callback_on_step_end_tensor_inputs, latents)
                    latents = (callback_on_step_end(self, step, timestep, tensors) or {}).get("latents", latents)
                bar.update()

        if getattr(self, "_all_hooks", None) and self.controlnet is not None:
            self.controlnet.to("cpu")  # under enable_model_cpu_offload; its hooks offload the models of a chain alone
        result = latents if output_type == "latent" else as_output(self._decode(latents, chunk_size), output_type)
        self.maybe_free_model_hooks()
        return FameVideoEditOutput(result, text.injections) if return_dict else (result, text.injections)

    @contextmanager
    def _installed(self, config: FameConfig, steps: int, title: str) -> Iterator[tuple[FameHandle, Any]]:
        """Install FAME attention for the block, under a progress bar of ``steps`` steps."""
        with apply_fame(self, config) as handle, self.progress_bar(total=steps) as bar:
            bar.set_description(getattr(self, "_progress_bar_config", {}).get("desc", title))
            yield handle, bar

    @property
    def _latents_dtype(self) -> torch.dtype:
        """The dtype in which latents are kept between steps."""
        return torch.float64 if self.unet.dtype == torch.float64 else torch.float32

    def _encode(self, clip: Tensor, chunk_size: int) -> Tensor:
        """Encode [F, 3, H, W] in [0, 1] to latents [F, C, h, w]: the mean of the VAE's distribution."""

        def encode(images: Tensor) -> Tensor:
            return self.vae.encode(images).latent_dist.mean

        images = (clip * 2 - 1).to(self._execution_device)
        return self._through_vae("encoded", encode, images, chunk_size).to(self._latents_dtype) * self._scaling_factor

    def _decode(self, latents: Tensor, chunk_size: int) -> Tensor:
        """Decode latents [F, C, h, w] to [F, 3, H, W], in about [-1, 1]."""

        def decode(scaled: Tensor) -> Tensor:
            return self.vae.decode(scaled, return_dict=False)[0]

        return self._through_vae("decoded", decode, latents / self._scaling_factor, chunk_size)

    @property
    def _scaling_factor(self) -> float:
        return self.vae.config.scaling_factor

    def _through_vae(self, done: str, run: Callable[[Tensor], Tensor], images: Tensor, chunk_size: int) -> Tensor:
        """Run images or latents through the VAE in its dtype, and again in float32 where that overflows.

        Raises:
            RuntimeError: the result is not finite in float32 either.
        """
        result = torch.cat([run(images[chunk].to(self.vae.dtype)) for chunk in chunks(len(images), chunk_size)])
        if bool(result.isfinite().all()):
            return result
        name = str(self.vae.dtype).removeprefix("torch.")
        if self.vae.dtype not in (torch.float16, torch.bfloat16):
            raise RuntimeError(f"what the VAE {done} is infinite or NaN in {name}: its weights may be damaged")
        warnings.warn(f"what the VAE {done} in {name} was infinite or NaN: it is {done} again in float32", stacklevel=2)
        with self._vae_in_float32():
            return self._through_vae(done, run, images, chunk_size)

    @contextmanager
    def _vae_in_float32(self) -> Iterator[None]:
        dtype = self.vae.dtype
        self.vae.to(torch.float32)
        try:
            yield
        finally:
            self.vae.to(dtype)

    def _conditions(self, text: EditText, clip: Tensor) -> Conditions:
        return Conditions(text.prompt_embeds, self._added_conditions(text, *clip.shape[2:]))

    def _check_common(
        self,
        frames: Frames,
        control_frames: Frames | Sequence[Frames] | None,
        controlnet_conditioning_scale: float | Sequence[float],
        num_inference_steps: int,
        modulated_steps: int | None,
        chunk_size: int,
        latents: Tensor | None,
    ) -> tuple[Tensor, Control | None, torch.device]:
        """Check what `invert` and `__call__` have in common, and make sure that the scheduler is DDIM's.

        Returns:
            The clip as float32 [F, 3, H, W] in [0, 1], the ControlNets if there are any, and the device that computes.
        """
        checks.check_intact(self.unet)
        factor = self.vae_scale_factor
        networks = controlnets(self)
        clip, controls = checks.check_clip(frames, control_frames, factor, len(networks))
        scales = checks.as_scales(controlnet_conditioning_scale, max(1, len(networks)))
        trained_timesteps = self.scheduler.config.num_train_timesteps
        checks.check_counts(num_inference_steps, modulated_steps, chunk_size, trained_timesteps)
        count, _, height, width = clip.shape
        checks.check_latents(latents, (count, self.unet.config.in_channels, height // factor, width // factor))
        self.scheduler = schedule.ddim(self.scheduler)  # it may have been replaced since construction
        device = self._execution_device
        moved = [one.to(device, network.dtype) for one, network in zip(controls, networks, strict=True)]
        return clip, Control(networks, moved, scales, chunk_size) if networks else None, device

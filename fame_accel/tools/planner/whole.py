"""What a whole edit holds at its peak: weights, activations and attention; and what lowers it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from fame_accel.core.limits import VAE_SCALE_FACTOR, width_x_height
from fame_accel.tools.planner import MOST_FRAMES
from fame_accel.tools.planner.estimate import Setting, last_that_fits, level_bytes, refuses
from fame_accel.tools.planner.footprint import Footprint


@dataclass(frozen=True)
class WholeEdit:
    """An edit with what the flags of `fame-accel edit` of these names change.

    setting: of its self-attention; with split_guidance the halves of guidance run one after the other.
    chunk_size: images that pass through the VAE at once.
    offload: whether a network is on the GPU only while it runs.
    """

    setting: Setting
    footprint: Footprint
    split_guidance: bool = False
    chunk_size: int = 4
    offload: bool = False

    def peak_bytes(self) -> int:
        """The most bytes at once, a ControlNet and what CUDA and the allocator take for themselves left out."""
        held = self._network_bytes()
        weights = {name: self._element(name) * number for name, number in self.footprint.parameters.items()}
        if self.offload:
            return max(number + held.get(name, 0) for name, number in weights.items())
        return sum(weights.values()) + max(held.values())

    def most_frames(self, memory: float) -> int:
        """The largest number of frames, of up to MOST_FRAMES, that `memory` bytes hold and the backend takes."""

        def fits(frames: int) -> bool:
            edit = replace(self, setting=replace(self.setting, frames=frames))
            return refuses(edit.setting) is None and edit.peak_bytes() <= memory

        return last_that_fits(fits, MOST_FRAMES)

    def savings(self) -> dict[str, WholeEdit]:
        """What may still be changed to save memory, each by itself and last all flags together, by its words."""
        changes: dict[str, dict[str, bool | int]] = {}
        if self.setting.guidance and not self.split_guidance:
            changes["--split-guidance"] = {"split_guidance": True}
        if self.chunk_size > 1:
            changes["--chunk-size 1"] = {"chunk_size": 1}
        if not self.offload:
            changes["--offload"] = {"offload": True}
        edits = {words: replace(self, **change) for words, change in changes.items()}  # type: ignore[arg-type]
        if len(changes) > 1:
            together = {name: value for change in changes.values() for name, value in change.items()}
            edits[" ".join(changes)] = replace(self, **together)  # type: ignore[arg-type]
        sides = [side // 2 // VAE_SCALE_FACTOR * VAE_SCALE_FACTOR for side in self.setting.size]
        size = (max(VAE_SCALE_FACTOR, sides[0]), max(VAE_SCALE_FACTOR, sides[1]))
        if size != self.setting.size:
            edits[f"--size {width_x_height(size)}"] = replace(self, setting=replace(self.setting, size=size))
        if self.setting.frames > 1:
            frames = self.setting.frames // 2
            edits[f"--frames {frames}"] = replace(self, setting=replace(self.setting, frames=frames))
        return edits

    def _network_bytes(self) -> dict[str, int]:
        """What UNet and VAE hold beside their weights while they run."""
        setting = self.setting
        height, width = (-(-side // VAE_SCALE_FACTOR) for side in setting.size)
        together = setting.guidance and not self.split_guidance
        per_element = self._element("unet") * height * width * setting.frames * (2 if together else 1)
        call = replace(setting, guidance=together)
        beside = [
            per_element * self.footprint.beside(level) + level_bytes(call, level, setting.backend)
            for level in setting.network
        ]
        pixels = self._element("vae") * setting.size[0] * setting.size[1]
        images = min(self.chunk_size, setting.frames)
        decoding = images * self.footprint.decoder + 2 * 3 * setting.frames  # the frames, in parts and joined
        vae = pixels * max(decoding, images * self.footprint.encoder)
        return {"unet": round(max(per_element * self.footprint.unet, *beside)), "vae": round(vae)}

    def _element(self, network: str) -> int:
        """Bytes of an element of a network."""
        if network == "vae" and self.footprint.upcast and self.setting.dtype == "float16":
            return 4
        return int(getattr(torch, self.setting.dtype).itemsize)


def in_bytes(number: float) -> str:
    """A number of bytes with three digits and the largest unit that leaves it at least 1."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if number < 1000 or unit == "TiB":
            break
        number /= 1024
    return f"{number:.0f} {unit}" if number >= 100 or unit == "B" else f"{number:.3g} {unit}"

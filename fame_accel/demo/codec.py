"""A linear stand-in for the VAE, for runs with random weights."""

from dataclasses import dataclass

import torch

from fame_accel.media.frames import check_frames, to_bytes

PATCH = 8
CHANNELS = 4


@dataclass(frozen=True, eq=False)
class PatchCodec:
    """The best linear codec with 4 channels for the 8x8 RGB patches of a clip: their principal components.

    Its latents have the shape of those of Stable Diffusion's VAE (8 times smaller, 4 channels, unit variance) but not
    the quality: of an 8x8 patch little more than the mean color and a gradient remains.
    """

    mean: torch.Tensor  # [192]
    components: torch.Tensor  # [4, 192], orthonormal
    deviation: torch.Tensor  # [4], standard deviation of the clip's patches along each component

    @classmethod
    def fit(cls, frames: torch.Tensor) -> "PatchCodec":
        """Fit the codec to a clip.

        Args:
            frames: uint8 tensor [F, H, W, 3], H and W multiples of 8.

        Raises:
            ValueError: the shape or dtype is wrong, or the patches vary in fewer than 4 dimensions.
        """
        patches = _patches(frames).double().flatten(0, 2)  # [F * H/8 * W/8, 192]
        mean = patches.mean(0)
        centered = patches - mean
        variances, vectors = torch.linalg.eigh(centered.T @ centered / len(patches))  # ascending
        variances, components = variances[-CHANNELS:].flip(0), vectors[:, -CHANNELS:].flip(1).T
        if variances[-1] < 1e-6:
            raise ValueError(f"frames must have patches that vary in {CHANNELS} dimensions or more")
        # eigh does not determine the signs; fixing them gives equal clips equal latents on every machine.
        largest = components.gather(1, components.abs().argmax(1, keepdim=True))
        components = components * largest.sign()
        return cls(mean.float(), components.float(), variances.sqrt().float())

    def encode(self, frames: torch.Tensor) -> torch.Tensor:
        """Encode uint8 [F, H, W, 3] to float32 latents [F, 4, H/8, W/8].

        On the fitted clip each channel has mean 0 and variance 1. Raises ValueError unless H and W are multiples of 8.
        """
        mean, components, deviation = self._on(frames.device)
        latents = (_patches(frames) - mean) @ components.T / deviation  # [F, H/8, W/8, 4]
        return latents.permute(0, 3, 1, 2).contiguous()

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Decode floating-point latents [F, 4, h, w] to uint8 [F, 8h, 8w, 3]; ValueError for another shape."""
        if latents.ndim != 4 or latents.shape[1] != CHANNELS:
            raise ValueError(f"latents must be [F, {CHANNELS}, h, w], got {list(latents.shape)}")
        mean, components, deviation = self._on(latents.device)
        frames, _, height, width = latents.shape
        patches = (latents.float().permute(0, 2, 3, 1) * deviation) @ components + mean  # [F, h, w, 192]
        pixels = patches.view(frames, height, width, PATCH, PATCH, 3).transpose(2, 3)
        pixels = pixels.reshape(frames, height * PATCH, width * PATCH, 3)
        return to_bytes(pixels, white=255)

    def _on(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return self.mean.to(device), self.components.to(device), self.deviation.to(device)


def psnr(frames: torch.Tensor, reference: torch.Tensor) -> float:
    """Return the peak signal-to-noise ratio of two uint8 videos of one shape, in dB; infinite if they are equal."""
    if frames.shape != reference.shape:
        raise ValueError(f"frames must have the shape of reference, {list(reference.shape)}, got {list(frames.shape)}")
    error = (frames.double() - reference.double()).square().mean()
    return float(10 * torch.log10(255**2 / error))


def _patches(frames: torch.Tensor) -> torch.Tensor:
    """Cut uint8 [F, H, W, 3] into float32 patches [F, H/8, W/8, 192]."""
    check_frames(frames)
    count, height, width, _ = frames.shape
    if height % PATCH or width % PATCH:
        raise ValueError(f"frames must have a height and a width that are multiples of {PATCH}, got {height}x{width}")
    grid = frames.reshape(count, height // PATCH, PATCH, width // PATCH, PATCH, 3).transpose(2, 3)
    return grid.reshape(count, height // PATCH, width // PATCH, -1).float()

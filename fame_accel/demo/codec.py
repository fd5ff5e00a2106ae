"""A linear stand-in for the VAE, for runs with random weights."""

from dataclasses import dataclass

import torch

from fame_accel.media.frames import check_frames, to_bytes

PATCH = 8
CHANNELS = 4


@dataclass(frozen=True, eq=False)
class PatchCodec:
    """The best linear codec of a clip's 8x8 RGB patches with 4 channels: their principal components.

    It has the shape of Stable Diffusion's VAE (8 times smaller, 4 channels, unit variance) but nothing of its
    quality: an 8x8 patch keeps little more than its mean colour and a gradient.
    """

    mean: torch.Tensor  # [192]
    components: torch.Tensor  # [4, 192], orthonormal
    deviation: torch.Tensor  # [4], of the clip's patches along each component

    @classmethod
    def fit(cls, frames: torch.Tensor) -> "PatchCodec":
        """Fit the codec to a clip.

        Args:
            frames: uint8 tensor [F, H, W, 3], H and W multiples of 8.

        Raises:
            ValueError: another shape or dtype, or a clip too plain to have 4 components.
        """
        patches = _patches(frames).double().flatten(0, 2)  # [F * H/8 * W/8, 192]
        mean = patches.mean(0)
        centred = patches - mean
        variances, vectors = torch.linalg.eigh(centred.T @ centred / len(patches))  # ascending
        variances, components = variances[-CHANNELS:].flip(0), vectors[:, -CHANNELS:].flip(1).T
        if variances[-1] < 1e-6:
            raise ValueError(f"the clip's patches vary in fewer than {CHANNELS} ways: nothing to fit")
        # eigh leaves the signs open: fix them, so that equal clips give equal latents everywhere
        largest = components.gather(1, components.abs().argmax(1, keepdim=True))
        components = components * largest.sign()
        return cls(mean.float(), components.float(), variances.sqrt().float())

    def encode(self, frames: torch.Tensor) -> torch.Tensor:
        """Encode uint8 [F, H, W, 3] to float32 latents [F, 4, H/8, W/8].

        On the fitted clip each channel has mean 0 and variance 1. Raises ValueError unless H and W are
        multiples of 8.
        """
        mean, components, deviation = self._on(frames.device)
        latents = (_patches(frames) - mean) @ components.T / deviation  # [F, H/8, W/8, 4]
        return latents.permute(0, 3, 1, 2).contiguous()

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Decode floating-point latents [F, 4, h, w] to uint8 [F, 8h, 8w, 3], clipped to 0 to 255.

        Raises ValueError for another shape.
        """
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
    """Peak signal-to-noise ratio between two uint8 videos of one shape, in dB; infinite if they are equal."""
    if frames.shape != reference.shape:
        raise ValueError(f"the videos differ in shape: {list(frames.shape)} and {list(reference.shape)}")
    error = (frames.double() - reference.double()).square().mean()
    return float(10 * torch.log10(255**2 / error))


def _patches(frames: torch.Tensor) -> torch.Tensor:
    """Cut uint8 [F, H, W, 3] into float32 patches [F, H/8, W/8, 192]."""
    check_frames(frames)
    count, height, width, _ = frames.shape
    if height % PATCH or width % PATCH:
        raise ValueError(f"the height and width must be multiples of {PATCH}, got {height}x{width}")
    grid = frames.reshape(count, height // PATCH, PATCH, width // PATCH, PATCH, 3).transpose(2, 3)
    return grid.reshape(count, height // PATCH, width // PATCH, -1).float()

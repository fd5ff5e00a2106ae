"""Temporal consistency: the warping error along the motion of the source, and similarity of consecutive frames."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import grid_sample, normalize

from fame_accel.evaluate.checks import check_pair
from fame_accel.media.frames import check_frames
from fame_accel.media.packages import require

MIN_SIDE = 12  # pixels; OpenCV's DIS flow refuses smaller frames
# Sundaram et al., "Dense point trajectories by GPU-accelerated large displacement optical flow", ECCV 2010, eq. 5
RELATIVE, ABSOLUTE = 0.01, 0.5


@dataclass(frozen=True)
class Motion:
    """Optical flow of a clip, for each of its F - 1 pairs of consecutive frames.

    forward, backward: float32 [F - 1, H, W, 2], offsets (x, y) in pixels from frame t to frame t + 1, and from t + 1 to
        t.
    seen_forward, seen_backward: bool [F - 1, H, W], True for pixels of frame t (of t + 1) that the other frame shows
        too, which is where the two flows agree: |f + b|^2 <= 0.01 * (|f|^2 + |b|^2) + 0.5.
    """

    forward: Tensor
    backward: Tensor
    seen_forward: Tensor
    seen_backward: Tensor


def clip_motion(frames: Tensor) -> Motion:
    """Compute the optical flow of the gray frames with OpenCV's DIS (medium preset; Kroeger et al., ECCV 2016).

    Args:
        frames: uint8 [F, H, W, 3], RGB; at least 2 frames, at least 12 pixels high and wide.

    Raises:
        ValueError: the shape or dtype is wrong, or there are too few frames or pixels.
        ImportError: OpenCV is missing.
    """
    check_frames(frames)
    if len(frames) < 2 or min(frames.shape[1:3]) < MIN_SIDE:
        wanted = f"at least 2 frames of {MIN_SIDE}x{MIN_SIDE} pixels"
        raise ValueError(f"optical flow needs {wanted}, got {list(frames.shape)}")
    cv2 = require("cv2", extra="evaluate")
    dis = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    gray = [cv2.cvtColor(frame.numpy(), cv2.COLOR_RGB2GRAY) for frame in frames.cpu().contiguous()]
    pairs = list(zip(gray, gray[1:], strict=False))
    forward = torch.stack([torch.from_numpy(dis.calc(now, after, None)) for now, after in pairs])
    backward = torch.stack([torch.from_numpy(dis.calc(after, now, None)) for now, after in pairs])
    return Motion(forward, backward, _agree(forward, backward), _agree(backward, forward))


def warp_error(frames: Tensor, motion: Motion) -> float:
    """Return the mean squared difference of each frame from its neighbor warped onto it, in [0, 1]; 0 is steady.

    This is the warping error of Lai et al., "Learning Blind Video Temporal Consistency", ECCV 2018: the mean over
    pixels seen in both frames, then over pairs of frames. It differs in that the three channels are averaged where
    theirs are summed, and that both directions of each pair count. Pixels have values in [0, 1]. Measure an edit along
    the motion of its SOURCE and compare it with the source's own error: blur lowers the error, so lower is not always
    better.

    Args:
        frames: uint8 [F, H, W, 3], RGB.
        motion: of a clip with the same F, H and W, as `clip_motion` gives it.

    Returns:
        The error; NaN where no pixel of any pair is seen in both frames.

    Raises:
        ValueError: the shape or dtype is wrong.
    """
    check_frames(frames)
    pairs, height, width, _ = motion.forward.shape
    if frames.shape[:3] != (pairs + 1, height, width):
        wanted = [pairs + 1, height, width, 3]
        raise ValueError(f"frames must be {wanted} to fit the motion, got {list(frames.shape)}")
    images = frames.cpu().permute(0, 3, 1, 2).float() / 255
    errors = [
        *_errors(images[:-1], images[1:], motion.forward, motion.seen_forward),
        *_errors(images[1:], images[:-1], motion.backward, motion.seen_backward),
    ]
    return sum(errors) / len(errors) if errors else float("nan")


def warp_errors(source: Tensor, edited: Tensor) -> tuple[float, float]:
    """Return the `warp_error` of the source and of the edited clip, both along the motion of the source."""
    check_pair(source, edited)
    motion = clip_motion(source)
    return warp_error(source, motion), warp_error(edited, motion)


def frame_similarity(embeddings: Tensor) -> float:
    """Return the mean cosine of the embeddings of consecutive frames, in [-1, 1].

    Args:
        embeddings: floating [F, C], one per frame, F at least 2; they need not be normalized.

    Raises:
        ValueError: the shape or dtype is wrong.
    """
    if embeddings.dim() != 2 or len(embeddings) < 2 or not embeddings.is_floating_point():
        raise ValueError(
            f"embeddings must be floating [F, C] of at least 2 frames, got {embeddings.dtype} {list(embeddings.shape)}"
        )
    unit = normalize(embeddings.double(), dim=1)
    return (unit[1:] * unit[:-1]).sum(1).mean().item()


def _errors(targets: Tensor, neighbors: Tensor, flow: Tensor, seen: Tensor) -> list[float]:
    """Mean squared error over the seen pixels of each pair that has any."""
    warped = _warp(neighbors, flow)
    squares = (targets - warped).double().square().mean(1)
    return [pair[mask].mean().item() for pair, mask in zip(squares, seen, strict=True) if mask.any()]


def _warp(images: Tensor, flow: Tensor) -> Tensor:
    """Sample images [N, C, H, W] bilinearly where the flow [N, H, W, 2] points; outside the frame, at its edge."""
    target = _target(flow)
    sides = torch.tensor([flow.shape[2] - 1, flow.shape[1] - 1], dtype=flow.dtype)
    return grid_sample(images, 2 * target / sides - 1, mode="bilinear", padding_mode="border", align_corners=True)


def _target(flow: Tensor) -> Tensor:
    """The position (x, y) that the flow of each pixel points to: [N, H, W, 2]."""
    rows, columns = torch.meshgrid(torch.arange(flow.shape[1]), torch.arange(flow.shape[2]), indexing="ij")
    return torch.stack([columns, rows], dim=-1) + flow


def _agree(flow: Tensor, reverse: Tensor) -> Tensor:
    """Whether the flow of a pixel stays in the frame and the reverse flow leads back to it: bool [N, H, W]."""
    target = _target(flow)
    sides = torch.tensor([flow.shape[2] - 1, flow.shape[1] - 1])
    inside = ((target >= 0) & (target <= sides)).all(-1)
    back = _warp(reverse.permute(0, 3, 1, 2), flow).permute(0, 2, 3, 1)
    limit = RELATIVE * (flow.square().sum(-1) + back.square().sum(-1)) + ABSOLUTE
    return inside & ((flow + back).square().sum(-1) <= limit)

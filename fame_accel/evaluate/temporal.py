"""Temporal consistency: the warping error along the source's motion, and the similarity of consecutive frames."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import grid_sample, normalize

from fame_accel.evaluate.checks import check_pair
from fame_accel.media.frames import check_frames
from fame_accel.media.packages import require

MIN_SIDE = 12  # below it OpenCV's DIS flow refuses
# Sundaram et al., "Dense point trajectories by GPU-accelerated large displacement optical flow", ECCV 2010, eq. 5
RELATIVE, ABSOLUTE = 0.01, 0.5


@dataclass(frozen=True)
class Motion:
    """Optical flow of a clip, for each of its F - 1 pairs of frames.

    forward, backward: float32 [F - 1, H, W, 2], where the pixels of frame t lie in frame t + 1, and those of t + 1
        in t: offsets (x, y) in pixels.
    seen_forward, seen_backward: bool [F - 1, H, W], True on pixels of frame t (of t + 1) that the other frame shows
        too: both flows agree there, to a hundredth of their length and half a pixel, squared.
    """

    forward: Tensor
    backward: Tensor
    seen_forward: Tensor
    seen_backward: Tensor


def clip_motion(frames: Tensor) -> Motion:
    """Optical flow by OpenCV's DIS (medium preset; Kroeger et al., ECCV 2016) on the grey frames.

    Args:
        frames: uint8 [F, H, W, 3], RGB; at least 2 frames, at least 12 pixels high and wide.

    Raises:
        ValueError: another shape or dtype, or too few frames or pixels.
        ImportError: OpenCV is missing.
    """
    check_frames(frames)
    if len(frames) < 2 or min(frames.shape[1:3]) < MIN_SIDE:
        wanted = f"at least 2 frames of {MIN_SIDE}x{MIN_SIDE} pixels"
        raise ValueError(f"optical flow needs {wanted}, got {list(frames.shape)}")
    cv2 = require("cv2", extra="evaluate")
    dis = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    grey = [cv2.cvtColor(frame.numpy(), cv2.COLOR_RGB2GRAY) for frame in frames.cpu().contiguous()]
    pairs = list(zip(grey, grey[1:], strict=False))
    forward = torch.stack([torch.from_numpy(dis.calc(now, after, None)) for now, after in pairs])
    backward = torch.stack([torch.from_numpy(dis.calc(after, now, None)) for now, after in pairs])
    return Motion(forward, backward, _agree(forward, backward), _agree(backward, forward))


def warp_error(frames: Tensor, motion: Motion) -> float:
    """Mean squared difference of each frame from its neighbour warped onto it, in [0, 1]; 0 is perfectly steady.

    The warping error of Lai et al., "Learning Blind Video Temporal Consistency", ECCV 2018: over the pixels seen in
    both frames, then over the pairs of frames. Theirs sums the squares of the three channels, this averages
    them (a third of theirs); and this takes both directions of every pair. Values are of pixels in [0, 1].
    Judge an edit along the motion of its SOURCE, and beside the source's own error: a blurred clip has a
    lower one, so that lower is not always better.

    Args:
        frames: uint8 [F, H, W, 3], RGB.
        motion: of a clip with the same F, H and W.

    Returns:
        The error; NaN where no pixel of any pair is seen in both frames.

    Raises:
        ValueError: another shape or dtype.
    """
    check_frames(frames)
    pairs, height, width, _ = motion.forward.shape
    if frames.shape[:3] != (pairs + 1, height, width):
        raise ValueError(f"frames must be [{pairs + 1}, {height}, {width}, 3] as the motion, got {list(frames.shape)}")
    images = frames.cpu().permute(0, 3, 1, 2).float() / 255
    errors = [
        *_errors(images[:-1], images[1:], motion.forward, motion.seen_forward),
        *_errors(images[1:], images[:-1], motion.backward, motion.seen_backward),
    ]
    return sum(errors) / len(errors) if errors else float("nan")


def warp_errors(source: Tensor, edited: Tensor) -> tuple[float, float]:
    """:func:`warp_error` of the source and of the edited clip, both along the motion of the source."""
    check_pair(source, edited)
    motion = clip_motion(source)
    return warp_error(source, motion), warp_error(edited, motion)


def frame_similarity(embeddings: Tensor) -> float:
    """Mean cosine of the embeddings of consecutive frames, in [-1, 1].

    Args:
        embeddings: floating [F, C], one a frame, F at least 2, of any length.

    Raises:
        ValueError: another shape or dtype.
    """
    if embeddings.dim() != 2 or len(embeddings) < 2 or not embeddings.is_floating_point():
        raise ValueError(
            f"embeddings must be floating [F, C] of at least 2 frames, got {embeddings.dtype} {list(embeddings.shape)}"
        )
    unit = normalize(embeddings.double(), dim=1)
    return (unit[1:] * unit[:-1]).sum(1).mean().item()


def _errors(targets: Tensor, neighbours: Tensor, flow: Tensor, seen: Tensor) -> list[float]:
    """Mean squared error over the seen pixels of each pair, leaving out pairs without any."""
    warped = _warp(neighbours, flow)
    squares = (targets - warped).double().square().mean(1)
    return [pair[mask].mean().item() for pair, mask in zip(squares, seen, strict=True) if mask.any()]


def _warp(images: Tensor, flow: Tensor) -> Tensor:
    """Read images [N, C, H, W] where flow [N, H, W, 2] points to, bilinearly; beyond the edge, the edge."""
    target = _target(flow)
    sides = torch.tensor([flow.shape[2] - 1, flow.shape[1] - 1], dtype=flow.dtype)
    return grid_sample(images, 2 * target / sides - 1, mode="bilinear", padding_mode="border", align_corners=True)


def _target(flow: Tensor) -> Tensor:
    rows, columns = torch.meshgrid(torch.arange(flow.shape[1]), torch.arange(flow.shape[2]), indexing="ij")
    return torch.stack([columns, rows], dim=-1) + flow


def _agree(flow: Tensor, reverse: Tensor) -> Tensor:
    """True on pixels whose flow stays in the frame and which the reverse flow brings back: bool [N, H, W]."""
    target = _target(flow)
    sides = torch.tensor([flow.shape[2] - 1, flow.shape[1] - 1])
    inside = ((target >= 0) & (target <= sides)).all(-1)
    back = _warp(reverse.permute(0, 3, 1, 2), flow).permute(0, 2, 3, 1)
    limit = RELATIVE * (flow.square().sum(-1) + back.square().sum(-1)) + ABSOLUTE
    return inside & ((flow + back).square().sum(-1) <= limit)

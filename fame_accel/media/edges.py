"""Edges of a video, the conditioning of a ControlNet."""

import torch

from fame_accel.media.frames import check_frames
from fame_accel.media.packages import require

LOW, HIGH = 100, 200  # thresholds of the gradient, the usual ones for ControlNets trained on Canny edges


def canny_edges(frames: torch.Tensor) -> torch.Tensor:
    """Detect Canny edges in each frame (thresholds 100 and 200), drawn in white on black.

    Args:
        frames: uint8 tensor [F, H, W, 3], RGB.

    Returns:
        uint8 tensor [F, H, W, 3], 0 or 255, on the CPU.

    Raises:
        ValueError: ``frames`` has the wrong shape or dtype.
        ImportError: OpenCV is missing.
    """
    check_frames(frames)
    cv2 = require("cv2")
    edges = []
    for frame in frames.cpu():
        gray = cv2.cvtColor(frame.contiguous().numpy(), cv2.COLOR_RGB2GRAY)
        edges.append(torch.from_numpy(cv2.Canny(gray, LOW, HIGH)))
    return torch.stack(edges)[..., None].expand(-1, -1, -1, 3).contiguous()

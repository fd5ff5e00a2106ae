"""Masks of people, from mediapipe's selfie segmentation network run by OpenCV."""

import torch
from torch.nn.functional import interpolate

from fame_accel.media.frames import check_frames
from fame_accel.media.packages import packaged_file, require

NETWORK = ("mediapipe", "0.10.21", "mediapipe/modules/selfie_segmentation/selfie_segmentation.tflite")
INPUT_SIZE = 256  # pixels a side, fixed in the network


def person_masks(frames: torch.Tensor) -> torch.Tensor:
    """Segment the people of each frame from the background.

    Args:
        frames: uint8 tensor [F, H, W, 3], RGB.

    Returns:
        bool tensor [F, H, W] on the CPU, True on people.

    Raises:
        ValueError: ``frames`` has the wrong shape or dtype.
        RuntimeError: a frame shows no person.
        ImportError: OpenCV or mediapipe's files are missing.
    """
    check_frames(frames)
    cv2 = require("cv2")
    network = cv2.dnn.readNetFromTFLite(str(packaged_file(*NETWORK)))

    pictures = frames.cpu().permute(0, 3, 1, 2).float() / 255
    pictures = interpolate(pictures, size=(INPUT_SIZE, INPUT_SIZE), mode="bilinear", antialias=True)
    probabilities = []
    for picture in pictures.split(1):  # the network's batch size is fixed at 1
        network.setInput(picture.contiguous().numpy())
        probabilities.append(torch.from_numpy(network.forward().copy()))  # [1, 1, 256, 256]

    height, width = frames.shape[1:3]
    resized = interpolate(torch.cat(probabilities), size=(height, width), mode="bilinear", antialias=True)
    masks = resized[:, 0] > 0.5
    empty = (~masks.flatten(1).any(1)).nonzero().flatten().tolist()
    if empty:
        raise RuntimeError(f"no person found in frames {empty}: give --masks, or take other frames")
    return masks


def region_masks(frames: torch.Tensor) -> tuple[torch.Tensor, list[str]]:
    """Split each frame into two regions that cover it without overlap: the person and the background.

    Args:
        frames: uint8 tensor [F, H, W, 3], RGB.

    Returns:
        bool tensor [R, F, H, W] on the CPU, and the R names: "person", "background".

    Raises:
        ValueError, RuntimeError, ImportError: as :func:`person_masks`.
    """
    person = person_masks(frames)
    return torch.stack([person, ~person]), ["person", "background"]

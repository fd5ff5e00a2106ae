"""Inputs and flags of a small edit, for the tests of `fame-accel edit`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from fame_accel.cli import main
from fame_accel.media.clip import load_clip
from fame_accel.media.writing import write_video

SIZE, FRAMES = 64, 2


def make_inputs(home: Path) -> None:
    """Write a checkpoint, a ControlNet, a video of 6 frames of 128x128 and its masks."""
    assert main(["random-checkpoint", str(home / "model"), "--controlnet", str(home / "controlnet")]) == 0
    write_video(home / "clip.mp4", load_clip(6, 128), 7.5)
    man = np.zeros((6, 128, 128), np.uint8)
    man[:, 20:, 30:100] = 1
    np.savez(home / "masks.npz", man=man, car=1 - man)


def flags(home: Path, out_: Path, **changed: Any) -> list[str]:
    """Flags of a small edit; those changed are replaced, or left out for None."""
    given = dict(
        model=home / "model", video=home / "clip.mp4", masks=home / "masks.npz", prompt="a female doctor in a car",
        source_prompt="a man in a car", region=["man=female doctor", "car=car"], frames=FRAMES, stride=3, size=SIZE,
        steps=2, modulated_steps=1, device="cpu", out=out_,
    )  # fmt: skip
    result = []
    for name, value in {**given, **changed}.items():
        for one in value if isinstance(value, list) else [value]:
            if one is not None and one is not False:
                result += ["--" + name.replace("_", "-"), *([] if one is True else [str(one)])]
    return result


def refusal(home: Path, capsys: Any, **changed: Any) -> str:
    """The one line with which an edit ends that is refused."""
    capsys.readouterr()
    assert main(["edit", *flags(home, home / "refused.mp4", **changed)]) == 2
    line = capsys.readouterr().err
    assert line.startswith("fame-accel: ") and line.count("\n") == 1, line
    return line

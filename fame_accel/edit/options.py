"""What an edit is asked to do, checked as far as it goes without reading a file."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from fame_accel.core.attention import BACKENDS
from fame_accel.core.modulation import Modulation

DTYPES = ("float32", "float16", "bfloat16")
MEASURED = "auto"  # --debias SUBJECT=auto: toward the minority as measured in the text encoder
CANNY = "canny"
MODULATIONS = {
    "fame": Modulation.fame,
    "videograin": Modulation.videograin,
    "region-mask": Modulation.region_mask,
}
MULTIPLE = 8  # pixels a latent of Stable Diffusion's VAE spans


@dataclass(frozen=True)
class EditOptions:
    """One edit; each field is the flag of its name, --region and --debias being repeated.

    model, controlnet: checkpoint folders in diffusers' layout. video, masks: as `read_video` and `read_masks` take
    them. control: "canny", or conditioning frames as a video. region: phrase of the prompt by region. debias: phrase
    to move toward by subject, or "auto". eta: strength of the debiasing, 0 to 1. frames, stride, size (height, width)
    and fps: as for `read_video`. ddim_eta: share of fresh noise in each step, 0 to 1, drawn from the seed.
    modulation: "fame", "videograin" or "region-mask", the preset of Modulation for self-attention; decay: its rate, not
    of videograin, None the preset's. modulated_steps: None is 30% of the steps, also where a record is repeated with
    more or fewer. dtype, device: None leaves the choice to the run.

    Raises ValueError or TypeError naming the flag.
    """

    model: str
    video: str
    prompt: str
    out: str
    masks: str | None = None
    auto_person_mask: bool = False
    region: Mapping[str, str] = field(default_factory=dict)
    source_prompt: str = ""
    negative_prompt: str = ""
    debias: Mapping[str, str] = field(default_factory=dict)
    eta: float = 0.5
    controlnet: str | None = None
    control: str | None = None
    frames: int = 16
    stride: int = 1
    size: tuple[int, int] = (512, 512)
    fps: float | None = None
    steps: int = 50
    ddim_eta: float = 0.0
    modulation: str = "fame"
    decay: float | None = None
    modulated_steps: int | None = None
    guidance: float = 7.5
    seed: int = 0
    backend: str = "auto"
    dtype: str | None = None
    device: str | None = None

    def self_modulation(self) -> Modulation:
        """Of self-attention, for these frames."""
        given = {} if self.decay is None else {"decay": self.decay}
        return MODULATIONS[self.modulation](self.frames, **given)

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> EditOptions:
        """Options by name, as from a file or from flags; ValueError for unknown or missing ones."""
        names = [option.name for option in fields(cls)]
        if unknown := sorted(set(given) - set(names)):
            raise ValueError(f"unknown options {', '.join(unknown)}; known are {', '.join(names)}")
        if missing := [flag(name) for name in ("model", "video", "prompt", "out") if name not in given]:
            raise ValueError(f"{', '.join(missing)} must be given")
        size = given.get("size")
        return cls(**{**given, "size": tuple(size)} if isinstance(size, list) else given)

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "size": list(self.size)}

    def __post_init__(self) -> None:
        for name in ("model", "video", "prompt", "out", "source_prompt", "negative_prompt", "backend", "modulation"):
            self._check_type(name, str)
        for name in ("masks", "controlnet", "control", "dtype", "device"):
            self._check_type(name, str, type(None))
        self._check_type("auto_person_mask", bool)
        for name in ("frames", "stride", "steps", "seed"):
            self._check_type(name, int)
        self._check_type("modulated_steps", int, type(None))
        for name in ("fps", "decay"):
            self._check_type(name, int, float, type(None))
        for name in ("eta", "ddim_eta", "guidance"):
            self._check_type(name, int, float)
        for name in ("region", "debias"):
            self._check_phrases(name)
        self._check_values()

    def _check_type(self, name: str, *types: type) -> None:
        value = getattr(self, name)
        if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
            wanted = " or ".join("null" if kind is type(None) else kind.__name__ for kind in types)
            raise TypeError(f"{flag(name)} must be {wanted}, got {value!r}")

    def _check_phrases(self, name: str) -> None:
        phrases = getattr(self, name)
        if not isinstance(phrases, Mapping) or not all(
            isinstance(text, str) and text.strip() for item in phrases.items() for text in item
        ):
            raise ValueError(f"{flag(name)} must give a phrase each, got {phrases!r}")

    def _check_values(self) -> None:
        if not self.prompt.strip():
            raise ValueError("--prompt must not be empty")
        if (self.masks is None) != self.auto_person_mask:
            raise ValueError("give the regions by either --masks or --auto-person-mask")
        if not self.region:
            raise ValueError("give the phrase of each region: --region NAME=PHRASE")
        if (self.controlnet is None) != (self.control is None):
            raise ValueError("--controlnet and --control go together: a network, and what it is conditioned on")
        if Path(self.out).suffix.lower() != ".mp4":
            raise ValueError(f"--out must end in .mp4, got {self.out}")
        size = self.size
        if not (isinstance(size, tuple) and len(size) == 2 and all(type(side) is int for side in size)):
            raise TypeError(f"--size must be a height and a width, got {size!r}")
        if min(size) < MULTIPLE or any(side % MULTIPLE for side in size):
            raise ValueError(f"--size must be positive multiples of {MULTIPLE}, got {size[0]}x{size[1]}")
        ranges = dict(frames=(1, None), stride=(1, None), steps=(1, 1000), modulated_steps=(0, self.steps))
        ranges |= dict(seed=(0, 2**63 - 1), eta=(0, 1), ddim_eta=(0, 1), guidance=(0, None), fps=(0.01, 1000))
        ranges |= dict(decay=(0, None))
        for name, (low, high) in ranges.items():
            value = getattr(self, name)
            if value is not None and not low <= value <= (sys.float_info.max if high is None else high):
                wanted = f"be at least {low}" if high is None else f"lie in {low} to {high}"
                raise ValueError(f"{flag(name)} must {wanted}, got {value}")
        if self.modulation == "videograin" and self.decay is not None:
            raise ValueError("--decay is for the modulations with a time decay, not for videograin")
        allowed_values = (("backend", BACKENDS), ("dtype", (None, *DTYPES)), ("modulation", tuple(MODULATIONS)))
        for name, allowed in allowed_values:
            if getattr(self, name) not in allowed:
                wanted = ", ".join(value for value in allowed if value)
                raise ValueError(f"{flag(name)} must be one of {wanted}, got {getattr(self, name)}")


def flag(name: str) -> str:
    """The flag of an option."""
    return "--" + name.replace("_", "-")

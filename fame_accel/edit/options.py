"""The options of an edit, checked as far as possible without reading a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

from fame_accel.core.limits import (
    AUTO,
    BACKENDS,
    COUNT,
    DTYPES,
    FITS,
    FPS,
    FRACTION,
    NOT_NEGATIVE,
    SEED,
    SIDE,
    STEPS,
    STRENGTH,
    Range,
    Size,
    check_size,
)
from fame_accel.core.presets import MODULATIONS

MEASURED = "auto"  # --debias SUBJECT=auto: toward the minority as measured in the text encoder
CANNY = "canny"
_RANGES = dict(
    frames=COUNT, chunk_size=COUNT, start=NOT_NEGATIVE, steps=STEPS, seed=SEED, eta=FRACTION, ddim_eta=FRACTION,
    guidance=NOT_NEGATIVE, strength=STRENGTH, source_guidance=NOT_NEGATIVE, fps=FPS, decay=NOT_NEGATIVE,
)  # fmt: skip
_PAIRED = ("controlnet", "control")
_NAMES = dict(backend=BACKENDS, dtype=DTYPES, modulation=tuple(MODULATIONS), fit=FITS)


@dataclass(frozen=True)
class EditOptions:
    """One edit. Each field is the flag of that name; --region and --debias may be repeated.

    Args:
        model: checkpoint folder in diffusers' layout.
        controlnet, control: folders of ControlNets, and for each of them "canny" or the path of its frames, read as a
            video.
        sign_cert, sign_key: PEM files of a certificate chain and its private key, to sign the outputs with, or None.
        latents: file of the inverted latents, read where it exists and otherwise written.
        video, masks: as `read_video` and `read_masks` take them.
        no_rest: leave pixels outside of all masks in no region.
        region: phrase of the prompt by name of the region.
        debias: phrase to move toward by subject, or "auto".
        eta: strength of the debiasing, 0 to 1.
        frames, start, stride, size, fit, fps: as `read_video` takes them; size is (height, width).
        width, height: in pixels, in place of size; one alone keeps the aspect ratio of the video.
        ddim_eta: share of fresh noise in each step, 0 to 1; seed: of that noise.
        modulation: name of the modulation of self-attention; decay: its rate, None for its default.
        modulated_steps: None means `presets.MODULATED_SHARE` of the steps, also where a record is repeated with another
            number of steps.
        strength, source_guidance: of an edit with Wan, as its pipeline takes them; None is the pipeline's default.
        split_guidance, chunk_size: as the pipelines take them.
        offload: whether a network is on the GPU only while it runs.
        dtype, device: None leaves the choice to the run.

    Raises:
        ValueError: a value is out of range or does not fit the others; the message names the flag.
        TypeError: a value has the wrong type; the message names the flag.
    """

    model: str
    video: str
    prompt: str
    out: str
    masks: str | None = None
    auto_person_mask: bool = False
    no_rest: bool = False
    region: Mapping[str, str] = field(default_factory=dict)
    source_prompt: str = ""
    negative_prompt: str = ""
    debias: Mapping[str, str] = field(default_factory=dict)
    eta: float = 0.5
    controlnet: tuple[str, ...] = ()
    control: tuple[str, ...] = ()
    latents: str | None = None
    sign_cert: str | None = None
    sign_key: str | None = None
    frames: int = 16
    start: float = 0.0
    stride: int | str = 1
    size: tuple[int, int] | None = None
    width: int | None = None
    height: int | None = None
    fit: str = "crop"
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
    strength: float | None = None
    source_guidance: float | None = None
    split_guidance: bool = False
    chunk_size: int = 4
    offload: bool = False

    @classmethod
    def from_mapping(cls, options: Mapping[str, Any]) -> EditOptions:
        """Options by name, from a file or from flags; ValueError where one is unknown or missing."""
        names = [option.name for option in fields(cls)]
        if unknown := sorted(set(options) - set(names)):
            raise ValueError(f"unknown options {', '.join(unknown)}; known are {', '.join(names)}")
        required = [option.name for option in fields(cls) if option.default is option.default_factory is MISSING]
        if missing := [flag(name) for name in required if name not in options]:
            raise ValueError(f"{', '.join(missing)} must be given")
        tuples = {name: tuple(value) for name, value in options.items() if isinstance(value, list)}
        single = {name: options[name] for name in _PAIRED if isinstance(options.get(name, ()), (str, NoneType))}
        paired = {name: () if value is None else (value,) for name, value in single.items()}
        return cls(**{**options, **tuples, **paired})

    def as_json(self) -> dict[str, Any]:
        """The options as `from_mapping` takes them, with values that JSON has."""
        paired = {name: one_or_list(getattr(self, name)) for name in _PAIRED}
        return {**asdict(self), "size": None if self.size is None else list(self.size), **paired}

    @property
    def wanted_size(self) -> Size:
        """(height, width) in pixels, as `read_video` takes it."""
        return self.size or (self.height, self.width)

    def __post_init__(self) -> None:
        for name, hint in get_type_hints(type(self)).items():
            if get_origin(hint) in (None, UnionType) and name != "size":
                self._check_type(name, get_args(hint) or (hint,))
        for name in ("region", "debias"):
            self._check_phrases(name)
        self._check_values()
        self._check_combinations()

    def _check_type(self, name: str, types: tuple[type, ...]) -> None:
        value = getattr(self, name)
        accepted = (*types, int) if float in types else types
        if not isinstance(value, accepted) or (isinstance(value, bool) and bool not in types):
            wanted = " or ".join("null" if kind is type(None) else kind.__name__ for kind in types)
            raise TypeError(f"{flag(name)} must be {wanted}, got {value!r}")

    def _check_phrases(self, name: str) -> None:
        phrases = getattr(self, name)
        if not isinstance(phrases, Mapping) or not all(
            isinstance(text, str) and text.strip() for item in phrases.items() for text in item
        ):
            raise ValueError(f"{flag(name)} must map names to phrases, got {phrases!r}")

    def _check_values(self) -> None:
        for name in _PAIRED:
            if not isinstance(value := getattr(self, name), tuple) or not all(isinstance(one, str) for one in value):
                raise TypeError(f"{flag(name)} must be a path or a list of paths, got {value!r}")
        size = self.size
        if size is not None:
            if not (isinstance(size, tuple) and len(size) == 2 and all(type(side) is int for side in size)):
                raise TypeError(f"--size must be a height and a width, got {size!r}")
            check_size("--size", size)
        for name in ("width", "height"):
            if (side := getattr(self, name)) is not None:
                SIDE.check(flag(name), side)
        if self.stride != AUTO:
            if not isinstance(self.stride, int):
                raise TypeError(f"--stride must be a whole number or {AUTO}, got {self.stride!r}")
            COUNT.check("--stride", self.stride)
        for name, limits in {**_RANGES, "modulated_steps": Range(int, 0, self.steps)}.items():
            if (value := getattr(self, name)) is not None:
                limits.check(flag(name), value)
        for name, allowed in _NAMES.items():
            if (value := getattr(self, name)) not in (None, *allowed):
                raise ValueError(f"{flag(name)} must be one of {', '.join(allowed)}, got {value!r}")
        for name in ("model", "video", "prompt", "out", "masks", "latents", "sign_cert", "sign_key", *_PAIRED):
            given = getattr(self, name)
            if any(not text.strip() for text in (given if isinstance(given, tuple) else (given,)) if text is not None):
                raise ValueError(f"{flag(name)} must not be empty")
        if Path(self.out).suffix.lower() != ".mp4":
            raise ValueError(f"--out must end in .mp4, got {self.out}")

    def _check_combinations(self) -> None:
        if (self.masks is None) != self.auto_person_mask:
            raise ValueError("give the regions by either --masks or --auto-person-mask")
        if self.size is not None and (self.width, self.height) != (None, None):
            raise ValueError("give the size by either --size or --width and --height")
        if not self.region:
            raise ValueError("give the phrase of at least one region: --region NAME=PHRASE")
        if bool(self.controlnet) != bool(self.control):
            raise ValueError("--controlnet, a network, and --control, its conditioning, must be given together")
        if (self.sign_cert is None) != (self.sign_key is None):
            raise ValueError("--sign-cert, a certificate, and --sign-key, its private key, must be given together")
        if len(self.controlnet) != len(self.control):
            counts = f"{len(self.controlnet)} and {len(self.control)}"
            raise ValueError(f"--controlnet and --control must be given equally often, in the same order, got {counts}")
        if self.decay is not None and not MODULATIONS[self.modulation].decays:
            raise ValueError(f"--decay must not be given for --modulation {self.modulation}, which has no time decay")


def one_or_list(values: Sequence[Any]) -> Any:
    """How one or several are written: None for none, one as it is, a list of more."""
    return list(values) if len(values) > 1 else next(iter(values), None)


def flag(name: str) -> str:
    """The flag that sets an option."""
    return "--" + name.replace("_", "-")

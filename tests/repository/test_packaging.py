"""Who may import what; and the package imports whole from a checkout, a wheel and an editable install."""

import ast
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Iterator
from importlib.metadata import distributions
from importlib.util import find_spec
from pathlib import Path

import pytest
from support import HIDE, ROOT, SOURCES

# The parts of fame_accel that may import diffusers and transformers.
HUGGING_FACE = tuple(f"fame_accel/{part}" for part in ("adapter", "demo", "edit", "evaluate", "fairness", "pipeline"))

# Prints the folder that each package was imported from.
FOLDERS = """
import json, fame_accel, fame_accel.kernels, fame_accel.bindings
packages = fame_accel, fame_accel.kernels, fame_accel.bindings
print(json.dumps([list(package.__path__)[0] for package in packages]))
"""


def python_files(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def imported_names(file: Path) -> Iterator[str]:
    """Absolute dotted name of everything a file imports, wherever in it: `from a.b import c` gives a.b.c."""
    package = file.relative_to(ROOT).parent.parts
    if package[0] != "fame_accel":
        package = ("fame_accel", *package)
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else ()
            module = node.module.split(".") if node.module else ()
            yield from (".".join((*base, *module, alias.name)) for alias in node.names)


def imports_of(files: list[Path], *packages: str) -> list[str]:
    """`file: name` for each import of one of the packages or of something in it."""
    return [
        f"{file.relative_to(ROOT)}: {name}"
        for file in files
        for name in imported_names(file)
        if any(name == package or name.startswith(f"{package}.") for package in packages)
    ]


def run(*arguments: object, cwd: Path, python: str | Path = sys.executable, first_on_path: Path | None = None) -> str:
    env = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONSAFEPATH")}
    inherited = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    elsewhere = [entry for entry in inherited if Path(entry).resolve() != ROOT]
    env["PYTHONPATH"] = os.pathsep.join([*([str(first_on_path)] if first_on_path else []), *elsewhere])
    command = [str(python), *map(str, arguments)]
    result = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, f"{command} in {cwd}\n{result.stdout}\n{result.stderr}"
    return result.stdout


def folders(output: str) -> list[Path]:
    return [Path(folder).resolve() for folder in json.loads(output.splitlines()[-1])]


def test_kernels_folder_is_a_namespace_portion():
    assert not (ROOT / "kernels" / "__init__.py").exists(), "it would shadow Hugging Face's package `kernels`"
    assert (ROOT / "bindings" / "__init__.py").is_file()
    for name in ("kernels", "bindings"):
        assert (ROOT / "fame_accel" / name).resolve() == ROOT / name  # a link: one copy, seen by type checkers


def test_kernels_import_no_torch():
    assert python_files("kernels")
    assert imports_of(python_files("kernels"), "torch") == []


def test_only_the_adapter_side_imports_hugging_face_packages():
    files = [file for folder in SOURCES for file in python_files(folder)]
    allowed = [ROOT / folder for folder in HUGGING_FACE]
    strict = [
        file
        for file in files
        if not any(file.is_relative_to(folder) or file == folder.with_suffix(".py") for folder in allowed)
    ]
    assert imports_of(strict, "diffusers", "transformers") == []


def test_bindings_import_only_kernels_and_bindings_of_ours():
    ours = imports_of(python_files("bindings"), "fame_accel")
    below = imports_of(python_files("bindings"), "fame_accel.kernels", "fame_accel.bindings")
    assert sorted(set(ours) - set(below)) == []


def test_fairness_stands_alone():
    files = python_files("fame_accel/fairness")
    ours = imports_of(files, "fame_accel")
    assert ours and sorted(set(ours) - set(imports_of(files, "fame_accel.fairness"))) == []


def test_kernels_import_nothing_of_ours_but_kernels():
    ours = imports_of(python_files("kernels"), "fame_accel")
    assert sorted(set(ours) - set(imports_of(python_files("kernels"), "fame_accel.kernels"))) == []


# Each folder of fame_accel may import itself and those of the lines before its own; cli.py may import all.
FOLDERS_IN_ORDER = (
    ("adapter", "fairness", "media"),
    ("pipeline",),
    ("edit", "evaluate", "planner"),
    ("bench", "demo", "suite"),
    ("doctor",),
)


def test_folders_import_only_those_before_them():
    assert {file.parent.name for file in (ROOT / "fame_accel").glob("*/__init__.py")} == set(sum(FOLDERS_IN_ORDER, ()))
    core = [file for file in (ROOT / "fame_accel").glob("*.py") if file.name not in ("cli.py", "__init__.py")]
    assert core and imports_of(core, *(f"fame_accel.{name}" for name in sum(FOLDERS_IN_ORDER, ()))) == []
    for place, names in enumerate(FOLDERS_IN_ORDER):
        rest = {name for later in FOLDERS_IN_ORDER[place:] for name in later}
        for name in names:
            others = [f"fame_accel.{other}" for other in (*sorted(rest - {name}), "cli")]
            assert imports_of(python_files(f"fame_accel/{name}"), *others) == []


def test_import_from_the_repository_root(tmp_path):
    """The root on sys.path gives all of fame_accel and leaves `kernels` to a real package behind it."""
    other = tmp_path / "kernels"
    other.mkdir()
    (other / "__init__.py").touch()
    files = python_files("kernels") if find_spec("triton") else []
    modules = [".".join(("fame_accel", *file.relative_to(ROOT).with_suffix("").parts)) for file in files]
    code = f"""
import importlib, sys
{FOLDERS}
for module in {modules!r}: importlib.import_module(module)
sys.path.insert(1, {str(tmp_path)!r})  # behind the root, as site-packages is
import kernels
assert kernels.__file__ == {str(other / "__init__.py")!r}, kernels
"""
    assert folders(run("-c", code, cwd=ROOT)) == [ROOT / source for source in SOURCES]


@pytest.mark.parametrize(
    "hidden",
    [
        ("diffusers", "transformers", "accelerate", "safetensors", "numpy", "av", "PIL", "cv2", "matplotlib"),
        ("triton",),
    ],
    ids=["torch alone", "no triton"],
)
def test_import_needs_torch_alone(hidden):
    code = HIDE.format(hidden=hidden) + "import fame_accel; print(*sys.modules)"
    loaded = run("-W", "ignore", "-c", code, cwd=ROOT).split()
    assert "fame_accel" in loaded and not set(hidden) & set(loaded)


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    """A copy of what a build reads: building in place would leave its files in the checkout."""
    # not find_spec, which for pip would switch off setuptools' distutils in this process, and Inductor with it
    if not {"pip", "setuptools"} <= {found.name for found in distributions()}:
        pytest.skip("needs pip and setuptools")
    copy = tmp_path_factory.mktemp("tree")
    for name in SOURCES:
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    return copy


def pip_install(*arguments: object, cwd: Path, python: str | Path = sys.executable) -> None:
    """From what lies on this machine: no dependency, no build environment, no index."""
    offline = ("--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check")
    run("-m", "pip", "install", "-q", *offline, *arguments, cwd=cwd, python=python)


@pytest.mark.slow
def test_installed_package(tree, tmp_path):
    site, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    elsewhere.mkdir()
    pip_install("--target", site, tree, cwd=elsewhere)

    for source in SOURCES:
        installed = site / "fame_accel" / source if source != "fame_accel" else site / "fame_accel"
        files = [file.relative_to(ROOT / source) for file in python_files(source)]
        assert [file for file in files if not (installed / file).exists()] == []
    assert not (site / "kernels").exists() and not (site / "bindings").exists()

    expected = [site / "fame_accel", site / "fame_accel" / "kernels", site / "fame_accel" / "bindings"]
    assert folders(run("-c", FOLDERS, cwd=elsewhere, first_on_path=site)) == expected
    # In the repository root the checkout shadows the installed package: wholly, not in part.
    assert folders(run("-c", FOLDERS, cwd=ROOT, first_on_path=site)) == [ROOT / source for source in SOURCES]

    code = """
from importlib.metadata import distribution
import fame_accel
found = distribution("fame-accel")
assert found.version == fame_accel.__version__
[command] = found.entry_points.select(group="console_scripts", name="fame-accel")
assert callable(command.load())
"""
    run("-c", code, cwd=elsewhere, first_on_path=site)


@pytest.mark.slow
def test_editable_install(tree, tmp_path):
    builder = venv.EnvBuilder(symlinks=os.name != "nt")
    builder.create(tmp_path / "venv")
    python = tmp_path / "venv" / ("Scripts" if os.name == "nt" else "bin") / "python"
    # Lend the new environment this one's packages. A .pth inside a lent folder has no effect, so an editable
    # install of the checkout in this environment stays out of the new one.
    own = run("-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path, python=python)
    lent = {sysconfig.get_path("purelib"), *(entry for entry in sys.path if entry.endswith("-packages"))}
    Path(own.strip(), "lent.pth").write_text("\n".join(sorted(lent)) + "\n")
    pip_install("--ignore-installed", "-e", tree, cwd=tmp_path, python=python)

    expected = [tree / source for source in SOURCES]
    assert folders(run("-c", FOLDERS, cwd=tmp_path, python=python)) == expected
    assert folders(run("-c", FOLDERS, cwd=tree, python=python)) == expected

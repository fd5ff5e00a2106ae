"""What `import fame_accel` loads in a fresh process, and what it offers."""

import json
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest
from support import HIDE, ROOT, SOURCES, run_python

import fame_accel

OPTIONAL = (
    "diffusers",
    "transformers",
    "accelerate",
    "safetensors",
    "numpy",
    "av",
    "PIL",
    "cv2",
    "matplotlib",
    "pandas",
)
# Modules that `import fame_accel` may add to those of torch: its own, and few of the standard library.
MOST_MODULES = 80


@cache
def modules_after(code: str) -> frozenset[str]:
    """The modules that are loaded in a fresh process after the code."""
    code += "\nimport json, sys\nprint(json.dumps([*sys.modules]))"
    return frozenset(json.loads(run_python("-W", "ignore", "-c", code, cwd=ROOT)))


@pytest.mark.parametrize("code", ["import fame_accel", "import fame_accel.cli"])
def test_import_is_light(code: str):
    """It adds nothing of torch that torch did not load, neither its compiler nor Triton, and few modules besides."""
    torch_alone = modules_after("import torch")
    added = modules_after(f"import torch\n{code}") - torch_alone
    assert [name for name in sorted(added) if name.split(".")[0] in ("torch", "triton", *OPTIONAL)] == []
    assert len(added) <= MOST_MODULES, sorted(added)


@pytest.mark.parametrize("hidden", [OPTIONAL, ("triton",)], ids=["torch alone", "no triton"])
def test_import_needs_torch_alone(hidden: tuple[str, ...]):
    loaded = modules_after(HIDE.format(hidden=hidden) + "import fame_accel")
    assert "fame_accel" in loaded and not set(hidden) & loaded


@pytest.mark.parametrize("folder", ["core", "tools"])
@pytest.mark.slow
def test_folders_that_need_torch_alone(folder: str):
    files = sorted((ROOT / "fame_accel" / folder).rglob("*.py"))
    names = [".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for file in files]
    hidden = HIDE.format(hidden=OPTIONAL)
    assert set(names) <= modules_after(
        f"{hidden}\nimport importlib\nfor name in {names!r}: importlib.import_module(name)"
    )


def test_public_names():
    """Everything in __all__ can be imported, and nothing else is offered."""
    pytest.importorskip("diffusers")
    for name in fame_accel.__all__:
        assert getattr(fame_accel, name) is not None
    assert len(set(fame_accel.__all__)) == len(fame_accel.__all__)
    assert [name for name in dir(fame_accel) if not name.startswith("__")] == [
        name for name in sorted(fame_accel.__all__) if not name.startswith("__")
    ]
    with pytest.raises(AttributeError, match="no attribute 'missing'"):
        fame_accel.missing  # noqa: B018


def test_import_from_the_repository_root(tmp_path: Path):
    """The root on sys.path gives all of fame_accel, and leaves `kernels` to a real package behind it."""
    other = tmp_path / "kernels"
    other.mkdir()
    (other / "__init__.py").touch()
    files = sorted((ROOT / "kernels").glob("*.py")) if find_spec("triton") else []
    code = f"""
import importlib, sys
import fame_accel, fame_accel.bindings
for name in {[file.stem for file in files]!r}: importlib.import_module(f"fame_accel.kernels.{{name}}")
sys.path.insert(1, {str(tmp_path)!r})  # behind the root, as site-packages is
import kernels
assert kernels.__file__ == {str(other / "__init__.py")!r}, kernels
print(fame_accel.__path__[0], *fame_accel.kernels.__path__, fame_accel.bindings.__path__[0], sep="\\n")
"""
    folders = [Path(line) for line in run_python("-c", code, cwd=ROOT).splitlines()]
    assert [folder.resolve() for folder in folders] == [ROOT / source for source in SOURCES]


def test_the_repository_is_no_part_of_the_package():
    """As it would be if the package appended the repository root to its path."""
    names = ["fame_accel.setup", "fame_accel.fame_accel", "fame_accel.tests", "fame_accel.benchmarks"]
    code = f"from importlib.util import find_spec; print([name for name in {names!r} if find_spec(name)])"
    assert run_python("-c", code, cwd=ROOT) == "[]\n"

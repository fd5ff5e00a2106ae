"""Who may import what: the layers, read off the source."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import ROOT, SOURCES

# Each folder may import itself and these others of ours; fame_accel/cli may import all of them, and nobody imports it.
MAY_IMPORT = {
    "kernels": set(),
    "bindings": {"kernels"},
    "core": {"bindings", "kernels"},
    "fairness": {"core"},
    "media": {"core"},
    "tools": {"core", "bindings", "kernels", "media"},
    "adapter": {"core"},
    "pipeline": {"core", "media", "fairness", "adapter"},
    "edit": {"core", "media", "fairness", "adapter", "pipeline", "tools"},
    "evaluate": {"core", "media", "fairness"},
    "suite": {"core", "media", "fairness", "edit", "evaluate"},
    "bench": {"core", "bindings", "media", "tools", "adapter"},
    "demo": {"core", "media", "fairness", "adapter", "pipeline", "edit", "tools"},
}
MAY_IMPORT["cli"] = set(MAY_IMPORT)
# What stands in fame_accel/ itself: the public names, and the command.
TOP = {
    "__init__": {"core", "adapter", "pipeline", "reference"},
    "__main__": {"cli"},
    "reference": {"core"},
    "_version": set(),
}
HUGGING_FACE = {"diffusers", "transformers"}
MAY_IMPORT_HUGGING_FACE = {"adapter", "fairness", "pipeline"}
# The functions of commands, which import it where they use it, so that the commands start without it.
MAY_IMPORT_HUGGING_FACE_LATE = {"demo", "edit", "evaluate", "suite"}


def python_files(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def area_of(file: Path) -> str:
    """The folder below fame_accel/ that a file belongs to, or its own name where it stands in fame_accel/ itself."""
    parts = file.relative_to(ROOT).with_suffix("").parts
    return parts[1] if parts[0] == "fame_accel" else parts[0]


def imported_names(file: Path, at_start: bool = False) -> Iterator[str]:
    """Absolute dotted name of everything a file imports, `from a.b import c` as a.b.c; at_start: only what it imports
    when it is imported itself, and not what it imports for a type checker."""
    package = file.relative_to(ROOT).parent.parts
    if package[0] != "fame_accel":
        package = ("fame_accel", *package)
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in _run_at_start(tree) if at_start else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else ()
            module = node.module.split(".") if node.module else ()
            yield from (".".join((*base, *module, alias.name)) for alias in node.names)


def _run_at_start(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        yield child
        yield from _run_at_start(child)


def ours(names: Iterator[str]) -> set[str]:
    """The folders and modules below fame_accel/ that these names belong to."""
    return {name.split(".")[1] for name in names if name.startswith("fame_accel.")}


FILES = [file for source in SOURCES for file in python_files(source)]


def test_every_folder_has_its_rule():
    folders = {file.name for file in (ROOT / "fame_accel").iterdir() if file.is_dir() and file.name != "__pycache__"}
    assert folders == set(MAY_IMPORT)
    assert {file.stem for file in (ROOT / "fame_accel").glob("*.py")} == set(TOP)


@pytest.mark.parametrize("area", [*MAY_IMPORT, *TOP])
def test_imports_follow_the_layers(area: str):
    files = [file for file in FILES if area_of(file) == area]
    allowed = MAY_IMPORT.get(area, TOP.get(area, set())) | {area, "_version"}
    result = {str(file.relative_to(ROOT)): ours(imported_names(file)) - allowed for file in files}
    assert files and {file: names for file, names in result.items() if names} == {}


def test_layers_have_no_circles():
    rest = dict(MAY_IMPORT)
    while rest:
        lowest = {
            area for area, below in rest.items() if not below & (set(rest) - {area} if area == "cli" else set(rest))
        }
        assert lowest, f"none of {sorted(rest)} can be imported first"
        rest = {area: below for area, below in rest.items() if area not in lowest}


def test_kernels_import_no_torch():
    files = python_files("kernels")
    assert files and [file for file in files if "torch" in {name.split(".")[0] for name in imported_names(file)}] == []


def test_only_the_adapter_side_imports_hugging_face_packages():
    for file in FILES:
        area = area_of(file)
        everywhere, at_start = (
            HUGGING_FACE & {name.split(".")[0] for name in imported_names(file, when)} for when in (False, True)
        )
        if area not in MAY_IMPORT_HUGGING_FACE:
            assert not at_start, file
        if area not in MAY_IMPORT_HUGGING_FACE | MAY_IMPORT_HUGGING_FACE_LATE:
            assert not everywhere, file


def test_kernels_folder_is_a_namespace_portion():
    assert not (ROOT / "kernels" / "__init__.py").exists(), "it would shadow Hugging Face's package `kernels`"
    assert (ROOT / "bindings" / "__init__.py").is_file()
    for name in ("kernels", "bindings"):
        if (ROOT / ".git").exists():  # a link: one copy, seen by type checkers; archives have none
            assert (ROOT / "fame_accel" / name).resolve() == ROOT / name


def test_no_test_imports_another():
    tests = sorted((ROOT / "tests").rglob("test_*.py"))
    modules = {file.stem for file in tests}
    for file in tests:
        imported = {part for name in imported_names(file) for part in name.split(".")}
        assert not imported & modules, file

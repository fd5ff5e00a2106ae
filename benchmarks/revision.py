"""Earlier revisions of the checkout: found by name, and checked out beside it for as long as they are measured."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Revision:
    """A commit, and the folder (`prefix`) of this library in its repository, empty where that is all of it."""

    commit: str
    short: str
    prefix: str


def find_revision(base: str, root: Path) -> Revision:
    """Find a revision; raises ValueError where `root` is no git checkout or has no such revision of this library."""
    module = "fame_accel/__init__.py"
    try:
        _git(root, "ls-files", "--error-unmatch", module)
    except ValueError as error:
        raise ValueError(f"BASE needs a git checkout of fame-accel, which {root} is not: {error}") from error
    try:
        commit = _git(root, "rev-parse", "--verify", "--end-of-options", f"{base}^{{commit}}").splitlines()[-1]
    except ValueError as error:
        raise ValueError(f"BASE {base} is no revision of {root}: {error}") from error
    prefix = _git(root, "rev-parse", "--show-prefix")
    try:
        _git(root, "cat-file", "-e", f"{commit}:{prefix}{module}")
    except ValueError as error:
        raise ValueError(f"BASE {base} has no {prefix}{module}") from error
    return Revision(commit, _git(root, "rev-parse", "--short", commit), prefix)


@contextmanager
def worktree(revision: Revision, root: Path, folder: Path) -> Iterator[Path]:
    """Check a revision out at `folder`, and give the library's root in it; the worktree is removed in the end."""
    try:
        try:
            _git(root, "worktree", "add", "--detach", str(folder), revision.commit)
        except ValueError as error:
            raise ValueError(f"BASE {revision.short} cannot be checked out beside {root}: {error}") from error
        yield folder / revision.prefix
    finally:
        try:
            _git(root, "worktree", "remove", "--force", "--force", str(folder))  # twice: even where add was broken off
        except ValueError:
            shutil.rmtree(folder, ignore_errors=True)
            with suppress(ValueError):
                _git(root, "worktree", "prune")


def _git(root: Path, *arguments: str) -> str:
    """What git prints; raises ValueError with its message where it fails."""
    # a git hook that runs this sets these for another repository or index
    outside = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_PREFIX", "GIT_OBJECT_DIRECTORY")
    env = {name: value for name, value in os.environ.items() if name not in outside} | {"LC_ALL": "C"}
    command = ["git", "-c", f"core.hooksPath={os.devnull}", "-C", str(root), *arguments]
    try:
        result = subprocess.run(command, env=env, capture_output=True, encoding="utf-8", errors="replace")
    except OSError as error:
        raise ValueError(f"git does not run: {error}") from error
    if result.returncode:
        lines = [line for line in result.stderr.splitlines() if line.startswith(("fatal:", "error:"))]
        raise ValueError(f"git {arguments[0]}: {lines[0] if lines else f'exit status {result.returncode}'}")
    return result.stdout.strip()

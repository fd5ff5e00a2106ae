"""Outputs: checked before the work, written under temporary names, and renamed when all of them are complete."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from os import PathLike
from pathlib import Path

AnyPath = str | PathLike[str]


def check_output_file(flag: str, path: AnyPath, inputs: Sequence[AnyPath | None] = ()) -> Path:
    """Check that a file can be written, without writing it.

    Args:
        flag: the flag or argument that names the file, for messages.
        path: the file.
        inputs: files and folders that are read; None stands for one that was not given.

    Returns:
        The path.

    Raises:
        ValueError: there is no such folder, it cannot be written to, the name is too long or not Unicode, the file is
            a folder, a link or a device, or it is an input or lies in a folder that is one.
    """
    if not os.fspath(path):
        raise ValueError(f"{flag} must not be empty")
    path = Path(path)
    try:
        path.name.encode()
        existing = path.lstat()
    except FileNotFoundError:
        existing = None
    except UnicodeEncodeError as error:
        raise ValueError(f"{flag} must be a name in Unicode, got {path.name!r}") from error
    except OSError as error:
        raise ValueError(
            f"{flag}: cannot write {path}: {error.strerror} ({len(os.fsencode(path.name))} bytes)"
        ) from error
    if existing is not None and not path.is_dir() and (path.is_symlink() or not path.is_file()):
        raise ValueError(f"{flag}: {path} is a link or a device: name a file of its own")
    if path.is_dir():
        raise ValueError(f"{flag}: {path} is a folder: name a file in it")
    _check_folder(f"{flag} {path}", path.parent)
    for source in _given(inputs):
        if path.resolve() == source:
            raise ValueError(f"{flag} would overwrite {path}, which is an input")
        if source.is_dir() and path.resolve().is_relative_to(source):
            raise ValueError(f"{flag} {path} must be outside of {source}, which is an input")
    return path


def check_output_folder(
    flag: str, folder: AnyPath, names: Sequence[str], inputs: Sequence[AnyPath | None] = ()
) -> Path:
    """Check that files can be written to a folder, without writing them; it need not exist.

    Args:
        flag: the flag or argument that names the folder, for messages.
        folder: the folder.
        names: what is written there: files, and subfolders whose contents are replaced.
        inputs: files and folders that are read; None stands for one that was not given.

    Returns:
        The path.

    Raises:
        ValueError: the folder is a file, cannot be made or written to, lies in an input, or an input lies where
            something is written.
    """
    if not os.fspath(folder):
        raise ValueError(f"{flag} must not be empty")
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{flag} {folder} must be a folder")
    for source in _given(inputs):
        if source.is_dir() and folder.resolve().is_relative_to(source):
            raise ValueError(f"{flag} {folder} must be outside of {source}, which is an input")
        for name in names:
            if source.is_relative_to(folder.resolve() / name):
                raise ValueError(f"{flag} {folder} would overwrite {source}, which is an input")
    existing_folder = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    _check_folder(f"{flag} {folder}", existing_folder)
    for name in names if folder.is_dir() else ():
        if not (folder / name).is_dir():
            check_output_file(flag, folder / name)
    return folder


def check_space(flag: str, folder: Path, needed: int) -> None:
    """Raise ValueError where the file system of a folder has less than `needed` bytes free."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise ValueError(
            f"{flag}: {folder} has {free / 1e6:.1f} MB free, and the files may take {needed / 1e6:.1f} MB: free some "
            "space or choose another folder"
        )


@contextmanager
def write_together(*paths: AnyPath) -> Iterator[list[Path]]:
    """Give a temporary file beside each path to write to, and rename all of them when the block succeeds.

    The last file is removed before the others are renamed, and renamed after them: a record of the others, if it is
    there, belongs to them. If the block raises, the temporary files are deleted and older files stay as they were.
    """
    files = [Path(path) for path in paths]
    temporaries: list[Path] = []
    try:
        for file in files:
            temporary = file.with_name(f".{secrets.token_hex(8)}{file.suffix}")
            temporary.open("xb").close()  # exclusive: fails on a file or link of this name
            temporaries.append(temporary)
        yield temporaries
        if len(files) > 1:
            files[-1].unlink(missing_ok=True)
        for temporary, file in zip(temporaries, files, strict=True):
            temporary.replace(file)
    finally:
        for temporary in temporaries:
            temporary.unlink(missing_ok=True)


@contextmanager
def atomic_write(path: AnyPath) -> Iterator[Path]:
    """`write_together` for one file."""
    with write_together(path) as [temporary]:
        yield temporary


@contextmanager
def exclusive(flag: str, output: Path) -> Iterator[None]:
    """Keep other processes from the same output for the block; RuntimeError where one has it.

    The lock is a hidden file beside an output file, or in an output folder, and goes with the block. A killed process
    leaves the file, which then locks nothing.
    """
    from filelock import FileLock, Timeout  # torch depends on it

    file = output / ".lock" if output.is_dir() else output.with_name(f".{output.name}.lock")
    lock = FileLock(file, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise RuntimeError(f"{flag} {output} is being written by another process") from error
    try:
        yield
    finally:
        file.unlink(missing_ok=True)
        lock.release()


def _check_folder(output: str, folder: Path) -> None:
    """Raise ValueError unless there is a folder and a file can be made in it."""
    if not folder.is_dir():
        raise ValueError(f"{output}: there is no folder {folder}")
    probe = folder / f".{secrets.token_hex(8)}"
    try:
        probe.open("xb").close()
        probe.unlink()
    except OSError as error:
        raise ValueError(f"{output}: cannot write to {folder}: {error.strerror}") from error


def _given(inputs: Sequence[AnyPath | None]) -> list[Path]:
    # realpath, as Path.resolve() raises before Python 3.13 where links go in a circle
    return [Path(os.path.realpath(source)) for source in inputs if source is not None]

"""The comparison with an earlier revision: slow, wrong and broken ones are found, and nothing is left behind."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from support import ROOT, SOURCES

from benchmarks import regression, worker_process
from benchmarks.regression import Comparison, compare, table, verdict
from benchmarks.revision import find_revision, worktree
from benchmarks.worker_process import Worker, WorkerFailed
from fame_accel.bench import rows
from fame_accel.bench.timing import Effort
from fame_accel.bench.workload import FAME, PLAIN, REGION_MASK, AttentionOperation, LayerShape, operations

CPU = torch.device("cpu")
EFFORT = Effort(seconds=0.1, least=3, most=5)

# What one revision does at some head dimensions; at others it is right.
BROKEN = """
from fame_accel.core.attention import layout_attention as _attention


def layout_attention(query, *arguments, **options):
    import os
    import sys
    import time

    head_dim = query.shape[-1]
    print("no reply of the worker")
    if head_dim == 8:
        time.sleep(0.05)
    if head_dim == 24:
        raise NotImplementedError("head_dim 24\\nis not done")
    if head_dim == 32:
        print("out of luck", file=sys.stderr, flush=True)
        os._exit(7)
    return _attention(query, *arguments, **options) * (1.01 if head_dim == 16 else 1)
"""


def toy(name: str, head_dim: int, **options: object) -> LayerShape:
    return LayerShape(name, frames=2, height=6, width=6, heads=2, head_dim=head_dim, **options)


CASES = [
    (toy("slow", 8), REGION_MASK),
    (toy("wrong", 16), PLAIN),
    (toy("raises", 24), PLAIN),
    (toy("dies", 32), PLAIN),
    (toy("right", 40), FAME),
    (text := toy("text", 40, text=9), operations(text)[1]),
    (toy("motion", 40, motion=True), FAME),
]


def git(folder: Path, *arguments: str) -> str:
    as_someone = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
    command = ["git", *as_someone, *arguments]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A repository whose only module is empty and lies in a folder; HEAD~1 has none."""
    checkout = tmp_path / "repository" / "in folder"
    (checkout / "fame_accel").mkdir(parents=True)
    git(checkout.parent, "init", "-q")
    git(checkout, "commit", "-q", "--allow-empty", "-m", "empty")
    (checkout / "fame_accel" / "__init__.py").touch()
    git(checkout, "add", ".")
    git(checkout, "commit", "-q", "-m", "module")
    return checkout


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Of this checkout's code; tag `broken` is a commit where BROKEN was added to it, `right` one without."""
    checkout = tmp_path / "checkout"
    for name in SOURCES:
        shutil.copytree(ROOT / name, checkout / name, ignore=shutil.ignore_patterns("__pycache__"))
    git(checkout, "init", "-q")
    git(checkout, "add", ".")
    git(checkout, "commit", "-q", "-m", "right")
    git(checkout, "tag", "right")
    break_it(checkout)
    git(checkout, "commit", "-q", "-a", "-m", "broken")
    git(checkout, "tag", "broken")
    git(checkout, "reset", "-q", "--hard", "right")
    return checkout


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list]:
    """The processes of a test, all of which must have ended with it, and no temporary file be left."""
    processes, start = [], Worker._start

    def kept(worker: Worker) -> subprocess.Popen:
        processes.append(start(worker))
        return processes[-1]

    temporary = tmp_path_factory.mktemp("temporary")
    monkeypatch.setattr(regression.tempfile, "tempdir", str(temporary))
    monkeypatch.setattr(Worker, "_start", kept)
    yield processes
    assert processes and all(process.returncode is not None for process in processes)
    assert list(temporary.iterdir()) == []


def break_it(root: Path) -> None:
    with (root / "fame_accel" / "__init__.py").open("a") as file:
        file.write(BROKEN)


def worktrees(root: Path) -> int:
    return git(root, "worktree", "list", "--porcelain").count("worktree ")


def compared(
    base: str, root: Path, cases: list[tuple[LayerShape, AttentionOperation]], **options: object
) -> list[Comparison]:
    where = dict(dtype=torch.float32, device=CPU, backend="sdpa", effort=EFFORT, run="a run", root=root)
    return compare(base, cases, **where, **options)


@pytest.mark.slow
def test_broken_base(repository, started, monkeypatch, tmp_path):
    monkeypatch.setattr(regression, "verdict", lambda base, present: "same")  # of equal code on a busy machine
    reported = []
    result = compared("broken", repository, CASES[1:], report=reported.append)
    assert reported == result and worktrees(repository) == 1
    wrong, raises, dies, *right = result
    assert [case.verdict for case in (wrong, raises, dies)] == ["not compared"] * 3
    for case, printed in (
        (wrong, "WRONG"),
        (raises, "failed: NotImplementedError: head_dim 24 is not done"),
        (dies, "failed: its process ended with exit status 7: out of luck"),
    ):
        [note] = case.notes
        assert note.startswith(f"base: {printed}") and note in table(result)
        assert case.base_ms == () and case.present_ms and case.ratio is None
    for case in right:
        assert case.verdict == "same" and case.notes == [] and case.base_ms and case.present_ms
    assert not any(case.regressed for case in (wrong, raises, dies))

    commit = git(repository, "rev-parse", "--short", "broken")
    rows.append((row for case in result for row in case.rows), tmp_path / "rows.csv")
    base, present = rows.read(tmp_path / "rows.csv")[-2:]
    assert (base["provider"], present["provider"]) == (f"ours_sdpa@{commit}", "ours_sdpa")
    assert base["commit"] == commit != present["commit"] and base["run"] == present["run"] == "a run"
    for row in (base, present):
        assert float(row["p50_ms"]) > 0 and float(row["max_error"]) < 1e-5 and float(row["tflops"]) > 0


@pytest.mark.slow
def test_broken_working_tree(repository, started):
    break_it(repository)  # which nobody committed
    result = compared("right", repository, CASES[:4])
    assert [case.verdict for case in result] == ["slower", "wrong", "failed", "failed"]
    assert all(case.regressed for case in result) and result[0].ratio > 2
    assert all(case.notes[0].startswith("present: ") and case.base_ms and not case.present_ms for case in result[1:])
    assert worktrees(repository) == 1


def test_interrupted(repository, started, monkeypatch):
    def interrupt(*_: object) -> None:
        assert worktrees(repository) == 2 and len(started) == 2
        raise KeyboardInterrupt

    monkeypatch.setattr(regression, "make_inputs", interrupt)
    with pytest.raises(KeyboardInterrupt):
        compared("right", repository, CASES)
    assert worktrees(repository) == 1


@pytest.mark.parametrize("base", ["no-such-branch", "--help", "HEAD~2", "HEAD:fame_accel"])
def test_unknown_revision(small, base):
    with pytest.raises(ValueError, match=f"^BASE {base} is no revision of .*") as raised:
        compared(base, small, [])
    assert "\n" not in str(raised.value) and worktrees(small) == 1


def test_no_checkout_of_the_library(tmp_path, small):
    with pytest.raises(ValueError, match="^BASE HEAD~1 has no in folder/fame_accel/__init__.py$"):
        compared("HEAD~1", small, [])
    installed = small / "site-packages"  # in a repository, of which it is no part
    shutil.copytree(small / "fame_accel", installed / "fame_accel")
    (tmp_path / "fame_accel").mkdir()
    for root in (installed, tmp_path):
        with pytest.raises(ValueError, match="^BASE needs a git checkout of fame-accel"):
            compared("HEAD", root, [])


def test_revision_of_the_checkout_whatever_a_hook_sets(small, monkeypatch):
    commit = git(small, "rev-parse", "HEAD")
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    revision = find_revision("HEAD", small)
    assert (revision.commit, revision.prefix) == (commit, "in folder/") and commit.startswith(revision.short)


@pytest.mark.parametrize("removed", [".", ".git"])
def test_worktree_that_somebody_removed(small, tmp_path, removed):
    folder = tmp_path / "worktree"
    with worktree(find_revision("HEAD", small), small, folder) as checkout:
        assert (checkout / "fame_accel" / "__init__.py").is_file() and worktrees(small) == 2
        folder.joinpath(removed).unlink() if removed == ".git" else shutil.rmtree(folder)
    assert worktrees(small) == 1 and not folder.exists()


def test_worktree_that_cannot_be_made(small, tmp_path):
    folder = tmp_path / "worktree"
    (folder / "already").mkdir(parents=True)
    with pytest.raises(ValueError, match="^BASE .* cannot be checked out beside .*: git worktree: fatal: .* already"):
        with worktree(find_revision("HEAD", small), small, folder):
            raise AssertionError("it was made")
    assert worktrees(small) == 1


def test_hooks_do_not_run(small, tmp_path):
    hook = small.parent / ".git" / "hooks" / "post-checkout"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(f"#!/bin/sh\ntouch '{tmp_path}/ran'\n")
    hook.chmod(0o755)
    with worktree(find_revision("HEAD", small), small, tmp_path / "worktree"):
        assert not (tmp_path / "ran").exists()


@pytest.mark.slow
def test_worker_of_another_library(tmp_path, monkeypatch, started):
    """An import that finds the library elsewhere is told, and a process that the system ends; a new one follows."""
    monkeypatch.setattr(worker_process, "SCRIPT", Path(shutil.copy(worker_process.SCRIPT, tmp_path)))
    (tmp_path / "json.py").write_text("raise ImportError('the one beside the script')")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    worker = Worker(tmp_path / "elsewhere", CPU, tmp_path / "log")
    with pytest.raises(WorkerFailed, match=f"ImportError: fame_accel is imported from {ROOT}"):
        worker.ask("load case.pt")
    started[0].kill()
    with pytest.raises(WorkerFailed, match="its process was ended by signal 9, most likely for its memory"):
        worker.ask("time")
    with pytest.raises(WorkerFailed, match="RuntimeError: no case is loaded"):
        worker.ask("time")
    started[1].stdin.close()  # as when this process ends
    assert started[1].wait() == 0
    worker.close()


@pytest.mark.parametrize(
    ("base", "present", "expected"),
    [
        ([10, 10, 10], [10, 10, 10], "same"),
        ([10, 10.1, 10.2], [10.3, 10.4, 10.5], "same"),  # apart, by 3%
        ([10, 10.1, 10.2], [11, 11.1, 11.2], "slower"),
        ([11, 11.1, 11.2], [10, 10.1, 10.2], "faster"),
        ([10, 10, 13, 13, 13], [12, 14, 14, 14, 14], "slower"),  # ranges of quantiles, not of all times
        ([10, 10, 14, 14], [10, 13, 15, 15], "same"),  # medians 17% apart, which overlap
        ([10], [10.4], "same"),
        ([10], [20], "slower"),
    ],
)
def test_verdict(base, present, expected):
    assert verdict(base, present) == expected
    swapped = {"slower": "faster", "faster": "slower", "same": "same"}
    assert verdict(present, base) == swapped[expected]


class Scripted:
    """A worker whose calls take the milliseconds given for its first, second, ... process."""

    def __init__(self, name: str, milliseconds: list[float | None], asked: list[str]) -> None:
        self._name, self._milliseconds, self._asked = name, milliseconds, asked

    def ask(self, order: str) -> dict[str, float]:
        if order != "time":
            return {}
        self._asked.append(self._name)
        if self._milliseconds[0] is None:
            raise WorkerFailed("gone")
        return {"ms": self._milliseconds[0]}

    def close(self) -> None:
        self._milliseconds = self._milliseconds[1:]


def measured(base: list, present: list, effort: Effort = EFFORT) -> tuple[dict, str, dict, list[str]]:
    asked, failed = [], {}
    workers = {"base": Scripted("base", base, asked), "present": Scripted("present", present, asked)}
    return *regression._measure(workers, effort, Path(), failed), failed, asked


def test_a_difference_must_show_in_new_processes():
    assert measured([1.0, 1.0], [2.0, 2.0])[1] == "slower"
    assert measured([1.0, 1.0], [2.0, 1.0])[1] == "same"
    assert measured([1.0, 2.0], [2.0, 1.0])[1] == "same"


def test_turns_alternate():
    times, result, failed, asked = measured([1.0], [1.0])
    assert result == "same" and failed == {} and times == {"base": [1.0] * 5, "present": [1.0] * 5}
    once, turns = asked[:2], asked[2:]
    assert once == ["base", "present"]
    assert turns == ["present", "base", "base", "present", "present", "base", "base", "present", "present", "base"]


def test_long_calls_run_once():
    times, result, _, asked = measured([1.0], [1.01], Effort(patience=1e-3))
    assert times == {"base": [1.0], "present": [1.01]} and result == "same" and asked == ["base", "present"]


@pytest.mark.parametrize("present", [[None], [2.0, None]], ids=["at once", "when asked again"])
def test_fails_while_timed(present):
    times, result, failed, _ = measured([1.0, 1.0], present)
    assert result == "not compared" and failed == {"present": "gone"} and times == {"base": [1.0] * 5}


def test_table():
    comparisons = [
        Comparison("64x64", "fame", "slower", (1.0, 1.0, 1.0), (2.0, 2.0, 2.0), ({}, {"note": ""})),
        Comparison("8x8", "plain", "not compared", (), (12.0, 12.5, 13.0), ({"note": "failed: gone"}, {})),
    ]
    assert table(comparisons).splitlines() == [
        "shape  operation  base ms (20-80%)  present ms (20-80%)  ratio  verdict",
        "64x64  fame                1 (1-1)              2 (2-2)      2  slower",
        "8x8    plain                     -     12.5 (12.2-12.8)      -  not compared",
        "    base: failed: gone",
    ]


@pytest.mark.parametrize(("verdicts", "status"), [(("same", "faster"), 0), (("slower", "same"), 1)])
def test_command(verdicts, status, capsys, tmp_path, monkeypatch):
    def compare(base, cases, *, report, **_):
        comparisons = []
        for index, (shape, operation) in enumerate(cases):
            row = {"shape": shape.name, "operation": operation.name, "provider": "ours_sdpa"}
            case = Comparison(shape.name, operation.name, verdicts[index % 2], (1.0,), (2.0,), (row, row))
            comparisons.append(case)
            report(case)
        return comparisons

    monkeypatch.setattr(regression, "find_revision", lambda *_: None)
    monkeypatch.setattr(regression, "compare", compare)
    flags = ("--frames", "1", "--size", "64", "--modulation", "region-mask", "--out", str(tmp_path / "rows.csv"))
    assert regression.main(["HEAD", *flags]) == status
    text = capsys.readouterr().out
    assert "  8x8 region_mask_decay: " in text and "ratio: the present tree's median over the base's" in text
    assert ("No case regressed." in text) == (status == 0) and ("Regressed: 8x8 region_mask_decay, " in text) == status
    assert len(rows.read(tmp_path / "rows.csv")) == 2 * 8


def test_bad_arguments_of_the_command_give_one_line(capsys, tmp_path):
    for arguments, message in ((("HEAD", "--frames", "0"), "--frames must"), (("no-such-revision",), "BASE")):
        assert regression.main([*arguments, "--out", str(tmp_path / "rows.csv")]) == 2
        text = capsys.readouterr().err
        assert text.startswith(message) and text.count("\n") == 1
    assert list(tmp_path.iterdir()) == []

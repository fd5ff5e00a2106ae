"""The tuner: what it tries, what it keeps, and its command from end to end in Triton's interpreter."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import pytest
import torch

from fame_accel import bindings
from fame_accel.cli import main
from fame_accel.core import planning
from fame_accel.kernels.launch import Launch
from fame_accel.kernels.launch_table import KERNELS
from fame_accel.tools import parity_cases, tune, tune_cases
from fame_accel.tools.tune import TableKey

CPU = torch.device("cpu")
interpreted = pytest.mark.skipif(
    find_spec("triton") is None or os.environ.get("TRITON_INTERPRET") != "1",
    reason="needs Triton and TRITON_INTERPRET=1",
)
without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
ENTRY = Launch(32, 32, 1, 1)  # of the interpreter


@pytest.fixture
def entry_in_use(launch_table: ModuleType) -> Callable[[], Launch]:
    """The interpreter's launch of the tiled kernels at this moment."""
    return lambda: launch_table.choose_launch("tiled", "interpreter", 16, 2)


@pytest.fixture
def two_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two candidates besides the table's: 64 rows, and 16 keys."""
    monkeypatch.setattr(tune, "_CHANGES", ((1, 0, 0, 0), (0, -1, 0, 0)))


# Candidates


FAMILIES = ["sm75", "sm80", "sm86", "sm90", "sm100", "sm130", "cdna", "rdna", "gfx1030"]


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("family", FAMILIES)
def test_candidates(family: str, kernel: str, launch_table: ModuleType) -> None:
    for head_dim, element_size in ((40, 2), (160, 2), (128, 4)):
        entry = launch_table.choose_launch(kernel, family, head_dim, element_size)
        if entry is None:
            continue
        result = tune.candidates(TableKey(kernel, family, head_dim, element_size), entry)
        assert result[0] == entry and len(set(result)) == len(result) and 5 <= len(result) <= 20
        for launch in result:
            row = dict(kernel=kernel, family=family, head_dim=head_dim, element_size=element_size)
            assert launch_table._problem(row | launch._asdict()) is None
            if family in ("rdna", "sm75", "gfx1030"):
                assert launch.num_stages == 1


def test_candidates_fit_the_shared_memory() -> None:
    entry = Launch(128, 64, 4, 3)
    result, small = (tune.candidates(TableKey("tiled", "sm90", 128, 2), entry, limit) for limit in (None, 64 << 10))
    assert Launch(128, 64, 4, 4) in result and Launch(128, 64, 4, 4) not in small
    assert small[0] == entry and set(small) < set(result)


def test_candidates_fit_the_registers() -> None:
    assert Launch(256, 32, 4, 1) not in tune.candidates(TableKey("tiled", "sm80", 160, 2), Launch(128, 32, 4, 1))
    assert Launch(256, 32, 8, 1) in tune.candidates(TableKey("tiled", "sm80", 160, 2), Launch(128, 32, 4, 1))


# Cases


@interpreted
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.slow
def test_cases_reach_their_kernel(kernel: str, launch_table: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """A trial would else time a kernel that its launch does not change."""
    asked: list[str] = []

    def choose(name: str, *chip: object) -> Launch | None:
        asked.append(name)
        return choose_launch(name, *chip)

    choose_launch = launch_table.choose_launch
    monkeypatch.setattr(launch_table, "choose_launch", choose)
    case = (kernel, 16, torch.float32, CPU)
    for call in (*tune_cases.timed_cases(*case), *tune_cases.other_cases(*case)):
        asked.clear()
        assert call.mistake() is None
        assert set(asked) == {kernel}


def test_sizes_for_a_gpu() -> None:
    """Longer than what the few-keys operator takes."""
    layout = parity_cases.three_regions(8, 32).tokens(32, 32)
    assert layout.num_tokens == 8192 and layout.region.unique().tolist() == [1, 2, 4]
    assert tune_cases.JUDGED.frames * tune_cases.JUDGED.side**2 > planning.UNTILED_KEYS


@interpreted
def test_mistakes_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    [case, _] = tune_cases.timed_cases("few_keys", 16, torch.float16, CPU)
    right = case.run()
    assert case.mistake() is None
    for wrong in (right + 0.01, right * torch.nan):
        monkeypatch.setattr(parity_cases, "layout_attention", lambda wrong=wrong, **_: wrong)
        assert "wrong result on 77 text keys: error max" in case.mistake()


# What is kept


def tuned(out: Path, **options: object) -> bool:
    return tune.run_tune(out, [16], kernels=["tiled"], device="cpu", **options)


@interpreted
@pytest.mark.parametrize(
    ("table_ms", "other_ms", "kept"),
    [(2.0, 1.0, Launch(64, 32, 1, 1)), (1.0, 0.99, ENTRY), (1.0, 2.0, ENTRY)],
    ids=["faster", "tie", "slower"],
)
def test_the_fastest_is_kept(
    table_ms: float,
    other_ms: float,
    kept: Launch,
    two_changes: None,
    entry_in_use: Callable[[], Launch],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And the table's entry where another is faster by 1%."""
    times = {ENTRY: table_ms, Launch(64, 32, 1, 1): other_ms, Launch(32, 16, 1, 1): 9.0}
    monkeypatch.setattr(tune, "milliseconds", lambda call, device: times[entry_in_use()])
    assert tuned(tmp_path / "launches.json")
    [row] = json.loads((tmp_path / "launches.json").read_text())
    assert Launch(*(row[name] for name in Launch._fields)) == kept
    assert (row["ms"], row["table_ms"]) == (times[kept], table_ms)
    assert entry_in_use() == ENTRY


@interpreted
def test_wrong_and_failing_candidates_are_left_out(
    two_changes: None,
    entry_in_use: Callable[[], Launch],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One does not fit the chip, one is wrong on a call that is not timed; both would be fastest."""
    mistake = parity_cases.ParityCase.mistake

    def judge(case: parity_cases.ParityCase) -> str | None:
        if entry_in_use().block_q == 64:
            raise RuntimeError("out of resource: shared memory\nand more")
        return "wrong result" if entry_in_use().block_k == 16 and "first frame" in case.name else mistake(case)

    monkeypatch.setattr(parity_cases.ParityCase, "mistake", judge)
    monkeypatch.setattr(tune, "milliseconds", lambda call, device: 2.0 if entry_in_use() == ENTRY else 1.0)
    assert tuned(tmp_path / "launches.json")
    [row] = json.loads((tmp_path / "launches.json").read_text())
    assert (row["block_q"], row["block_k"], row["ms"]) == (32, 32, 2)
    printed = capsys.readouterr().out
    assert re.search("64 x 32, warps 1, stages 1 +RuntimeError: out of resource: shared memory\n", printed)
    assert "not 32 x 16, warps 1, stages 1: wrong result\n" in printed


@interpreted
def test_nothing_right_writes_nothing(
    two_changes: None, launch_table: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parity_cases.ParityCase, "mistake", lambda case: "wrong result")
    assert not tuned(tmp_path / "launches.json")
    assert not (tmp_path / "launches.json").exists()


@interpreted
def test_a_lost_device_ends_it(
    two_changes: None, entry_in_use: Callable[[], Launch], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(case: parity_cases.ParityCase) -> None:
        raise torch.AcceleratorError("an illegal memory access was encountered")

    monkeypatch.setattr(parity_cases.ParityCase, "mistake", lost)
    with pytest.raises(torch.AcceleratorError):
        tuned(tmp_path / "launches.json")
    assert entry_in_use() == ENTRY


# The command


@interpreted
@pytest.mark.slow
def test_command(
    two_changes: None, launch_table: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All of it, timed for real: the file holds a launch of each kernel, and loading it gives these."""
    out, kernels = tmp_path / "launches.json", ["tiled", "few_keys"]
    assert set(kernels) < set(KERNELS)
    arguments = ["--device", "cpu", "--head-dims", "16", "--kernels", *kernels, "--out", str(out)]
    assert main(["tune", *arguments]) == 0
    printed = capsys.readouterr().out
    assert printed.count("1.000  table\n") == printed.count("  best: ") == 2 and f"FAME_ACCEL_LAUNCHES={out}" in printed
    rows = json.loads(out.read_text())
    assert [row["kernel"] for row in rows] == kernels
    for row in rows:
        assert (row["family"], row["head_dim"], row["element_size"], row["dtype"]) == ("interpreter", 16, 2, "float16")
        assert 0 < row["ms"] <= row["table_ms"] and row["triton"] and row["torch"] and row["device"]
        row.update(block_q=128)  # for sure not the table's
    out.write_text(json.dumps(rows))
    assert launch_table.load(out) == 2
    for row in rows:
        chosen = launch_table.choose_launch(row["kernel"], "interpreter", 16, 2)
        assert chosen == Launch(*(row[name] for name in Launch._fields))
    assert bindings.tile_shape(CPU, torch.float16, 16, False, False) == (128, rows[0]["block_k"])


@without_gpu
def test_no_gpu_ends_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tune", "--out", str(tmp_path / "launches.json")]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.count("\n") == 1
    assert printed.err.startswith("fame-accel: tune needs a GPU, and torch") and "TRITON_INTERPRET=1" in printed.err


@interpreted
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--head-dims", "0"], "--head-dims must lie in 1 to 256, got 0"),
        (["--head-dims", "40", "300"], "--head-dims"),
        (["--dtypes", "float64"], "--dtypes must be some of float32, float16, bfloat16, got float64"),
        (["--dtypes", "float16", "bfloat16"], "which share their entries"),
        (["--dtypes", "bfloat16"], "bfloat16"),
        (
            ["--kernels", "fast"],
            "--kernels must be some of tiled, one_pass, two_pass, few_keys, streamed_keys, got fast",
        ),
        (["--device", "mps"], "--device must be a cuda device, or cpu to try the command, got mps"),
        (["--out", "nowhere/launches.json"], "--out nowhere/launches.json"),
        (["--out", "."], "--out: . is a folder"),
    ],
)
def test_mistakes_end_in_one_line(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["tune", "--device", "cpu", "--out", str(tmp_path / "launches.json"), *arguments]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.count("\n") == 1
    assert printed.err.startswith("fame-accel: ") and message in printed.err


@pytest.mark.gpu
@pytest.mark.slow
def test_command_on_a_gpu(launch_table: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tune, "_CHANGES", ((-1, 0, 0, 0), (0, 0, 0, -1)))
    out = tmp_path / "launches.json"
    kernels = [kernel for kernel in KERNELS if launch_table.choose_launch(kernel, _family(), 64, 2)]
    assert main(["tune", "--head-dims", "64", "--out", str(out)]) == 0
    rows = json.loads(out.read_text())
    assert [row["kernel"] for row in rows] == kernels
    assert all(0 < row["ms"] <= row["table_ms"] for row in rows)
    assert launch_table.load(out) == len(kernels)


def _family() -> str:
    from fame_accel.bindings.device import family

    return family(torch.device("cuda", torch.cuda.current_device()))

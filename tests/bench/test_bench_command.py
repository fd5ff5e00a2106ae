"""`fame-accel bench` as a user calls it, and the network it measures."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from fame_accel.bench.group import Protocol
from fame_accel.bench.regression import Comparison
from fame_accel.bench.rows import read
from fame_accel.bench.timing import Effort
from fame_accel.cli import main
from fame_accel.cli.bench import level_shapes

SMALL = ("bench", "--frames", "2", "--size", "64", "--seconds", "60")


@pytest.fixture(autouse=True)
def memory_goes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process is that of other tests, too."""
    monkeypatch.setattr("fame_accel.cli.bench.keep_freed_memory", lambda: False)


def test_shapes_are_the_models_levels() -> None:
    levels = level_shapes("sd15", 8, (256, 384), (0.25,) * 4)
    assert [(s.height, s.width, s.heads, s.head_dim, layers) for s, layers in levels.items()] == [
        (32, 48, 8, 40, 5), (16, 24, 8, 80, 5), (8, 12, 8, 160, 5), (4, 6, 8, 160, 1),
    ]  # fmt: skip
    assert all(shape.frames == 8 and shape.areas == (0.25,) * 4 for shape in levels)
    tiny = level_shapes("sd15", 1, (8, 8), (1.0,))
    assert len({shape.name for shape in tiny}) == len(tiny) == 4


def test_files_and_table(capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    out = tmp_path / "new" / "out"
    assert main([*SMALL, "--areas", "0.3", "0.7", "--out", str(out)]) == 0
    assert "2 regions of 0.3 and 0.7" in capsys.readouterr().out
    assert main([*SMALL, "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "sd15, 2 frames of 64x64, 2 regions, fame" in said and "Attention of one modulated step" in said
    assert "  8x8, 1 frame, fame: eager " in said and "  8x8, 2 frames, cross-attention to 77 words: " in said
    assert "By these medians all attention of a guided edit" in said
    found = read(out / "bench.csv")
    assert len({row["run"] for row in found}) == 2  # the second run was added
    providers = {row["provider"] for row in found}
    assert {"eager", "sdpa_plain"} < providers and len(providers) == 3
    assert {row["shape"] for row in found} >= {"8x8", "1x1", "8x8-text77", "8x8-f1"}
    for row in found:
        assert float(row["p50_ms"]) > 0 and not row["note"].startswith(("WRONG", "failed")), row
    assert (out / "bench.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    page = (out / "bench.html").read_text()
    assert "2 frames of 64x64" in page and not re.search(r"(src|href)=[\"']https?:", page)


def test_a_wrong_result_of_ours_is_an_error(
    capsys: pytest.CaptureFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(
        "fame_accel.bench.providers.ours.layout_attention", lambda query, *_, **__: torch.zeros_like(query)
    )
    assert main([*SMALL, "--out", str(tmp_path)]) == 1
    assert "WRONG" in capsys.readouterr().out


@pytest.mark.parametrize(
    "verdicts, status, last",
    [(("same", "faster"), 0, "No case regressed."), (("slower", "same"), 1, "Regressed: 8x8 region_mask_decay, ")],
)
def test_revisions_are_compared(
    verdicts: tuple[str, str],
    status: int,
    last: str,
    capsys: pytest.CaptureFixture,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is said of what the comparison finds; test_bench_regression.py has the comparison."""

    def compare(base: str, cases: list, *, report: Callable[[Comparison], None], **_: object) -> list[Comparison]:
        found = []
        for place, (shape, operation) in enumerate(cases):
            row = {"shape": shape.name, "operation": operation.name, "provider": "ours_sdpa"}
            verdict = verdicts[place % 2]
            found.append(Comparison(shape.name, operation.name, verdict, (1.0,), (2.0,), (row, row)))
            report(found[-1])
        return found

    monkeypatch.setattr("fame_accel.bench.regression.find_revision", lambda *_: None)
    monkeypatch.setattr("fame_accel.bench.regression.compare", compare)
    options = ("--modulation", "region_mask", "--base", "HEAD", "--out", str(tmp_path))
    assert main([*SMALL, *options]) == status
    said = capsys.readouterr().out
    assert "  8x8 region_mask_decay: " in said and "ratio: the present tree's median over the base's" in said
    assert last in said and said.endswith(f"Wrote bench.csv to {tmp_path}\n")
    assert len(read(tmp_path / "bench.csv")) == 2 * 8


def test_options_are_written_out(capsys: pytest.CaptureFixture) -> None:
    assert main([*SMALL, "--mod", "fame"]) == 2
    assert "unrecognized arguments: --mod" in capsys.readouterr().err


def test_nothing_fits_the_time(
    capsys: pytest.CaptureFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.setattr("fame_accel.bench.sweep.Budget.left", 0.0)
    monkeypatch.setattr("os.getloadavg", lambda: (1.5, 0.0, 0.0), raising=False)
    (tmp_path / "bench.html").write_text("of a run before")
    assert main([*SMALL, "--out", str(tmp_path)]) == 1
    said = capsys.readouterr().out
    assert "Too little was measured" in said and "too short: 100, the default" in said
    assert said.count("Other work ran on this machine (load average 1.5 on") == 1
    assert {file.name for file in tmp_path.iterdir()} == {"bench.csv"}


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("--frames", "0"), "--frames must lie in 1 to 1024, got 0"),
        (("--size", "100"), "--size must be positive multiples of 8, got 100x100"),
        (("--size", "0x64"), "--size must be positive multiples of 8, got 0x64"),
        (("--regions", "32"), "--regions must lie in 1 to 31, got 32"),
        (("--areas", "0.5", "0.4"), "--areas must be above 0 and add up to 1, got 0.5 0.4"),
        (("--areas", "1.5", "-0.5"), "--areas must be above 0 and add up to 1, got 1.5 -0.5"),
        (("--areas", "1", "nan"), "--areas must be above 0 and add up to 1, got 1 nan"),
        (("--areas", "1", "--regions", "1"), "--regions and --areas exclude each other"),
        (("--seconds", "nan"), "--seconds must be at least 1, got nan"),
        (("--modulation", "plain"), "--modulation must be one of fame, fame-strength, videograin, region-mask"),
        (("--dtype", "float64"), "--dtype must be one of float16, bfloat16, float32, got float64"),
        (("--providers", "flex"), "--providers must be one of main, all, got flex"),
        (("--device", "tpu"), "--device tpu: "),
        (("--device", "meta"), "--device must be cpu or cuda, got meta"),
        (("--model", "sd9"), "--model must be sd15, sd21, sdxl or a checkpoint folder"),
        (("--base", "no-such-revision"), "--base"),
    ],
)
def test_mistakes_end_in_one_line(
    capsys: pytest.CaptureFixture, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    assert main([*SMALL, "--out", str(tmp_path / "out"), *arguments]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and message in said
    assert not (tmp_path / "out").exists()


def test_out_must_be_a_folder(capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    assert main([*SMALL, "--out", str(file)]) == 2
    assert "must be a folder" in capsys.readouterr().err


def test_help_needs_torch_alone() -> None:
    code = "import sys; from fame_accel.cli import bench; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"matplotlib", "diffusers", "transformers", "PIL"} & set(loaded)


@pytest.mark.slow
@pytest.mark.parametrize("operation", ["unet_block", "denoising_step"])
def test_network(operation: str) -> None:
    pytest.importorskip("diffusers")
    from fame_accel.bench.network import Network, measure_network
    from fame_accel.demo.pipeline import random_pipeline

    network = Network(random_pipeline().unet, "toy")
    protocol = Protocol(Effort(0.0, least=2), memory=False, run="now")
    found = {row["provider"]: row for row in measure_network(network, operation, 3, 64, protocol)}
    assert list(found) == ["eager", "sdpa_plain", "ours_triton", "ours_sdpa"]
    for name in ("eager", "ours_sdpa", "sdpa_plain"):
        assert float(found[name]["p50_ms"]) > 0 and found[name]["eager_speedup"]
    assert 0 < float(found["ours_sdpa"]["max_error"]) < 1e-3 and "max_error" not in found["sdpa_plain"]
    assert network.unet.dtype == torch.float32 and not hasattr(network.unet.mid_block.attentions[0], "state")


@pytest.mark.slow
def test_a_wrong_network_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("diffusers")
    from fame_accel.adapter import processors
    from fame_accel.bench.network import Network, measure_network
    from fame_accel.demo.pipeline import random_pipeline

    right = processors.layout_attention

    def wrong(*given: object, backend: str, **options: object) -> torch.Tensor:
        return right(*given, backend=backend, **options) * (1.1 if backend == "sdpa" else 1)

    monkeypatch.setattr(processors, "layout_attention", wrong)
    protocol = Protocol(Effort(0.0, least=2), memory=False, run="now")
    rows = measure_network(Network(random_pipeline().unet, "toy"), "unet_block", 2, 64, protocol)
    found = {row["provider"]: row for row in rows}
    assert found["ours_sdpa"]["note"].startswith("WRONG") and "p50_ms" not in found["ours_sdpa"]
    assert found["eager"]["p50_ms"]

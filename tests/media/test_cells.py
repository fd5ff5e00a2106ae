"""Text in CSV files is never a formula, and is read back unchanged; incomplete rows and nested JSON are refused."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from fame_accel.bench.rows import COLUMNS as BENCH_COLUMNS
from fame_accel.bench.rows import append, read
from fame_accel.edit.record import read_record
from fame_accel.kernels.launch_table import load
from fame_accel.media.cells import as_cell, read_cell
from fame_accel.media.mask_images import _label_names
from fame_accel.suite.results import COLUMNS, Results, read_results

FORMULAS = ['=HYPERLINK("x")', "+cmd|' /C calc'!A0", "-2+3+cmd", "@SUM(A1)", "\t=1", "'=1", "''-x", "-", "="]


@pytest.mark.parametrize("text", FORMULAS)
def test_a_formula_becomes_text_and_comes_back(text: str):
    assert as_cell(text) == "'" + text and read_cell(as_cell(text)) == text


@pytest.mark.parametrize("value", ["a video", "", "-0.25", "+1e-5", "'quoted'", "a=b", 3, -0.5, None])
def test_other_values_stay(value: object):
    assert as_cell(value) == value and read_cell(value) == value


def test_rows_of_the_suite_come_back(tmp_path: Path):
    results = Results(tmp_path, {})
    row: dict[str, object] = dict.fromkeys(COLUMNS, "-0.5") | {
        "clip": "=clip",
        "prompt": "@a, 'b'",
        "profession": "'=n",
    }
    results.append(row)
    assert read_results(results.path) == [row] == results.rows
    assert Results(tmp_path, {}).finished(**{name: row[name] for name in ("clip", "profession", "template", "target")})
    with results.path.open(newline="", encoding="utf-8") as file:
        [cells] = csv.DictReader(file)
    assert (cells["clip"], cells["psnr_db"]) == ("'=clip", "-0.5")


def test_rows_of_the_bench_come_back(tmp_path: Path):
    append([{"shape": "=1+1", "device": "-x", "p50_ms": -1.5}], tmp_path / "bench.csv")
    append([{"shape": "64x64"}], tmp_path / "bench.csv")
    first, second = read(tmp_path / "bench.csv")
    assert (first["shape"], first["device"], first["p50_ms"], second["shape"]) == ("=1+1", "-x", "-1.5", "64x64")
    assert "'=1+1" in (tmp_path / "bench.csv").read_text()


@pytest.mark.parametrize("cut", [1, 40])
def test_a_torn_row_of_the_bench_is_refused_and_kept(tmp_path: Path, cut: int):
    path = tmp_path / "bench.csv"
    append([{"shape": "64x64"}], path)
    path.write_bytes(torn := path.read_bytes()[:-cut])
    with pytest.raises(ValueError, match="ends in an incomplete row"):
        append([{"shape": "32x32"}], path)
    assert path.read_bytes() == torn
    if cut > 1:
        with pytest.raises(ValueError, match="row 1 has another number of cells"):
            read(path)
    assert len(BENCH_COLUMNS) > 1


@pytest.mark.parametrize("read_file", [read_record, load, _label_names])
def test_nested_json_ends_in_one_line(tmp_path: Path, read_file: object):
    file = tmp_path / "deep.json"
    file.write_text("[" * 200_000)
    with pytest.raises(ValueError, match="deep.json") as error:
        read_file(file)
    assert "\n" not in str(error.value)

"""What the pages of docs/ claim: ticks stand for tests, figures follow from their formulas, links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pandas
import pytest
from support import ROOT
from video_models import VIDEO_MODELS

PAGES = sorted((ROOT / "docs").glob("*.md"))


def test_a_family_is_ticked_if_and_only_if_it_is_tested():
    motion = (ROOT / "tests/adapter/test_motion.py").read_text(encoding="utf-8")
    tested = {*VIDEO_MODELS, *re.findall(r'^    "([\w -]+)": _', motion, re.MULTILINE)}
    page = (ROOT / "docs/video_models.md").read_text(encoding="utf-8")
    assert set(re.findall(r"✓ ([^|]+?) \|", page)) == tested


def test_the_table_of_memory_and_communication():
    page = (ROOT / "docs/parallel.md").read_text(encoding="utf-8")
    whole = 4 * 75_600 * 40 * 128 * 2 / 2**30  # query, key, value and output in bfloat16, GiB
    assert f"| 1 | {whole:.2f} GiB | 0 |" in page
    for ranks in (4, 8):
        kept, sent = 2 * whole / ranks, whole / ranks * (ranks - 1) / ranks
        assert f"| {ranks} | {kept:.2f} GiB | {sent:.2f} GiB |" in page
    assert f"40 ranks keep {2 * whole / 40:.2f} GiB and send {whole / 40 * 39 / 40:.2f} GiB" in page
    assert f"{75_600**2 / 2**30:.1f} GiB as bool" in page


def test_the_section_of_ports_is_that_of_its_results_and_code():
    from benchmarks import ports

    page = ports.PAGE.read_text(encoding="utf-8")
    written = page.partition(ports.MARK)[2].partition(ports.END)[0]
    assert written.strip() == ports.section(pandas.read_csv(ports.RESULTS)).strip()


@pytest.mark.parametrize("page", PAGES, ids=[page.stem for page in PAGES])
def test_links_lead_to_files(page: Path):
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert not missing

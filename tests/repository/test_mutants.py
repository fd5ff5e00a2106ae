"""The planted faults of `make mutants` fit the source, and their table is up to date."""

import pytest
from mutants.faults import FAULTS, Fault
from support import ROOT


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_fault_can_be_planted(fault: Fault):
    assert (ROOT / fault.file).read_text(encoding="utf-8").count(fault.old) == 1
    assert fault.old != fault.new and (ROOT / fault.tests[0].partition("::")[0]).is_file()


def test_table_lists_every_fault():
    lines = (ROOT / "tests/mutants/table.md").read_text(encoding="utf-8").splitlines()
    rows = [tuple(line.strip("| ").split(" | ")) for line in lines if line.startswith("| ")][1:]
    assert [row[:2] for row in rows] == [(fault.name, fault.file) for fault in FAULTS]
    assert all(row[2].startswith("`tests/") for row in rows)
    assert len({fault.name for fault in FAULTS}) == len(FAULTS) >= 20

"""The strength of debiasing has one default."""

from __future__ import annotations

import argparse

from support import ROOT

from fame_accel.cli import edit, suite
from fame_accel.demo.edit import DEBIAS
from fame_accel.edit.options import EditOptions
from fame_accel.fairness import Debias


def test_one_default_everywhere():
    parser = argparse.ArgumentParser()
    suite.add_arguments(parser)
    default = Debias("doctor").eta
    assert EditOptions.eta == parser.get_default("eta") == default
    assert [one.eta for one in DEBIAS] == [default]
    helped = argparse.ArgumentParser()
    edit.add_arguments(helped)
    assert f"which is --ddim-eta (default: {default})" in " ".join(helped.format_help().split())
    assert "eta=1" not in (ROOT / "README.md").read_text(encoding="utf-8")

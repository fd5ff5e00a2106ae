"""The commands doctor, plan and tune import what does their work when they run."""

from __future__ import annotations

import os
import subprocess
import sys

from support import ROOT

HELP = """
import sys
from fame_accel.cli import main
for name in ("doctor", "plan", "tune"):
    try:
        main([name, "--help"])
    except SystemExit as ending:
        assert not ending.code, (name, ending.code)
print(*sorted(sys.modules), sep="\\n")
"""


PRIVACY = ("fame_accel.media", "fame_accel.media.privacy")  # set before anything else is imported


def test_help_imports_no_work() -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    ran = subprocess.run([sys.executable, "-c", HELP], capture_output=True, text=True, env=environment)
    assert ran.returncode == 0, ran.stderr
    assert "--memory GIB" in ran.stdout and "--head-dims" in ran.stdout and "--json FILE" in ran.stdout
    modules = set(ran.stdout.splitlines())
    assert "fame_accel.cli.plan" in modules
    work = ("fame_accel.tools.doctor", "fame_accel.tools.tune", "fame_accel.tools.planner.", "fame_accel.media")
    names_of_models = {"fame_accel.tools.planner.network", "fame_accel.tools.planner.video_models"}
    loaded = {name for name in modules if name.startswith(work)} - names_of_models - {*PRIVACY}
    assert loaded == set() and not modules & {"torch._dynamo", "triton", "numpy.testing", "matplotlib"}

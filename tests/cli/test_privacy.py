"""No command sends anything, looks up a host, or leaves files outside of its outputs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from edit_inputs import flags, make_inputs
from support import ROOT

# Runs commands one after the other and prints what they did; what libraries do without Python shows in the home folder.
COMMANDS = """
import json, sys
events, watched = [], ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto")
sys.addaudithook(lambda event, arguments: events.append(event) if event in watched else None)
from fame_accel.cli import main
for command in json.loads(sys.argv[1]):
    assert main(command) == 0, command
print(json.dumps([events, "onnxruntime" in sys.modules]))
"""


def run(commands: list[list[str]], home: Path) -> tuple[list[str], bool]:
    """(network events, whether onnxruntime was loaded) of commands in a process whose home folder is new."""
    home.mkdir()
    names = ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "LOCALAPPDATA", "USERPROFILE")
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), **dict.fromkeys(names, str(home))}
    done = subprocess.run(
        [sys.executable, "-c", COMMANDS, json.dumps(commands)], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return tuple(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.slow
def test_commands_keep_to_themselves(tmp_path):
    make_inputs(tmp_path)
    clip, out = str(tmp_path / "clip.mp4"), tmp_path / "out"
    out.mkdir()
    edit = [
        ["edit", *flags(tmp_path, out / "a.mp4", controlnet=tmp_path / "controlnet", control="canny")],
        ["plan", "--frames", "2", "--size", "64", "--out", str(out / "plan")],
        ["doctor"],
    ]
    events, loaded = run(edit, tmp_path / "home")
    assert not events and not loaded
    assert not [file for file in (tmp_path / "home").rglob("*") if file.is_file()]
    events, loaded = run([["evaluate", clip, clip, "--out", str(out / "figures.json")]], tmp_path / "another")
    assert not events and loaded  # by the classifier of faces, which runs on it
    assert not [file for file in (tmp_path / "another").rglob("*") if file.is_file()]

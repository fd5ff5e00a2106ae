"""What tests of several folders share of the repository itself."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ("fame_accel", "kernels", "bindings")

# Code that makes packages look absent, to import as to importlib.util.find_spec; format it with hidden=(names,).
HIDE = """
import sys
class Hide:
    def __init__(self, finder): self.finder = finder
    def __getattr__(self, name): return getattr(self.finder, name)
    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in {hidden!r} else self.finder.find_spec(name, path, target)
sys.meta_path[:] = [Hide(finder) for finder in sys.meta_path]
"""


def run_python(
    *arguments: object, cwd: Path, python: str | Path = sys.executable, first_on_path: Path | None = None
) -> str:
    """Output of a fresh Python, whose path holds `first_on_path` and no folder of this process that is the checkout."""
    env = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONSAFEPATH")}
    inherited = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    elsewhere = [entry for entry in inherited if Path(entry).resolve() != ROOT]
    env["PYTHONPATH"] = os.pathsep.join([*([str(first_on_path)] if first_on_path else []), *elsewhere])
    command = [str(python), *map(str, arguments)]
    result = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True)
    assert result.returncode == 0, f"{command} in {cwd}\n{result.stdout}\n{result.stderr}"
    return result.stdout

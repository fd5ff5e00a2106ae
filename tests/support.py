"""What tests of several folders share of the repository itself."""

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

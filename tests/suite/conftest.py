"""What the tests of this folder share: the files that a suite reads."""

from pathlib import Path

import pytest
from suite_inputs import make_inputs


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """clip.mp4, masks/ and model/ of `make_inputs`."""
    folder = tmp_path_factory.mktemp("inputs")
    make_inputs(folder)
    return folder

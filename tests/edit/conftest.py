"""What the tests of this folder share: the files that an edit reads."""

from pathlib import Path

import pytest
from edit_inputs import make_inputs


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint, a ControlNet, a video and its masks."""
    home = tmp_path_factory.mktemp("edit")
    make_inputs(home)
    return home

from pathlib import Path

import pytest

from tests.components.platform.repositories import begin, draw


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A git and DVC repository without data."""
    return begin(tmp_path / "repository")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Class folders with three images each."""
    return draw(tmp_path / "photos")

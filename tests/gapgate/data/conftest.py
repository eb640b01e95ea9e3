import pytest

from gapgate.data.sources import open_source
from gapgate.settings.sections import Reading


@pytest.fixture
def opened(tmp_path, tmp_path_factory):
    """Opens a source, by default the test's folder `data`, with a scratch folder of its own."""

    def open_it(path=None, reading=Reading()):  # noqa: B008 (frozen)
        return open_source(path or tmp_path / "data", tmp_path_factory.mktemp("scratch"), reading)

    return open_it


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    return folder

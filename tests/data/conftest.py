import pytest


@pytest.fixture
def data_folder(folders):
    """The data folder of the test, empty."""
    (folders / "data").mkdir()
    return folders / "data"

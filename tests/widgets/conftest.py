"""A browser for the tests of widgets and pages."""

import os

import pytest
from lab import chromium


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        if not browser:
            refuse = pytest.fail if os.environ.get("CI") else pytest.skip
            refuse("the browser tests need Chromium (Debian: apt install chromium) and playwright (pip install playwright)")
        yield browser

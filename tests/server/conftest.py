"""One server for all tests of a file: it loads the model once."""

from __future__ import annotations

import pytest
from server_client import serving


@pytest.fixture(scope="module")
def server():
    with serving() as running:
        yield running

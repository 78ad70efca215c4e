"""The tables of a packing by hand."""

from pathlib import Path

import pytest

from tests.support.packing import World


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Tables of the test's own, to be changed before they are packed."""
    return World(tmp_path)

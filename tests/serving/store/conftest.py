"""The stores that tests of publishing, fetching, retention and users share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from corank.serving.store.base import Store
from tests.support.stores import KINDS, opened


@pytest.fixture(params=KINDS)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """An empty store of each kind."""
    with opened(request.param, tmp_path) as backend:
        yield backend


@pytest.fixture
def local(tmp_path: Path) -> Iterator[Store]:
    """An empty LMDB store."""
    with opened("lmdb", tmp_path) as backend:
        yield backend

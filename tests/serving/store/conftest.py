"""The stores that tests of publishing, fetching, retention and users share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from corank_serve.store.base import Store
from tests.support.bundle_versions import variant
from tests.support.shared import derived
from tests.support.stores import KINDS, opened


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Of four models, one table of items."""
    folder, first = tmp_path_factory.mktemp("bundles"), derived().base / "bundle"
    return [first, *(variant(first, folder / f"{n}", n) for n in (2, 3, 4))]


@pytest.fixture(scope="session")
def first(bundles: list[Path]) -> Path:
    return bundles[0]


@pytest.fixture(scope="session")
def second(bundles: list[Path]) -> Path:
    return bundles[1]


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

"""The broker that tests of streams share."""

from collections.abc import Iterator

import pytest

from tests.support.kafka_broker import Broker, kafka_broker


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A broker; each test makes topics of its own."""
    with kafka_broker(tmp_path_factory.mktemp("broker")) as started:
        yield started

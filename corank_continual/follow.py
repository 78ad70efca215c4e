"""The commands that follow a topic of Kafka, as functions. Each runs until SIGTERM or Ctrl-C, which it obeys at once.

They read the properties of the client from the file that CORANK_KAFKA_PROPERTIES names, and from variables such as
CORANK_KAFKA_SASL_PASSWORD.
"""

import hashlib
import socket
import threading
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Annotated

from corank.api.config_source import OpenedConfig
from corank.core.errors import ConfigError
from corank.core.lazy import require
from corank.core.locks import WriteLock
from corank.core.machine_errors import name_write_errors
from corank.core.objects import PathOrUrl, require_local
from corank.core.options import Option
from corank.core.reports import Report
from corank.core.settings import read_duration
from corank.core.time import DAY
from corank_continual.streams.follow import follow, stopping_by_signal
from corank_continual.streams.log import LogSink
from corank_continual.streams.messages import DeadLetters
from corank_continual.streams.metrics import FollowMetrics
from corank_continual.streams.store import ItemSink, StoreSink, UserSink
from corank_continual.streams.topic import KafkaTopic, TopicReader
from corank_serve.store.base import CACHE, open_store
from corank_serve.store.source import identify_store

DURATION = Option(parse=read_duration)
"""A length of time, which the command line takes as `10m`."""


def follow_items(
    source: str,
    store: str,
    group: str | None = None,
    dead_letter: str | None = None,
    metrics: str | None = None,
    report: Report = lambda line: None,
) -> None:
    """Put new and changed items of a topic into a store; a tombstone removes one.

    A message is a row as JSON, a list of rows, or Arrow record batches, with the columns of the table of items. What it
    changes and its offset are written in one step: killed at any moment, nothing is lost and nothing applied twice.
    Experimental.

    Args:
        source: `kafka://HOST[:PORT]/TOPIC`.
        store: the store's address. It has a live version.
        group: of processes that share the topic's partitions (default: of command, store and topic).
        dead_letter: where bad rows go, with their errors: a file of JSON lines, or `kafka://HOST/TOPIC`. By default
            the first one ends the command.
        metrics: `[HOST:]PORT` that serves /metrics.
        report: receives a line about each error that was worked around.

    Raises StreamError, StoreError, BundleError, ConfigError, MissingExtraError.

    Example:
        >>> corank.follow_items("localhost/items", "lmdb:store")
        Traceback (most recent call last):
        corank.core.errors.StreamError: expected kafka://HOST[:PORT]/TOPIC; received 'localhost/items'
    """
    _follow_store(ItemSink, source, store, group, dead_letter, metrics, report)


def follow_users(
    source: str,
    store: str,
    group: str | None = None,
    dead_letter: str | None = None,
    metrics: str | None = None,
    report: Report = lambda line: None,
) -> None:
    """Put users of a topic into a store, with the columns that the live version reads; a tombstone removes one.

    As `follow_items`, with the columns of the table of users, histories among them. Experimental.

    Args:
        source: `kafka://HOST[:PORT]/TOPIC`.
        store: the store's address. It has a live version.
        group: of processes that share the topic's partitions (default: of command, store and topic).
        dead_letter: where bad rows go, with their errors: a file of JSON lines, or `kafka://HOST/TOPIC`. By default
            the first one ends the command.
        metrics: `[HOST:]PORT` that serves /metrics.
        report: receives a line about each error that was worked around.

    Raises StreamError, StoreError, BundleError, ConfigError, MissingExtraError.

    Example:
        >>> corank.follow_users("kafka://localhost", "lmdb:store")
        Traceback (most recent call last):
        corank.core.errors.StreamError: expected kafka://HOST[:PORT]/TOPIC; received 'kafka://localhost'
    """
    _follow_store(UserSink, source, store, group, dead_letter, metrics, report)


def follow_log(
    source: str,
    folder: PathOrUrl,
    config: PathOrUrl | None = None,
    period: Annotated[timedelta, DURATION] = timedelta(minutes=10),
    wait: Annotated[timedelta, DURATION] = timedelta(minutes=1),
    dead_letter: str | None = None,
    metrics: str | None = None,
    report: Report = lambda line: None,
) -> None:
    """Write joined candidates of a topic as files of the log, one a period of event time, for `corank daily`.

    A message is a row as JSON, a list of rows, or Arrow record batches, with the columns of the log. A period's file
    appears when all partitions have passed its end by `wait`, with whole requests. Rows that come later are in the next
    file, and counted; a row whose request was written without it is a bad one. Offsets are kept with the files: killed
    at any moment, nothing is lost and nothing there twice. One process follows into a folder. Experimental.

    Args:
        source: `kafka://HOST[:PORT]/TOPIC`.
        folder: of the log's Parquet files, such as the folder of `data.log`.
        config: the config whose `data` names the columns of request and time, and the time zone; `config.yaml` next
            to the folder unless given.
        period: length of periods, such as that of `corank daily`; it divides a day.
        wait: how much later than its end a period closes, by the times of rows: longer than they are out of order.
        dead_letter: where bad rows go, with their errors: a file of JSON lines, or `kafka://HOST/TOPIC`. By default
            the first one ends the command.
        metrics: `[HOST:]PORT` that serves /metrics.
        report: receives a line about each error that was worked around.

    Raises StreamError, ConfigError, DataError, MissingExtraError, and BusyError if another process follows into it.

    Example:
        >>> corank.follow_log("kafka://localhost/a/b", "shop/log")
        Traceback (most recent call last):
        corank.core.errors.StreamError: expected kafka://HOST[:PORT]/TOPIC; received 'kafka://localhost/a/b'
    """
    _follow_log(source, folder, config, period, wait, dead_letter, metrics, report, threading.Event())


def _follow_log(
    source: str,
    folder: PathOrUrl,
    config: PathOrUrl | None,
    period: timedelta,
    wait: timedelta,
    dead_letter: str | None,
    metrics: str | None,
    report: Report,
    stop: threading.Event,
) -> None:
    topic, into = _open_topic(source), require_local(folder)
    if not timedelta() < period <= DAY or DAY % period:
        raise ConfigError(f"--period: expected what divides a day, such as 10m; received {period}")
    data = OpenedConfig.open(config or into.absolute().parent / "config.yaml").settings.data
    counts = FollowMetrics(metrics)
    with name_write_errors(into), WriteLock(into, "follow"):
        letters = DeadLetters(dead_letter, topic, counts, report)
        sink = LogSink(into, topic.name, data, period, wait, letters, counts, report)
        reader = sink.reader = TopicReader(topic, None, sink.offsets, counts, report)
        with closing(letters), closing(reader), stopping_by_signal(stop):
            follow(reader, sink, counts, report, stop)


def _follow_store(
    kind: type[StoreSink],
    source: str,
    store: str,
    group: str | None,
    dead_letter: str | None,
    metrics: str | None,
    report: Report,
    stop: threading.Event | None = None,
) -> None:
    topic = _open_topic(source)
    with closing(open_store(store)) as opened:
        counts = FollowMetrics(metrics)
        letters = DeadLetters(dead_letter, topic, counts, report)
        sink = kind(opened, topic.name, Path(CACHE), letters, counts)
        sink.funnel()
        reader = TopicReader(topic, group or _default_group(kind, store, topic), sink.offsets, counts, report)
        stop = stop or threading.Event()
        with closing(letters), closing(reader), stopping_by_signal(stop):
            follow(reader, sink, counts, report, stop)


def _open_topic(source: str) -> KafkaTopic:
    """The topic, if its client is installed. Raises StreamError, MissingExtraError."""
    topic = KafkaTopic.parse(source)
    require("confluent_kafka", "corank follow")
    return topic


def _default_group(kind: type[StoreSink], store: str, topic: KafkaTopic) -> str:
    """The group of a topic and a store: that of no other, so that each store gets all messages of each topic."""
    place = "" if "://" in store else f"@{socket.gethostname()}"
    identity = f"{identify_store(store)}{place}/{topic.name}"
    return f"corank-{kind.kind}-{hashlib.sha256(identity.encode()).hexdigest()[:16]}"

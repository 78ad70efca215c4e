"""Messages → rows: JSON or Arrow record batches; and where rows go that nobody can use."""

import base64
import os
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, BinaryIO

import msgspec
import pyarrow as pa

from corank.core.errors import DataError, StreamError
from corank.core.reports import Report
from corank_continual.streams.arrow_reader import decode_table, shared_reader
from corank_continual.streams.metrics import FollowMetrics
from corank_continual.streams.topic import BrokerAwayError, KafkaTopic, Message, kafka

if TYPE_CHECKING:
    from confluent_kafka import KafkaError

ARROW = b"\xff\xff\xff\xff"
"""The first bytes of a stream of Arrow's IPC."""
LEVELS = 64
"""How deep a row's values may be nested, far below where the stack of some process that reads them would end."""
DELIVERY_SECONDS = 30.0
"""In which a topic must take a bad row; else its broker is away."""
PRIVATE = 0o600
"""Rows hold ids of users: only the owner may read them."""
TOLD = 5
"""Bad rows that are reported in full."""


def is_arrow(value: bytes) -> bool:
    """Whether a message is a stream of Arrow record batches, rather than JSON."""
    return value.startswith(ARROW)


def read_arrow(value: bytes) -> pa.Table:
    """Read a message of Arrow record batches, with times as whole ms since 1970 UTC. Raises DataError."""
    fault = shared_reader().find_fault(value)
    if fault:
        raise DataError(f"no Arrow record batches: {fault}")
    table = decode_table(value)
    for n, field in enumerate(table.schema):
        if is_moment(field.type):
            moments = table.column(n).cast(pa.timestamp("ms"), safe=False)
            table = table.set_column(n, field.name, moments.cast(pa.int64()))
    return table


def is_moment(kind: pa.DataType) -> bool:
    """Whether values of a type are points in time, which messages have as whole ms since 1970 UTC, too."""
    return bool(pa.types.is_timestamp(kind) or pa.types.is_date(kind))


def read_rows(value: bytes) -> list[Any]:
    """Read the rows of a message: a JSON object, a list of them, or record batches. Raises DataError."""
    try:
        decoded = read_arrow(value).to_pylist() if is_arrow(value) else msgspec.json.decode(value)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise DataError(f"neither JSON nor Arrow record batches: {error}") from None
    rows: list[Any] = decoded if isinstance(decoded, list) else [decoded]
    if _is_deeper(rows, LEVELS):
        raise DataError(f"lists and objects are nested more than {LEVELS} levels deep")
    return rows


def _is_deeper(value: Any, levels: int) -> bool:
    """Whether lists and objects are nested deeper."""
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, list):
        return False
    return levels == 0 or any(_is_deeper(one, levels - 1) for one in value)


def require_row(row: Any) -> dict[str, Any]:
    """Return a row that has columns, which a store can hold. Raises DataError for any other value."""
    if not isinstance(row, dict):
        raise DataError(f"expected an object of columns; received {row!r:.80}")
    try:
        msgspec.msgpack.encode(row)
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError(f"a value that cannot be stored: {error}") from None
    return row


def read_id(row: Mapping[str, Any], column: str, text: bool) -> int | str:
    """Return the id of a row. Raises DataError unless it has one of the type."""
    value = row.get(column)
    if (text and isinstance(value, str)) or (not text and type(value) is int and -(2**63) <= value < 2**63):
        assert value is not None
        with suppress(UnicodeEncodeError):
            str(value).encode()
            return value
    raise DataError(f"{column}: expected {'text' if text else 'a whole number'}; received {value!r:.80}")


def read_key(message: Message, text: bool) -> int | str:
    """Return the id that a tombstone names by its key. Raises DataError."""
    try:
        key = (message.key() or b"").decode()
        if not text and key != str(int(key)):  # "1_0", " 12 " and others that Python takes
            raise ValueError
        return read_id({"key": key if text else int(key)}, "key", text)
    except ValueError:
        raise DataError(
            f"key of a tombstone: expected {'text' if text else 'a whole number'}; received {message.key()!r:.80}"
        ) from None


class DeadLetters:
    """Where bad rows go, with their errors: a file of JSON lines, a topic, or nowhere, where the first ends all.

    A letter is written before the offset beyond it: after a kill it may be there twice, with the same offset.
    """

    def __init__(
        self, address: str | None, topic: KafkaTopic, metrics: FollowMetrics, report: Report
    ) -> None:
        """
        Args:
            address: a file, or `kafka://HOST/TOPIC`; None for nowhere.
            topic: that is read.
            metrics: counts.
            report: receives a line about the first ones.

        Raises StreamError.
        """
        self._topic, self._metrics, self._report = topic, metrics, report
        self._file: BinaryIO | None = None
        self._target: KafkaTopic | None = None
        self._failed: list[KafkaError] = []
        self._count = 0
        if address is not None and address.startswith("kafka:"):
            self._target = KafkaTopic.parse(address)
            self._producer = self._target.open_producer(DELIVERY_SECONDS)
            self._target.check(self._producer)
        elif address is not None:
            try:
                handle = os.open(address, os.O_WRONLY | os.O_CREAT | os.O_APPEND, PRIVATE)
            except OSError as error:
                raise StreamError(f"--dead-letter {address}: {error.strerror}; name another file") from None
            self._file = os.fdopen(handle, "ab")

    def put(self, message: Message, error: str, row: Any = None) -> None:
        """Put a message aside, or one row of it. Raises StreamError if bad rows end all."""
        place = {"topic": self._topic.name, "partition": message.partition(), "offset": message.offset()}
        where = f"{self._topic}, partition {message.partition()}, message {message.offset()}: {error}"
        if self._file is None and self._target is None:
            raise StreamError(f"{where}; --dead-letter FILE puts bad rows aside and goes on")
        self._count += 1
        self._metrics.rows.labels("bad").inc()
        if self._count <= TOLD:
            self._report(where)
        if self._file is not None:
            content = {"value": _to_text(message.value())} if row is None else {"row": row}
            line = place | {"error": error, "key": _to_text(message.key())} | content
            self._file.write(msgspec.json.encode(line, enc_hook=repr) + b"\n")
        else:
            assert self._target is not None
            value = message.value() if row is None else msgspec.json.encode(row, enc_hook=repr)
            headers: dict[str, str | bytes | None] = {
                name: str(text).encode() for name, text in (place | {"error": error}).items()
            }
            self._producer.produce(
                self._target.name, value, message.key(), headers=headers, on_delivery=self._delivered
            )

    def flush(self) -> None:
        """Make sure that what was put aside lasts. Raises StreamError; BrokerAwayError to put it aside again later."""
        if self._file is not None:
            try:
                self._file.flush()
                os.fsync(self._file.fileno())
            except OSError as error:
                raise StreamError(f"--dead-letter: {error.strerror}; free space there") from None
        elif self._target is not None:
            self._producer.flush()
            failed, self._failed = self._failed, []
            if failed:
                # a broker may refuse what this one sends after a message that was given up
                self._producer = self._target.open_producer(DELIVERY_SECONDS)
                is_away = all(error.code() == kafka.KafkaError._MSG_TIMED_OUT for error in failed)
                kind = BrokerAwayError if is_away else StreamError
                raise kind(f"--dead-letter {self._target}: {failed[-1].str()}; nothing after it is applied")

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    def _delivered(self, error: "KafkaError | None", message: object) -> None:
        if error is not None:
            self._failed.append(error)


def _to_text(value: bytes | None) -> str | None:
    """Bytes as text; with `base64:` before it if they are none."""
    if value is None:
        return None
    try:
        return value.decode()
    except UnicodeDecodeError:
        return f"base64:{base64.b64encode(value).decode()}"

"""Addresses and properties of a topic, and what is said where it cannot be read."""

from pathlib import Path

import pytest

from corank.core.errors import StreamError
from corank_continual.follow import _default_group
from corank_continual.streams.store import ItemSink, UserSink
from corank_continual.streams.topic import KafkaTopic
from tests.support.command_line import run_corank
from tests.support.ports import free_port


@pytest.mark.parametrize(
    ("url", "servers"),
    [
        ("kafka://a/t", "a:9092"),
        ("kafka://a:1,b/t.x_y-z", "a:1,b:9092"),
        ("kafka://[::1]:9093/t", "[::1]:9093"),
    ],
)
def test_an_address_names_brokers_and_a_topic(url: str, servers: str) -> None:
    assert KafkaTopic.parse(url).servers == servers


@pytest.mark.parametrize(
    "url",
    ["", "kafka:", "kafka://a", "kafka://a/", "kafka:///t", "kafka://a/t/u", "http://a/t", "kafka://a:x/t",
     "kafka://a/t?x=1", "kafka://user:secret@a/t"],
)  # fmt: skip
def test_other_addresses_are_refused_without_their_password(
    url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run_corank(capsys, "follow", "items", url, "lmdb:store")
    assert code == 1 and out == "" and err.startswith("error: expected kafka://HOST[:PORT]/TOPIC")
    assert "secret" not in err and err.count("\n") == 1


def test_properties_come_from_a_file_and_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "properties"
    file.write_text("# a comment\n\nsasl.username = me\nsasl.password=a=b\nbootstrap.servers=elsewhere\n")
    monkeypatch.setenv("CORANK_KAFKA_PROPERTIES", str(file))
    monkeypatch.setenv("CORANK_KAFKA_SASL_PASSWORD", "secret")
    given = KafkaTopic.parse("kafka://a/t").properties({"group.id": "g"})
    assert given.items() >= {"sasl.username": "me", "sasl.password": "secret", "group.id": "g"}.items()
    assert given["bootstrap.servers"] == "a:9092"
    file.write_text("sasl.username\n")
    with pytest.raises(StreamError, match="line 1: expected NAME=VALUE"):
        KafkaTopic.parse("kafka://a/t").properties()
    monkeypatch.setenv("CORANK_KAFKA_PROPERTIES", str(tmp_path / "absent"))
    with pytest.raises(StreamError, match="absent: cannot be read"):
        KafkaTopic.parse("kafka://a/t").properties()


def test_a_group_is_of_one_command_one_topic_and_one_store() -> None:
    """Members of one group that read different topics would wait for each other."""
    first, second = KafkaTopic.parse("kafka://a/t"), KafkaTopic.parse("kafka://a/u")
    groups = [
        _default_group(kind, store, topic)
        for kind in (ItemSink, UserSink)
        for store in ("redis://a/1", "redis://a/2")
        for topic in (first, second)
    ]
    assert len({*groups}) == 8 and groups[0] == _default_group(ItemSink, "redis://a/1", first)


def test_an_absent_broker_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    kafka = pytest.importorskip("confluent_kafka")
    monkeypatch.setattr("corank_continual.streams.topic.CONNECT_SECONDS", 0.5)
    address = f"kafka://127.0.0.1:{free_port()}/items"
    with pytest.raises(
        StreamError, match=f"{address}: no broker answers within 0.5 s .*; check host and port"
    ):
        KafkaTopic.parse(address).check(kafka.Consumer({"bootstrap.servers": address[8:-6], "group.id": "g"}))

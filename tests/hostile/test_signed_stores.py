"""Stores whose live version must be signed by a trusted key."""

import asyncio
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import httpx2
import numpy as np
import pytest

from corank.bundle.manifest import signed_content
from corank.bundle.signatures import SigningKeys, TrustedKeys
from corank.core.errors import BundleError, CorankError, StoreError, TrustError
from corank.core.stored_matrix import StoredMatrix
from corank.funnel.funnel import Funnel
from corank_serve.http.follower import Follower
from corank_serve.http.serve_settings import Limits, ServeSettings
from corank_serve.http.startup import describe_trust
from corank_serve.http.worker import RankingService
from corank_serve.store.base import Store
from corank_serve.store.fetch import fetch_bundle
from corank_serve.store.live_version import LiveStatement, StoreState
from corank_serve.store.publish import publish_bundle
from corank_serve.store.record_codec import RecordFormat
from corank_serve.store.retention import remove_versions, roll_back_store
from corank_serve.store.source import PinnedSource, StoreSource
from corank_serve.store.upsert import upsert
from corank_serve.store.version_parts import read_stored_manifest
from tests.support.bundle_versions import variant
from tests.support.command_line import run_corank
from tests.support.service import TOKEN, access, running_service
from tests.support.shared import derived
from tests.support.signing import KeyPair, make_keys
from tests.support.stores import item, opened, read_plain, replace_manifest, worths


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> tuple[KeyPair, KeyPair]:
    """Keys that services trust, and others."""
    return make_keys(tmp_path_factory.mktemp("keys")), make_keys(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Of two models."""
    first = derived().base / "bundle"
    return first, variant(first, tmp_path_factory.mktemp("bundles") / "second", 2)


@dataclass(frozen=True)
class Scene:
    """A store, bundles to publish, and keys."""

    store: Store
    folder: Path
    first: Path
    second: Path
    keys: KeyPair
    other: KeyPair

    def publish(self, bundle: Path, *keys: KeyPair) -> str:
        return publish_bundle(bundle, self.store, sign=SigningKeys.load([pair.private for pair in keys]))

    def source(self, *keys: KeyPair, cache: str = "cache") -> StoreSource:
        """The source of a service that trusts some keys."""
        trust = TrustedKeys.load([pair.public for pair in keys])
        return StoreSource(self.store, self.folder / cache, trust=trust)

    def follower(self, *keys: KeyPair, cache: str = "cache") -> Follower:
        return Follower(self.source(*keys, cache=cache))

    @property
    def sign(self) -> SigningKeys | None:
        return SigningKeys.load([self.keys.private])

    @property
    def state(self) -> StoreState:
        return StoreState.read(self.store)[1]

    def swap_head(self, state: StoreState) -> None:
        """Write a head, as whoever can write to the store may."""
        assert self.store.swap(self.store.head(), state.to_bytes())


@pytest.fixture
def scene(tmp_path: Path, bundles: tuple[Path, Path], pairs: tuple[KeyPair, KeyPair]) -> Iterator[Scene]:
    with opened("lmdb", tmp_path) as store:
        yield Scene(store, tmp_path, *bundles, *pairs)


def name(keys: KeyPair) -> str:
    """Fingerprint and file of a key."""
    return str(TrustedKeys.load([keys.public]))


def unsigned(scene: Scene) -> None:
    """Publish another version without a key."""
    scene.publish(scene.second)


def of_another_key(scene: Scene) -> None:
    """Publish another version with a key that is not trusted."""
    scene.publish(scene.second, scene.other)


def nothing_live(scene: Scene) -> None:
    """Write a head by which nothing is live."""
    scene.swap_head(StoreState())


def no_head(scene: Scene) -> None:
    """Write what is no head at all."""
    assert scene.store.swap(scene.store.head(), b"\xff")


def altered_record(scene: Scene) -> None:
    """Alter an item of a version that a trusted key has just made live."""
    alter_record(scene, scene.publish(scene.second, scene.keys))


def removed(scene: Scene) -> None:
    """Remove the parts of a version that a trusted key has just made live."""
    scene.store.drop(f"parts/{scene.publish(scene.second, scene.keys)}")


def alter_record(scene: Scene, version: str) -> None:
    """Alter an item, with the right checksum."""
    form = RecordFormat.from_manifest(read_stored_manifest(scene.store, version)[0])
    key, record = next(scene.store.scan(f"items/{version}"))[0]
    layer = form.decode({key: record})
    parts = {part: StoredMatrix(matrix.values + 1) for part, matrix in layer.parts.items()}
    scene.store.put({f"items/{version}": form.encode(replace(layer, parts=parts), np.arange(1))})


def refused(follower: Follower) -> str:
    """A follower's complaint about the head, while it serves what it held."""
    funnel = follower.funnel
    follower.refresh()
    assert follower.funnel is funnel
    return str(follower.trouble)


def followed(follower: Follower) -> str:
    """The version that a follower serves without complaint."""
    follower.refresh()
    assert follower.trouble is None
    return follower.funnel.manifest.content


def test_signed_versions_are_served_and_unsigned_ones_refused_while_the_live_one_stays(scene: Scene) -> None:
    first = scene.publish(scene.first, scene.keys)
    follower = scene.follower(scene.keys)
    assert follower.funnel.manifest.content == first
    second = scene.publish(scene.second)
    said = refused(follower)
    assert second in said and "is not signed" in said and name(scene.keys) in said
    assert scene.publish(scene.second, scene.keys) == second == followed(follower)
    assert follower.funnel.manifest.items_seq == scene.state.seq


def ask(follower: Follower, path: str) -> str:
    """What a service in process, whose follower is not started, tells of itself."""
    service = RankingService(follower, Limits(), access())

    async def get() -> httpx2.Response:
        transport = httpx2.ASGITransport(service.app())
        async with httpx2.AsyncClient(transport=transport, base_url="http://here") as client:
            return await client.get(path)

    return asyncio.run(get()).text


@pytest.mark.parametrize("write", [unsigned, of_another_key, nothing_live, no_head, altered_record, removed])
def test_nobody_who_can_write_to_a_store_keeps_a_service_from_starting(
    scene: Scene, write: Callable[[Scene], None]
) -> None:
    """The version that a trusted key made live last here is served from the cache, and that is told."""
    first = scene.publish(scene.first, scene.keys)
    held, before = scene.follower(scene.keys), scene.state
    write(scene)
    refused(held)
    with pytest.raises(CorankError):
        scene.follower(scene.keys, cache="new")  # which has nothing to serve
    said: list[str] = []
    restarted = Follower(scene.source(scene.keys), report=said.append)
    assert restarted.funnel.manifest.content == first and restarted.from_cache
    assert (restarted.trouble, restarted.untrusted) == (held.trouble, held.untrusted)
    (line,) = said
    assert f"{held.trouble}; serving {first}, which was served last, from the cache" in line
    status, metrics = json.loads(ask(restarted, "/status")), ask(restarted, "/metrics")
    assert status["ready"] and status["source_error"] == held.trouble
    assert status["source_untrusted"] is held.untrusted is (write in (unsigned, of_another_key))
    for name, value in (("source_untrusted", held.untrusted), ("source_up", False), ("from_cache", True)):
        assert f"corank_{name} {float(value)}" in metrics
    # an operator puts the store right
    scene.swap_head(before)
    roll_back_store(scene.store, first, sign=scene.sign)
    assert followed(restarted) == first
    assert not restarted.from_cache and not restarted.untrusted


def test_a_pinned_version_that_was_taken_out_of_the_head_keeps_no_service_from_starting(scene: Scene) -> None:
    scene.publish(scene.first, scene.keys)
    pinned = publish_bundle(scene.second, scene.store, sign=scene.sign, stage=True)

    def start(cache: str) -> Follower:
        trust = scene.source(scene.keys).keys
        return Follower(PinnedSource(pinned, scene.store, scene.folder / cache, trust=trust))

    assert start("cache").funnel.manifest.content == pinned
    versions = {name: facts for name, facts in scene.state.versions.items() if name != pinned}
    scene.swap_head(scene.state.model_copy(update={"versions": versions}))
    with pytest.raises(StoreError, match="no version"):
        start("new")
    restarted = start("cache")
    assert restarted.funnel.manifest.content == pinned and "no version" in str(restarted.trouble)


def test_what_is_refused_is_told_also_where_the_store_was_away_before(scene: Scene) -> None:
    scene.publish(scene.first, scene.keys)
    said: list[str] = []
    follower = Follower(scene.source(scene.keys), report=said.append)
    head = scene.store.head()
    assert scene.store.swap(head, b"{")
    refused(follower)
    assert scene.store.swap(b"{", head or b"")
    unsigned(scene)
    refused(follower)
    for line, reason in zip(said, ("its head is not corank's", "is not signed"), strict=True):
        assert line.startswith("serving on: ") and reason in line, said


def test_a_version_of_another_key_is_refused(scene: Scene) -> None:
    version = scene.publish(scene.first, scene.other)
    message = rf"{version}.* is signed by {name(scene.other)}.*; trusted keys: {name(scene.keys)}"
    with pytest.raises(TrustError, match=message):
        scene.follower(scene.keys)


def test_a_head_that_names_another_signed_version_is_refused(scene: Scene) -> None:
    first = scene.publish(scene.first, scene.keys)
    scene.publish(scene.second, scene.keys)
    follower, state = scene.follower(scene.keys), scene.state
    scene.swap_head(state.model_copy(update={"live": first}))
    assert "was altered" in refused(follower)
    assert state.statement is not None
    forged = state.statement.model_copy(update={"version": first, "manifest": state.versions[first].manifest})
    scene.swap_head(state.model_copy(update={"live": first, "statement": forged}))
    assert "was altered" in refused(follower)


def test_an_old_head_that_is_put_back_is_refused_also_after_a_restart(scene: Scene) -> None:
    first, old = scene.publish(scene.first, scene.keys), scene.state
    second = scene.publish(scene.second, scene.keys)
    follower = scene.follower(scene.keys)
    scene.swap_head(old)
    assert f"{second} went live after it" in refused(follower)
    restarted = scene.follower(scene.keys)
    assert restarted.funnel.manifest.content == second and restarted.from_cache
    assert "an old head was put back" in refused(restarted)
    # without a cache there is nothing to compare with: docs/operations/access.md says so
    assert scene.follower(scene.keys, cache="new").funnel.manifest.content == first
    # a restored store: what is live is signed anew
    roll_back_store(scene.store, first, sign=scene.sign)
    assert followed(follower) == first and not scene.state.versions[first].withdrawn


def test_a_signed_roll_back_to_a_signed_version_is_followed(scene: Scene) -> None:
    sign = scene.sign
    first = scene.publish(scene.first)
    scene.publish(scene.second, scene.keys)
    with pytest.raises(TrustError, match=f"{first} is not signed"):
        roll_back_store(scene.store, sign=sign)
    scene.publish(scene.first, scene.keys)
    second = scene.publish(scene.second, scene.keys)
    follower = scene.follower(scene.keys)
    roll_back_store(scene.store)
    assert "is not signed" in refused(follower)
    assert scene.publish(scene.second, scene.keys) == second
    roll_back_store(scene.store, sign=sign)
    assert followed(follower) == first


def test_an_altered_record_of_an_item_is_refused(scene: Scene) -> None:
    alter_record(scene, scene.publish(scene.first, scene.keys))
    with pytest.raises(BundleError, match=r"items/part\..*: is not as published"):
        scene.follower(scene.keys)


def test_an_altered_manifest_is_refused_even_if_the_head_agrees(scene: Scene) -> None:
    version = scene.publish(scene.first, scene.keys)
    replace_manifest(scene.store, version, read_plain(scene.store, version) | {"name": "another"})
    with pytest.raises(TrustError, match="was altered"):
        scene.follower(scene.keys)
    with pytest.raises(TrustError, match=f"{version} was altered"):
        fetch_bundle(scene.store, version, scene.folder / "c", trust=TrustedKeys.load([scene.keys.public]))


def test_a_cached_bundle_is_verified_under_trust_with_and_without_its_store(scene: Scene) -> None:
    version = scene.publish(scene.first)
    assert scene.follower().funnel.manifest.content == version
    scene.publish(scene.first, scene.keys)
    assert scene.follower(scene.keys).funnel.manifest.content == version
    manifest = scene.folder / "cache" / version / "manifest.json"
    assert [one["key"] for one in json.loads(manifest.read_text())["signatures"]] == [name(scene.keys)]
    with pytest.raises(TrustError):
        scene.follower(scene.other)
    funnel = scene.source(scene.keys).load_cached()
    assert funnel is not None and funnel.manifest.content == version
    assert scene.source(scene.other).load_cached() is None
    manifest.write_text(manifest.read_text().replace('"signatures"', '"none"'))
    assert scene.source(scene.keys).load_cached() is None


def test_a_manifest_of_fewer_keys_keeps_its_signatures(scene: Scene) -> None:
    """As of a release that did not have a key yet: what is signed is the manifest as it was published."""
    version, sign = scene.publish(scene.first, scene.keys), scene.sign
    assert sign is not None
    plain = {k: v for k, v in read_plain(scene.store, version).items() if k != "plugins"}
    state = replace_manifest(scene.store, version, plain, signatures=sign.sign(signed_content(plain)))
    scene.swap_head(state.with_statement(sign, state.statement))
    assert scene.follower(scene.keys).funnel.manifest.content == version
    cached = scene.source(scene.keys).load_cached()
    assert cached is not None and cached.manifest.content == version
    scene.publish(scene.second, scene.keys)
    roll_back_store(scene.store, sign=sign)
    assert scene.follower(scene.keys, cache="new").funnel.manifest.content == version


def test_upserted_items_are_not_taken_under_trust_and_keep_the_signature(scene: Scene) -> None:
    scene.publish(scene.second, scene.keys)
    version, before = scene.publish(scene.first, scene.keys), worths(Funnel.open(scene.first))
    follower, statement = scene.follower(scene.keys), scene.state.statement
    upsert(scene.store, Funnel.open(scene.first), [item(3, 99), item(5, worth=123.0)])
    remove_versions(scene.store, keep=0)
    assert followed(follower) == version and worths(follower.funnel) == before
    assert worths(scene.follower(scene.keys).funnel) == before
    assert worths(scene.follower().funnel) != before
    assert scene.state.statement == statement


def test_keys_rotate_without_a_gap(scene: Scene) -> None:
    scene.publish(scene.first, scene.keys)
    head = scene.store.head()
    scene.publish(scene.first, scene.keys)
    scene.publish(scene.first)
    assert scene.store.head() == head
    trusts_both = scene.follower(scene.keys, scene.other, cache="both")
    scene.publish(scene.first, scene.keys, scene.other)  # the same version: it is signed anew
    trusts_new = scene.follower(scene.other, cache="new")
    second = scene.publish(scene.second, scene.other)
    assert [followed(follower) for follower in (trusts_both, trusts_new)] == [second, second]


def test_a_statement_follows_a_later_clock_and_not_a_forged_one(pairs: tuple[KeyPair, KeyPair]) -> None:
    ours, theirs = (SigningKeys.load([keys.private]) for keys in pairs)
    assert ours is not None and theirs is not None
    first = LiveStatement.sign(ours, "a", "0" * 64, 1, None)
    ahead = first.model_copy(update={"at": first.at + 3_600_000, "signatures": []})
    ahead = ahead.model_copy(update={"signatures": ours.sign(ahead.content)})
    assert LiveStatement.sign(ours, "b", "0" * 64, 2, ahead).at == ahead.at + 1
    forged = ahead.model_copy(update={"signatures": theirs.sign(ahead.content)})
    assert LiveStatement.sign(ours, "b", "0" * 64, 2, forged).at < ahead.at


@pytest.mark.slow
def test_commands_sign_and_a_service_that_trusts_keys_takes_nothing_unsigned(
    scene: Scene, capsys: pytest.CaptureFixture[str]
) -> None:
    store, trust, sign = (
        scene.store.address,
        ("--trust", str(scene.keys.public)),
        ("--sign", scene.keys.private),
    )
    version = scene.publish(scene.first)
    cache = scene.folder / "cache"
    code, _, said = run_corank(capsys, "serve", store, "--port", 0, "--cache", cache, *trust)
    assert code == 1 and said.startswith("error: ") and "Traceback" not in said
    assert f"by which {version} is live, is not signed" in said
    for command in (
        ["publish", scene.first, store],
        ["publish", scene.second, store],
        ["store", "rollback", store],
    ):
        assert run_corank(capsys, *command, *sign)[0] == 0
    options = (store, cache, *trust)
    with running_service(*options):
        scene.publish(scene.second)
    with running_service(*options) as (url, _):
        assert httpx2.get(f"{url}/status").json()["source_untrusted"]
        reply = httpx2.post(f"{url}/items", json={"items": [item(3, 99)]}, headers=TOKEN)
        assert reply.status_code == 409 and "not signed" in reply.json()["error"]
        assert httpx2.post(f"{url}/rank", json=derived().request("test", 0)).status_code == 200
    settings = ServeSettings(source=store, cache=cache)
    assert describe_trust(settings).startswith(
        f"trust: whoever can write to {store}; --trust PUBLIC_KEY takes"
    )
    trusting = describe_trust(settings.model_copy(update={"trust": (scene.keys.public,)}))
    assert trusting.startswith(f"trust: versions signed by {name(scene.keys)}")

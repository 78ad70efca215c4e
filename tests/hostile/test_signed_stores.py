import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx2
import msgspec
import numpy as np
import pytest

import corank
from corank.bundle.signatures import SigningKeys, TrustedKeys
from corank.core.errors import BundleError, TrustError
from corank.core.stored_matrix import StoredMatrix
from corank.serving.funnel.funnel import Funnel
from corank.serving.http.follower import Follower
from corank.serving.http.serve_settings import ServeSettings
from corank.serving.http.startup import describe_trust
from corank.serving.store.base import Store
from corank.serving.store.fetch import fetch_bundle
from corank.serving.store.live_version import LiveStatement, StoreState
from corank.serving.store.publish import publish_bundle
from corank.serving.store.record_codec import RecordFormat
from corank.serving.store.retention import remove_versions, roll_back_store
from corank.serving.store.source import StoreSource
from corank.serving.store.upsert import upsert
from corank.serving.store.version_parts import MANIFEST, read_plain_manifest
from tests.support.bundle_versions import variant
from tests.support.command_line import run_corank
from tests.support.service import TOKEN, running_service
from tests.support.shared import derived
from tests.support.signing import KeyPair, make_keys
from tests.support.stores import item, opened, worths


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> KeyPair:
    return make_keys(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> KeyPair:
    return make_keys(tmp_path_factory.mktemp("keys"))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with opened("lmdb", tmp_path) as store:
        yield store


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Of two models."""
    first = derived().base / "bundle"
    return first, variant(first, tmp_path_factory.mktemp("bundles") / "second", 2)


def publish(bundle: Path, store: Store, *keys: KeyPair) -> str:
    return publish_bundle(bundle, store, sign=SigningKeys.load([pair.private for pair in keys]))


def source(store: Store, cache: Path, *keys: KeyPair) -> StoreSource:
    """The source of a service of a store that trusts some keys."""
    return StoreSource(store, cache, trust=TrustedKeys.load([pair.public for pair in keys]))


def refused(follower: Follower) -> str:
    """A follower's complaint about the head, while it serves what it held."""
    funnel = follower.funnel
    follower.refresh()
    assert follower.funnel is funnel
    return str(follower.trouble)


def swap_head(store: Store, state: StoreState) -> None:
    """Write a head, as whoever can write to the store may."""
    assert store.swap(store.head(), state.to_bytes())


def test_a_signed_version_is_served(
    store: Store, bundles: tuple[Path, Path], keys: KeyPair, tmp_path: Path
) -> None:
    version = publish(bundles[0], store, keys)
    follower = Follower(source(store, tmp_path / "cache", keys))
    assert follower.funnel.manifest.content == version
    second = publish(bundles[1], store, keys)
    follower.refresh()
    assert follower.trouble is None and follower.funnel.manifest.content == second
    assert follower.funnel.manifest.items_seq == StoreState.read(store)[1].seq


def test_an_unsigned_version_is_refused_and_the_live_one_stays(
    store: Store, bundles: tuple[Path, Path], keys: KeyPair, tmp_path: Path
) -> None:
    publish(bundles[0], store, keys)
    follower = Follower(source(store, tmp_path / "cache", keys))
    second = publish(bundles[1], store)
    said = refused(follower)
    assert second in said and "is not signed" in said and str(TrustedKeys.load([keys.public])) in said


def test_a_version_of_another_key_is_refused(
    store: Store, bundles: tuple[Path, Path], keys: KeyPair, other: KeyPair, tmp_path: Path
) -> None:
    version = publish(bundles[0], store, other)
    one, two = str(TrustedKeys.load([keys.public])), str(TrustedKeys.load([other.public]))
    with pytest.raises(TrustError, match=rf"{version}.* is signed by {two}.*; trusted keys: {one}"):
        Follower(source(store, tmp_path / "cache", keys))


def test_a_head_that_names_another_signed_version_is_refused(
    store: Store, bundles: tuple[Path, Path], keys: KeyPair, tmp_path: Path
) -> None:
    first = publish(bundles[0], store, keys)
    publish(bundles[1], store, keys)
    follower, state = Follower(source(store, tmp_path / "cache", keys)), StoreState.read(store)[1]
    swap_head(store, state.model_copy(update={"live": first}))
    assert "was altered" in refused(follower)
    statement = state.statement
    assert statement is not None
    forged = statement.model_copy(update={"version": first, "manifest": state.versions[first].manifest})
    swap_head(store, state.model_copy(update={"live": first, "statement": forged}))
    assert "was altered" in refused(follower)


def test_an_old_head_that_is_put_back_is_refused_also_after_a_restart(
    store: Store, bundles: tuple[Path, Path], keys: KeyPair, tmp_path: Path
) -> None:
    first = publish(bundles[0], store, keys)
    old = StoreState.read(store)[1]
    second = publish(bundles[1], store, keys)
    follower = Follower(source(store, tmp_path / "cache", keys))
    swap_head(store, old)
    assert f"{second} went live after it" in refused(follower)
    with pytest.raises(TrustError, match="an old head was put back"):
        Follower(source(store, tmp_path / "cache", keys))
    # without a cache there is nothing to compare with: docs/guides/serving.md says so
    assert Follower(source(store, tmp_path / "new", keys)).funnel.manifest.content == first


def test_a_signed_roll_back_is_followed_and_an_unsigned_one_is_not(
    store: Store, bundles: tuple[Path, Path], keys: KeyPair, tmp_path: Path
) -> None:
    first = publish(bundles[0], store, keys)
    publish(bundles[1], store, keys)
    follower = Follower(source(store, tmp_path / "cache", keys))
    roll_back_store(store)
    assert "is not signed" in refused(follower)
    publish(bundles[1], store, keys)
    roll_back_store(store, sign=SigningKeys.load([keys.private]))
    follower.refresh()
    assert follower.trouble is None and follower.funnel.manifest.content == first


def test_a_roll_back_does_not_sign_a_version_that_nobody_signed(
    store: Store, bundles: tuple[Path, Path], keys: KeyPair
) -> None:
    first = publish(bundles[0], store)
    publish(bundles[1], store, keys)
    with pytest.raises(TrustError, match=f"{first} is not signed"):
        roll_back_store(store, sign=SigningKeys.load([keys.private]))


def test_an_altered_record_of_an_item_is_refused(
    store: Store, bundles: tuple[Path, Path], keys: KeyPair, tmp_path: Path
) -> None:
    version = publish(bundles[0], store, keys)
    form = RecordFormat.from_manifest(corank.Funnel.open(bundles[0]).manifest)
    key, record = next(store.scan(f"items/{version}"))[0]
    layer = form.decode({key: record})
    parts = {part: StoredMatrix(matrix.values + 1) for part, matrix in layer.parts.items()}
    store.put({f"items/{version}": form.encode(replace(layer, parts=parts), np.arange(1))})
    with pytest.raises(BundleError, match=r"items/part\..* .* is not as published"):
        Follower(source(store, tmp_path / "cache", keys))


def test_an_altered_manifest_is_refused_even_if_the_head_agrees(
    store: Store, bundles: tuple[Path, Path], keys: KeyPair, tmp_path: Path
) -> None:
    version = publish(bundles[0], store, keys)
    plain = read_plain_manifest(store, version) | {"name": "another", "signatures": []}
    raw, (before, state) = msgspec.json.encode(plain), StoreState.read(store)
    facts = state.versions[version].model_copy(update={"manifest": hashlib.sha256(raw).hexdigest()})
    head = state.model_copy(update={"versions": state.versions | {version: facts}}).to_bytes()
    assert store.swap(before, head, {f"parts/{version}": [(MANIFEST, raw)]})
    with pytest.raises(TrustError, match="was altered"):
        Follower(source(store, tmp_path / "cache", keys))
    with pytest.raises(TrustError, match=f"{version} was altered"):
        fetch_bundle(store, version, tmp_path / "cache", trust=TrustedKeys.load([keys.public]))


def test_a_bundle_that_was_fetched_without_trust_is_verified_under_trust(
    store: Store, bundles: tuple[Path, Path], keys: KeyPair, other: KeyPair, tmp_path: Path
) -> None:
    version = publish(bundles[0], store)
    assert Follower(StoreSource(store, tmp_path / "cache")).funnel.manifest.content == version
    publish(bundles[0], store, keys)
    assert Follower(source(store, tmp_path / "cache", keys)).funnel.manifest.content == version
    manifest = json.loads((tmp_path / "cache" / version / "manifest.json").read_text())
    assert [one["key"] for one in manifest["signatures"]] == [str(TrustedKeys.load([keys.public]))]
    with pytest.raises(TrustError):
        Follower(source(store, tmp_path / "cache", other))


def test_upserted_items_are_not_taken_under_trust(
    store: Store, bundles: tuple[Path, Path], keys: KeyPair, tmp_path: Path
) -> None:
    version = publish(bundles[0], store, keys)
    follower, before = (
        Follower(source(store, tmp_path / "cache", keys)),
        worths(corank.Funnel.open(bundles[0])),
    )
    upsert(store, version, corank.Funnel.open(bundles[0]), [item(3, 99), item(5, worth=123.0)])
    follower.refresh()
    assert follower.trouble is None and worths(follower.funnel) == before
    assert worths(Follower(source(store, tmp_path / "cache", keys)).funnel) == before
    assert worths(Follower(StoreSource(store, tmp_path / "cache")).funnel) != before


def test_keys_rotate_without_a_gap(
    store: Store, bundles: tuple[Path, Path], keys: KeyPair, other: KeyPair, tmp_path: Path
) -> None:
    publish(bundles[0], store, keys)
    trusts_both = Follower(source(store, tmp_path / "both", keys, other))
    publish(bundles[0], store, keys, other)  # the same version: it is signed anew
    trusts_new = Follower(source(store, tmp_path / "new", other))
    second = publish(bundles[1], store, other)
    for follower in (trusts_both, trusts_new):
        follower.refresh()
        assert follower.trouble is None and follower.funnel.manifest.content == second


def test_pruning_and_upserts_keep_the_signature(
    store: Store, bundles: tuple[Path, Path], keys: KeyPair, tmp_path: Path
) -> None:
    publish(bundles[0], store, keys)
    version = publish(bundles[1], store, keys)
    statement = StoreState.read(store)[1].statement
    upsert(store, version, corank.Funnel.open(bundles[1]), [item(3)])
    remove_versions(store, keep=0)
    assert StoreState.read(store)[1].statement == statement
    assert Follower(source(store, tmp_path / "cache", keys)).funnel.manifest.content == version


def test_publishing_a_signed_version_again_changes_nothing(
    store: Store, bundles: tuple[Path, Path], keys: KeyPair
) -> None:
    publish(bundles[0], store, keys)
    head = store.head()
    publish(bundles[0], store, keys)
    publish(bundles[0], store)
    assert store.head() == head


def test_a_statement_follows_a_later_clock_and_not_a_forged_one(keys: KeyPair, other: KeyPair) -> None:
    ours, theirs = SigningKeys.load([keys.private]), SigningKeys.load([other.private])
    assert ours is not None and theirs is not None
    first = LiveStatement.sign(ours, "a", "0" * 64, 1, None)
    ahead = first.model_copy(update={"at": first.at + 3_600_000, "signatures": []})
    ahead = ahead.model_copy(update={"signatures": ours.sign(ahead.content)})
    assert LiveStatement.sign(ours, "b", "0" * 64, 2, ahead).at == ahead.at + 1
    forged = ahead.model_copy(update={"signatures": theirs.sign(ahead.content)})
    assert LiveStatement.sign(ours, "b", "0" * 64, 2, forged).at < ahead.at


def test_serve_says_whom_it_trusts_and_refuses_in_one_line(
    store: Store,
    bundles: tuple[Path, Path],
    keys: KeyPair,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    version = publish(bundles[0], store)
    code, _, said = run_corank(
        capsys, "serve", store.address, "--cache", tmp_path / "cache", "--trust", keys.public
    )
    assert code == 1 and said.startswith("error: ") and "Traceback" not in said
    assert f"by which {version} is live, is not signed" in said
    settings = ServeSettings(source=store.address, cache=tmp_path / "cache")
    assert describe_trust(settings) == (
        f"trust: whoever can write to {store.address}; --trust PUBLIC_KEY takes signed versions only"
    )
    trusting = describe_trust(settings.model_copy(update={"trust": (keys.public,)}))
    assert trusting.startswith(f"trust: versions signed by {TrustedKeys.load([keys.public])}")


def test_the_commands_take_keys(
    store: Store,
    bundles: tuple[Path, Path],
    keys: KeyPair,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    sign = ("--sign", keys.private)
    assert run_corank(capsys, "publish", bundles[0], store.address, *sign)[0] == 0
    assert run_corank(capsys, "publish", bundles[1], store.address, *sign)[0] == 0
    assert run_corank(capsys, "store", "rollback", store.address, *sign)[0] == 0
    assert Follower(source(store, tmp_path / "cache", keys)).funnel.manifest.name


@pytest.mark.slow
def test_a_service_that_trusts_keys_ranks_and_takes_no_items(
    store: Store, bundles: tuple[Path, Path], keys: KeyPair, tmp_path: Path
) -> None:
    publish(bundles[0], store, keys)
    options = ("--trust", str(keys.public))
    with running_service(store.address, tmp_path / "cache", *options) as (url, _):
        reply = httpx2.post(f"{url}/items", json={"items": [item(3, 99)]}, headers=TOKEN)
        assert reply.status_code == 409 and "not signed" in reply.json()["error"]
        assert httpx2.post(f"{url}/rank", json=derived().request("test", 0)).status_code == 200


def test_without_the_store_the_cached_version_is_served_only_if_it_is_signed(
    store: Store, bundles: tuple[Path, Path], keys: KeyPair, other: KeyPair, tmp_path: Path
) -> None:
    version = publish(bundles[0], store, keys)
    cache = tmp_path / "cache"
    Follower(source(store, cache, keys))

    def cached(*trusted: KeyPair) -> Funnel | None:
        return source(store, cache, *trusted).load_cached()

    funnel = cached(keys)
    assert funnel is not None and funnel.manifest.content == version
    assert cached(other) is None
    manifest = cache / version / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"signatures"', '"none"'))
    assert cached(keys) is None

"""A version is staged beside the live one, follows its items, is promoted, and stays while somebody serves it."""

from pathlib import Path

import msgspec
import pytest

import corank
from corank.core.errors import StoreError
from corank.serving.funnel.funnel import Funnel
from corank.serving.store.base import Store
from corank.serving.store.claims import LEASE_SECONDS, LEASES, Lease, read_leases, write_lease
from corank.serving.store.fetch import catch_up, fetch_bundle, load_latest, restore
from corank.serving.store.journal import read_log
from corank.serving.store.live_version import StoreState
from corank.serving.store.publish import publish_bundle
from corank.serving.store.retention import (
    list_versions,
    promote_version,
    remove_versions,
    roll_back_store,
    withdraw_version,
)
from corank.serving.store.upsert import upsert
from tests.support.bundle_versions import variant
from tests.support.command_line import run_corank
from tests.support.shared import derived
from tests.support.stores import item, records, worths


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Of three models, one table of items."""
    folder, first = tmp_path_factory.mktemp("bundles"), derived().base / "bundle"
    return [first, *(variant(first, folder / f"{n}", n) for n in (2, 3))]


def put(store: Store, bundle: Path, id_: int, worth: float) -> int:
    funnel = Funnel.open(bundle)
    return upsert(store, funnel.manifest.content, funnel, [item(3, id_, worth=worth)])


def load(store: Store, version: str, cache: Path) -> Funnel:
    return load_latest(store, version, Funnel(fetch_bundle(store, version, cache)))


def test_a_staged_version_changes_nothing_that_is_live_and_has_all_items(
    bundles: list[Path], store: Store, tmp_path: Path
) -> None:
    first = publish_bundle(bundles[0], store)
    put(store, bundles[0], 97, 1.0)
    _, before = StoreState.read(store)
    staged = publish_bundle(bundles[1], store, stage=True)
    _, state = StoreState.read(store)
    assert (state.live, state.seq, state.id) == (first, before.seq, before.id)
    assert (state.versions[staged].seq, state.versions[staged].applied) == (0, 2)
    assert [(line.what, line.beside) for line in read_log(store)][-1] == ("stage", staged)
    funnel = load(store, staged, tmp_path / "cache")
    assert worths(funnel)[97] == 1.0 and funnel.manifest.items_seq == 2
    put(store, bundles[0], 98, 2.0)
    followed = catch_up(store, staged, funnel)
    assert worths(followed)[98] == 2.0 and followed.manifest.items_seq == 3
    assert catch_up(store, staged, followed) is followed
    again = load(store, staged, tmp_path / "cache")
    assert records(again) == records(followed) == records(restore(store, staged, Funnel.open(bundles[1]), 3))
    promote_version(store, staged)
    live = load(store, staged, tmp_path / "cache")
    assert records(live) == records(followed) and live.manifest.items_seq == 4
    assert [line.what for line in read_log(store)][-1] == "promote"
    # the version before is the one to go back to, not one that was never live
    publish_bundle(bundles[2], store, stage=True)
    assert roll_back_store(store) == first


def test_staging_again_changes_nothing_and_publishing_makes_it_live(
    bundles: list[Path], local: Store
) -> None:
    publish_bundle(bundles[0], local)
    staged, said = publish_bundle(bundles[1], local, stage=True), list[str]()
    before = local.head()
    assert publish_bundle(bundles[1], local, said.append, stage=True) == staged
    assert local.head() == before and said == [f"{staged} is staged already"]
    assert publish_bundle(bundles[1], local) == staged == StoreState.read(local)[1].live
    with pytest.raises(StoreError, match=f"{staged} is live already"):
        promote_version(local, staged)
    with pytest.raises(StoreError, match="no version other; there are"):
        promote_version(local, "other")


def test_a_withdrawn_version_is_no_canary_until_it_is_staged_again(bundles: list[Path], local: Store) -> None:
    def withdrawn() -> list[str]:
        return [name for name, facts in StoreState.read(local)[1].versions.items() if facts.withdrawn]

    first = publish_bundle(bundles[0], local)
    staged = publish_bundle(bundles[1], local, stage=True)
    for _ in range(2):
        withdraw_version(local, staged)
        assert withdrawn() == [staged]
    assert [(line.what, line.beside) for line in read_log(local)][-1] == ("withdraw", staged)
    with pytest.raises(StoreError, match=f"{first} is live, no canary; `corank store rollback`"):
        withdraw_version(local, first)
    publish_bundle(bundles[1], local, stage=True)
    assert withdrawn() == []
    # who is rolled back is no canary either
    promote_version(local, staged)
    roll_back_store(local)
    assert withdrawn() == [staged]
    promote_version(local, staged)
    assert withdrawn() == []


def test_a_version_stays_while_it_is_to_come_or_a_service_holds_it(bundles: list[Path], local: Store) -> None:
    staged = publish_bundle(bundles[1], local, stage=True)
    publish_bundle(bundles[0], local)
    newer = publish_bundle(bundles[2], local, stage=True)
    write_lease(local, staged, "canary")
    said: list[str] = []
    assert remove_versions(local, 0, said.append) == []
    assert said[0].startswith(f"{newer} stays: it was staged after the live version")
    assert len(said) == 2 and said[1].startswith(f"{staged} stays: ") and "serves it as canary" in said[1]
    # leases that have expired, reach further than any is given, or are none
    lease = next(iter(read_leases(local)[0].values()))
    over = msgspec.structs.replace(lease, until=0)
    far = msgspec.structs.replace(lease, until=lease.until + round(2e3 * LEASE_SECONDS))
    odd = Lease("../..", "canary\x1b", "here", lease.until)
    rows = [msgspec.json.encode(one) for one in (over, far, odd)] + [b"{", b"x" * 5000]
    local.put({LEASES: [(key, rows[0]) for pairs in local.scan(LEASES) for key, _ in pairs]})
    local.put({LEASES: [(b"%d" % n, raw) for n, raw in enumerate(rows)]})
    assert remove_versions(local, 0) == [staged]
    assert local.count(LEASES) == 0 and newer in StoreState.read(local)[1].versions
    withdraw_version(local, newer)
    assert remove_versions(local, 0, said.append) == [newer] and said[-1] == f"removed {newer}"


def test_the_commands_stage_and_promote(
    bundles: list[Path], local: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    url = local.address
    first = corank.publish(bundles[0], url).version
    _, _, said = run_corank(capsys, "publish", bundles[1], url, "--stage")
    staged = list_versions(local)[1].version
    assert f"staged: {staged}" in said
    _, listed, _ = run_corank(capsys, "store", "ls", url)
    assert "staged" in listed and first in listed
    _, _, said = run_corank(capsys, "store", "promote", url, staged)
    assert f"live: {staged}" in said
    _, log, _ = run_corank(capsys, "store", "log", url)
    assert f"stage  {staged}" in log

"""Versions are listed, staged, promoted, gone back to and removed, and nothing that is needed is lost."""

import hashlib
import json
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import msgspec
import pytest

import corank
from corank.bundle.bundle import Bundle
from corank.bundle.manifest import BundleManifest
from corank.cli import console
from corank.core.errors import StoreError
from corank.funnel.funnel import Funnel
from corank_serve.store.base import Store
from corank_serve.store.claims import LEASE_SECONDS, LEASES, Lease, read_leases, write_lease
from corank_serve.store.fetch import catch_up, restore
from corank_serve.store.journal import JOURNAL, read_log
from corank_serve.store.live_version import StoreState
from corank_serve.store.publish import publish_bundle
from corank_serve.store.retention import (
    list_versions,
    promote_version,
    remove_versions,
    roll_back_store,
    withdraw_version,
)
from corank_serve.store.version_parts import MANIFEST
from tests.support.bundle_versions import variant
from tests.support.command_line import run_corank
from tests.support.interruptions import after_first
from tests.support.shared import derived
from tests.support.stores import item, put, records, served, worths

pytestmark = pytest.mark.slow


def head(store: Store) -> StoreState:
    return StoreState.read(store)[1]


def later(store: Store, path: Path, number: int) -> Path:
    """A bundle whose items are read now, later than all that came."""
    return variant(derived().base / "bundle", path / f"later{number}", number, head(store).seq)


# Listings


def test_versions_are_listed(bundles: list[Path], local: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert list_versions(local) == []
    versions = [publish_bundle(bundle, local) for bundle in bundles[:2]]
    put(local, bundles[1], item(3, 98), item(4, 99), item(5))
    put(local, bundles[1], item(3, 99))
    local.put({"items/half": [(b"i12345678", b"")]})
    code, out, err = run_corank(capsys, "store", "ls", local.address, "--json")
    listing = json.loads(out)
    assert (code, err) == (0, "")
    assert [(one["version"], one["live"], one["records"], one["changed"]) for one in listing] == [
        (versions[0], False, 16, 0),
        (versions[1], True, 16, 3),
        ("half", False, 1, 0),
    ]
    assert listing[1]["facts"] == head(local).versions[versions[1]].model_dump(mode="json")
    assert listing[1]["facts"]["seq"] == 2 and listing[2]["facts"] is None
    code, out, err = run_corank(capsys, "store", "ls", local.address)
    assert (code, err) == (0, "")
    assert all(name in out for name in ("half", "live", "unfinished"))


def test_versions_are_one_table_that_marks_what_this_release_cannot_read(
    bundles: list[Path], local: Store, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console.out, "_width", 80)
    first, second = (publish_bundle(bundle, local) for bundle in bundles[:2])
    raw, state = StoreState.read(local)
    (manifest,) = local.get(f"parts/{first}", [MANIFEST])
    assert manifest is not None
    other = json.dumps(json.loads(manifest) | {"format": 8}).encode()
    local.put({f"parts/{first}": [(MANIFEST, other)]})
    digest = hashlib.sha256(other).hexdigest()
    versions = state.versions | {first: state.versions[first].model_copy(update={"manifest": digest})}
    local.swap(raw, state.model_copy(update={"versions": versions}).to_bytes())
    why = f"{local.address}: {first}: format 8; this corank reads {BundleManifest.written_format()}; "
    listed = list_versions(local)
    assert [one.unreadable and one.unreadable.startswith(why) for one in listed] == [True, None]
    _, out, _ = run_corank(capsys, "store", "ls", local.address)
    lines = out.splitlines()
    assert [out.count(version) for version in (first, second)] == [2, 1]  # and once in the reason
    assert any(first in line and "unreadable" in line for line in lines)
    assert any(second in line and "live" in line for line in lines) and listed[0].unreadable in lines


# Back


def test_going_back_brings_what_came_since(bundles: list[Path], store: Store, tmp_path: Path) -> None:
    first, second = (publish_bundle(bundle, store) for bundle in bundles[:2])
    put(store, bundles[1], item(3, 98, worth=1.0), item(4, worth=1.0))
    put(store, bundles[1], item(5, 98, worth=2.0))
    said: list[str] = []
    assert roll_back_store(store, report=said.append) == first
    assert said == [f"2 items came since {first} was read: put on top: 4, 98"]
    funnel, own = served(store, tmp_path / "cache"), Funnel.open(bundles[0])
    assert (funnel.manifest.content, funnel.manifest.items_seq) == (first, 5)
    assert worths(funnel) == worths(own) | {98: 2.0, 4: 1.0}
    assert records(funnel) == records(restore(store, first, own, 5))
    # and forward again, with what came meanwhile
    put(store, bundles[0], item(6, 99, worth=3.0))
    promote_version(store, second)
    funnel = served(store, tmp_path / "cache")
    assert worths(funnel) == dict.fromkeys(range(16), 2.0) | {98: 2.0, 4: 1.0, 99: 3.0}
    assert [one.version for one in list_versions(store)] == [first, second]


def withdrawn(store: Store) -> list[str]:
    return [name for name, facts in head(store).versions.items() if facts.withdrawn]


def test_each_roll_back_goes_further_back_past_what_was_undone(bundles: list[Path], local: Store) -> None:
    said: list[str] = []
    publish_bundle(bundles[0], local)
    with pytest.raises(StoreError, match=r"there is no older version to go back to$"):
        roll_back_store(local)
    first, second, third, fourth = (publish_bundle(bundle, local) for bundle in bundles[:4])
    assert roll_back_store(local, report=said.append) == third and said == []
    withdraw_version(local, second)
    assert roll_back_store(local, report=said.append) == first
    insist = "withdrawn or rolled back before; `--to VERSION` insists"
    assert said == [f"passed over {fourth}, {second}: {insist}"]
    assert withdrawn(local) == [second, third, fourth]
    with pytest.raises(StoreError, match=f"to go back to but {third}, {fourth}, {second}: {insist}"):
        roll_back_store(local)
    assert head(local).live == first
    # who insists gets it, and what is published or promoted again counts again
    assert roll_back_store(local, third) == third
    assert withdrawn(local) == [first, second, fourth]
    promote_version(local, second)
    assert roll_back_store(local) == third


def test_a_roll_back_over_several_versions_undoes_all_of_them(bundles: list[Path], local: Store) -> None:
    first, second, third = (publish_bundle(bundle, local) for bundle in bundles[:3])
    assert roll_back_store(local, first) == first
    assert withdrawn(local) == [second, third]
    fourth = publish_bundle(bundles[3], local)
    assert roll_back_store(local) == first
    with pytest.raises(StoreError, match=f"but {fourth}, {third}, {second}: "):
        roll_back_store(local)


def test_what_is_removed_meanwhile_does_not_go_live(
    bundles: list[Path], local: Store, tmp_path: Path
) -> None:
    first, second = (publish_bundle(bundle, local) for bundle in bundles[:2])

    def meanwhile() -> AbstractContextManager[None]:
        """All but the live version are removed after the first look at the head."""
        return after_first(local, "head", lambda: remove_versions(local, keep=0))

    with meanwhile(), pytest.raises(StoreError, match=r"no version|removed meanwhile|is not whole"):
        roll_back_store(local)
    assert head(local).live == second and first not in head(local).versions
    publish_bundle(bundles[0], local)
    with meanwhile():
        assert publish_bundle(bundles[1], local) == second  # all of it is written again
    assert records(served(local, tmp_path / "cache")) == records(Funnel.open(bundles[1]))


# Away


@pytest.mark.parametrize("keep", [0, 2])
def test_the_last_ones_that_were_live_are_kept(bundles: list[Path], store: Store, keep: int) -> None:
    versions = [publish_bundle(bundle, store) for bundle in bundles]
    promote_version(store, versions[1])
    order = [versions[n] for n in (1, 3, 2, 0)]
    said: list[str] = []
    gone = remove_versions(store, keep, said.append)
    assert sorted(gone) == sorted(order[keep + 1 :])
    assert sorted(said) == sorted(f"removed {name}" for name in gone)
    assert [one.version for one in list_versions(store)] == [v for v in versions if v in order[: keep + 1]]
    left = {table.partition("/")[2] for table in store.tables()} - {""}
    assert left == set(order[: keep + 1])
    assert remove_versions(store, keep) == []


def test_what_was_withdrawn_is_not_among_those_that_are_kept(bundles: list[Path], local: Store) -> None:
    versions = [publish_bundle(bundle, local) for bundle in bundles]
    withdraw_version(local, versions[2])
    roll_back_store(local)
    assert StoreState.read(local)[1].live == versions[1]
    assert sorted(remove_versions(local, 1)) == sorted(versions[2:])
    assert roll_back_store(local) == versions[0]


def stopped(store: Store, bundle: Path) -> str:
    """A version of which nothing but the swap is missing."""

    swap = store.swap

    def refuse(*given: Any) -> bool:
        if len(given) > 2:  # not a claim alone
            raise KeyboardInterrupt
        return swap(*given)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(store, "swap", refuse)
        publish_bundle(bundle, store)
    return Bundle.open(bundle).manifest.content


def test_what_is_half_written_goes_unless_somebody_is_writing_it(
    bundles: list[Path], local: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = publish_bundle(bundles[0], local)
    half = stopped(local, bundles[1])
    assert [one.version for one in list_versions(local)] == [version, half]
    assert remove_versions(local) == [half]
    assert [one.version for one in list_versions(local)] == [version]
    stopped(local, bundles[1])

    scan, tidied = local.scan, list[str]()

    def tidy_then_scan(table: str) -> Any:
        """All is written; somebody tidies up just before it is verified."""
        if table.startswith("items/") and not tidied:
            tidied.append(table)
            assert remove_versions(local) == []
        return scan(table)

    monkeypatch.setattr(local, "scan", tidy_then_scan)
    assert publish_bundle(bundles[1], local) == half
    assert tidied
    assert head(local).live == half


# The journal


def entries(store: Store) -> list[int]:
    keys = (key for pairs in store.scan(JOURNAL) for key, _ in pairs)
    return sorted(int.from_bytes(key, "big") for key in keys)


def test_the_journal_keeps_what_a_later_version_needs(
    bundles: list[Path], store: Store, tmp_path: Path
) -> None:
    publish_bundle(bundles[0], store)
    put(store, bundles[0], item(3, 97, worth=1.0))
    bundle = later(store, tmp_path, 5)  # read now, published at the end
    put(store, bundles[0], item(3, 98, worth=2.0))
    publish_bundle(bundles[1], store)
    remove_versions(store, keep=0)
    put(store, bundles[1], item(3, 99, worth=3.0))
    remove_versions(store, keep=0)
    publish_bundle(bundle, store)
    funnel = served(store, tmp_path / "cache")
    assert worths(funnel) == dict.fromkeys(range(16), 5.0) | {98: 2.0, 99: 3.0}
    assert records(funnel) == records(
        restore(store, funnel.manifest.content, Funnel.open(bundle), funnel.manifest.items_seq)
    )
    assert entries(store) == [1, 2, 3, 4, 5, 6]


def test_the_journal_loses_what_every_version_has(bundles: list[Path], store: Store, tmp_path: Path) -> None:
    first = publish_bundle(bundles[0], store)
    put(store, bundles[0], item(3, 97, worth=1.0))
    put(store, bundles[0], item(3, 98, worth=2.0))
    second = later(store, tmp_path, 5)
    put(store, bundles[0], item(3, 99, worth=3.0))
    publish_bundle(second, store)
    remove_versions(store)
    assert entries(store) == [4, 5] and head(store).journal_from == 4
    # nothing of it was needed any more
    assert worths(served(store, tmp_path / "cache")) == dict.fromkeys(range(16), 5.0) | {99: 3.0}
    assert roll_back_store(store) == first
    expected = worths(Funnel.open(bundles[0])) | {97: 1.0, 98: 2.0, 99: 3.0}
    assert worths(served(store, tmp_path / "cache")) == expected
    put(store, bundles[0], item(3, 96, worth=4.0))
    third = publish_bundle(later(store, tmp_path, 6), store)
    remove_versions(store, keep=0)
    assert entries(store) == [8] and head(store).journal_from == head(store).seq == 8
    assert remove_versions(store) == []
    assert head(store).live == third


def test_the_journal_keeps_what_the_live_version_has_not_entered(
    bundles: list[Path], store: Store, tmp_path: Path
) -> None:
    publish_bundle(bundles[0], store)
    publish_bundle(bundles[1], store)
    put(store, bundles[0], item(3, 97, worth=1.0))  # by a service that has not seen the second
    publish_bundle(later(store, tmp_path, 5), store, stage=True)
    remove_versions(store, keep=0)
    assert entries(store) == [3] and head(store).journal_from == 3
    assert worths(served(store, tmp_path / "cache")) == worths(Funnel.open(bundles[1])) | {97: 1.0}


def test_a_bundle_older_than_the_journal_is_told(bundles: list[Path], local: Store, tmp_path: Path) -> None:
    publish_bundle(bundles[0], local)
    put(local, bundles[0], item(3, 97, worth=1.0))
    publish_bundle(later(local, tmp_path, 5), local)
    remove_versions(local, keep=0)
    said: list[str] = []
    newest = publish_bundle(bundles[1], local, said.append)
    (line,) = said
    assert line.startswith("items that came by the changes 1 to 2 are in the journal no more: those that")
    said.clear()
    roll_back_store(local, report=said.append)
    roll_back_store(local, newest, said.append)
    assert said == []


# Staged


def test_a_staged_version_changes_nothing_that_is_live_and_has_all_items(
    bundles: list[Path], store: Store, tmp_path: Path
) -> None:
    first = publish_bundle(bundles[0], store)
    put(store, bundles[0], item(3, 97, worth=1.0))
    _, before = StoreState.read(store)
    staged = publish_bundle(bundles[1], store, stage=True)
    _, state = StoreState.read(store)
    assert (state.live, state.seq, state.id) == (first, before.seq, before.id)
    assert (state.versions[staged].seq, state.versions[staged].applied) == (0, 2)
    assert [(line.what, line.beside) for line in read_log(store)][-1] == ("stage", staged)
    funnel = served(store, tmp_path / "cache", staged)
    assert worths(funnel)[97] == 1.0 and funnel.manifest.items_seq == 2
    put(store, bundles[0], item(3, 98, worth=2.0))
    followed = catch_up(store, staged, funnel)
    assert worths(followed)[98] == 2.0 and followed.manifest.items_seq == 3
    assert catch_up(store, staged, followed) is followed
    again = served(store, tmp_path / "cache", staged)
    assert records(again) == records(followed) == records(restore(store, staged, Funnel.open(bundles[1]), 3))
    promote_version(store, staged)
    live = served(store, tmp_path / "cache", staged)
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


def test_a_version_is_withdrawn_until_it_is_staged_again(bundles: list[Path], local: Store) -> None:
    first = publish_bundle(bundles[0], local)
    staged = publish_bundle(bundles[1], local, stage=True)
    for _ in range(2):
        withdraw_version(local, staged)
        assert withdrawn(local) == [staged]
    assert [(line.what, line.beside) for line in read_log(local)][-1] == ("withdraw", staged)
    with pytest.raises(StoreError, match=f"{first} is live; `corank store rollback`"):
        withdraw_version(local, first)
    publish_bundle(bundles[1], local, stage=True)
    assert withdrawn(local) == []
    # as is one that is rolled back
    promote_version(local, staged)
    roll_back_store(local)
    assert withdrawn(local) == [staged]
    promote_version(local, staged)
    assert withdrawn(local) == []


def test_a_version_stays_while_it_is_to_come_or_a_service_holds_it(bundles: list[Path], local: Store) -> None:
    staged = publish_bundle(bundles[1], local, stage=True)
    publish_bundle(bundles[0], local)
    newer = publish_bundle(bundles[2], local, stage=True)
    write_lease(local, staged)
    said: list[str] = []
    assert remove_versions(local, 0, said.append) == []
    assert said[0].startswith(f"{newer} stays: it was staged after the live version")
    assert len(said) == 2 and said[1].startswith(f"{staged} stays: ") and "--version" in said[1]
    # leases that have expired, reach further than any is given, or are none
    lease = next(iter(read_leases(local)[0].values()))
    over = msgspec.structs.replace(lease, until=0)
    far = msgspec.structs.replace(lease, until=lease.until + round(2e3 * LEASE_SECONDS))
    odd = Lease("../..", "here\x1b", lease.until)
    rows = [msgspec.json.encode(one) for one in (over, far, odd)] + [b"{", b"x" * 5000]
    local.put({LEASES: [(key, rows[0]) for pairs in local.scan(LEASES) for key, _ in pairs]})
    local.put({LEASES: [(b"%d" % n, raw) for n, raw in enumerate(rows)]})
    assert remove_versions(local, 0) == [staged]
    assert local.count(LEASES) == 0 and newer in StoreState.read(local)[1].versions
    withdraw_version(local, newer)
    assert remove_versions(local, 0, said.append) == [newer] and said[-1] == f"removed {newer}"


# By the command line


def test_the_commands_go_back_and_tidy_up(
    bundles: list[Path], local: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    url = local.address
    none = Path(f"{url.removeprefix('lmdb:')}-none")
    faults = [
        (f"lmdb:{none}", f"there is no store at {none}; `corank publish` makes one"),
        (url, "nothing is live; `corank publish` makes a bundle live"),
    ]
    for address, message in faults:
        assert run_corank(capsys, "store", "prune", address) == (1, "", f"error: {address}: {message}\n")
    assert not none.exists()
    assert local.swap(None, b"a head of something else")
    message = f"error: {url}: its head is not corank's, or of another release; publish into a new store\n"
    assert run_corank(capsys, "store", "rollback", url) == (1, "", message)
    assert local.swap(local.head(), StoreState().to_bytes())
    versions = [publish_bundle(bundle, local) for bundle in bundles[:3]]
    code, out, err = run_corank(capsys, "store", "rollback", url, "--to", "none")
    assert (code, out, err) == (1, "", f"error: {url}: no version none; there are {', '.join(versions)}\n")
    assert run_corank(capsys, "store", "rollback", url) == (0, "", f"live: {versions[1]}\n")
    assert run_corank(capsys, "store", "prune", url, "--keep", 0) == (
        0,
        "",
        "".join(f"removed {name}\n" for name in sorted((versions[0], versions[2]))) + "2 removed\n",
    )


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

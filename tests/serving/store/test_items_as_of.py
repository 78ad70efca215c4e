"""Which upserts a new version keeps on top of its table is decided by the table's as-of, never by a file's time."""

import json
import os
from itertools import pairwise
from pathlib import Path

import pytest

import corank
from corank.bundle.bundle import Bundle
from corank.bundle.manifest import ItemsAsOf
from corank.core.errors import DataError
from corank.core.time import now_ms
from corank.funnel.funnel import Funnel
from corank_serve.store.base import Store
from corank_serve.store.journal import read_journal
from corank_serve.store.live_version import StoreState
from corank_serve.store.publish import publish_bundle
from corank_serve.store.upsert import AS_OF_MARGIN, MergedItems, upsert
from tests.support.bundle_versions import variant
from tests.support.cases import write_bundle
from tests.support.command_line import run_corank
from tests.support.shared import derived
from tests.support.stores import item

pytestmark = pytest.mark.slow


def filled(store: Store) -> list[str]:
    """A version, and three upserts: items 90, 4 and 91. Returns the ids of all four changes."""
    publish_bundle(derived().base / "bundle", store)
    for n, id_ in enumerate((90, 4, 91)):
        upsert(store, derived().funnel, [item(n, id_)])
    return [change.id for _, change in read_journal(store, 0, 4)]


def with_as_of(path: Path, as_of: ItemsAsOf | None) -> Path:
    """A bundle of another model, with `as_of` in its manifest."""
    bundle = Bundle.open(variant(derived().base / "bundle", path / "made", 2))
    manifest = bundle.manifest.model_copy(update={"items_as_of": as_of})

    def fill(folder: Path) -> None:
        for file in bundle.folder.rglob("*"):
            if file.is_file():
                target = folder / file.relative_to(bundle.folder)
                target.parent.mkdir(parents=True, exist_ok=True)
                os.link(file, target)

    write_bundle(path / "bundle", manifest, fill)
    return path / "bundle"


def publish(path: Path, store: Store) -> tuple[MergedItems, list[str]]:
    merges, said = list[MergedItems](), list[str]()
    publish_bundle(path, store, said.append, merged=merges.append)
    return merges[0], said


@pytest.mark.parametrize(
    ("as_of", "kept", "overridden", "lacking"),
    [
        (0, [90, 4, 91], [], []),
        (3, [91], [4], [90]),
        (4, [], [4], [90, 91]),
    ],
)
def test_a_change_decides_exactly(
    local: Store, tmp_path: Path, as_of: int, kept: list[int], overridden: list[int], lacking: list[int]
) -> None:
    ids = filled(local)
    position = ItemsAsOf(change=as_of, id=ids[as_of - 1] if as_of else None)
    merged, said = publish(with_as_of(tmp_path, position), local)
    assert (merged.kept, merged.overridden, merged.lacking) == (kept, overridden, lacking)
    assert merged.known and not any("--items-as-of" in line for line in said)
    assert len(said) == sum(map(bool, (kept, overridden, lacking)))


def test_without_an_as_of_nothing_is_dropped(store: Store, tmp_path: Path) -> None:
    filled(store)
    merged, said = publish(with_as_of(tmp_path, None), store)
    assert (merged.kept, merged.overridden, merged.lacking, merged.known) == ([90, 4, 91], [], [], False)
    assert said == [
        f"3 items came since {merged.version} was read: put on top: 90, 4, 91; as of when its table is was not given: "
        "`corank export` and `corank refresh` take --items-as-of"
    ]


@pytest.mark.parametrize("as_of", [ItemsAsOf(change=5), ItemsAsOf(change=3, id="0" * 16)])
def test_a_change_of_another_history_drops_nothing(local: Store, tmp_path: Path, as_of: ItemsAsOf) -> None:
    filled(local)
    merged, said = publish(with_as_of(tmp_path, as_of), local)
    assert merged.kept == [90, 4, 91]
    assert f"has no {as_of}: it is another store, or lost writes; all upserts stay on top" in said[0]


def test_a_time_keeps_what_is_in_doubt(local: Store, tmp_path: Path) -> None:
    """A clock that is five minutes off loses nothing."""
    filled(local)
    near, far = now_ms() + AS_OF_MARGIN // 2, now_ms() + AS_OF_MARGIN + 3_600_000
    merged, _ = publish(with_as_of(tmp_path / "near", ItemsAsOf(time=near)), local)
    assert merged.kept == [90, 4, 91]
    merged, _ = publish(with_as_of(tmp_path / "far", ItemsAsOf(time=far)), local)
    assert (merged.kept, merged.overridden, merged.lacking) == ([], [4], [90, 91])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("42", ItemsAsOf(change=42)),
        ("42-0123456789abcdef", ItemsAsOf(change=42, id="0123456789abcdef")),
        ("2026-04-30", ItemsAsOf(time=1_777_507_200_000)),
        ("2026-04-30T06:00+02:00", ItemsAsOf(time=1_777_521_600_000)),
        *((text, None) for text in ("", "-3", "42-xyz", "2026-13-01", "9" * 30)),
    ],
)
def test_an_as_of_is_a_change_or_a_time(text: str, expected: ItemsAsOf | None) -> None:
    data = derived().funnel.manifest.data.model_copy(update={"timezone": "UTC"})
    if expected is not None:
        assert ItemsAsOf.parse(text, data) == expected
        return
    with pytest.raises(DataError, match="expected a change of the store, such as 42 or 42-9f3c2b1a00d4e5f6"):
        ItemsAsOf.parse(text, data)


def test_the_command_prints_what_became_of_upserts(
    local: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refused = run_corank(capsys, "refresh", derived().base / "bundle", "log.parquet", "--items-as-of", "3")
    assert refused == (1, "", "error: --items-as-of says what --items contains; give both\n")
    filled(local)
    path = with_as_of(tmp_path, ItemsAsOf(change=3))
    code, out, _ = run_corank(capsys, "publish", path, local.address, "--json")
    report = json.loads(out)
    assert code == 0 and report == {
        "version": Bundle.open(path).manifest.content,
        "known": True,
        "kept": [91],
        "overridden": [4],
        "lacking": [90],
        "removed": [],
    }
    code, out, _ = run_corank(capsys, "publish", path, local.address, "--json")
    assert code == 0 and json.loads(out) == {"version": report["version"]}


def test_the_log_tells_who_did_what(local: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ids = filled(local)
    version = StoreState.read(local)[1].require_live(local)
    upsert(local, Funnel.open(derived().base / "bundle"), [item(3, 92), item(4)], by="ada")
    second = publish_bundle(variant(derived().base / "bundle", tmp_path / "second", 2), local)
    corank.roll_back(local.address)
    corank.prune(local.address, keep=0)
    entries = corank.store_log(local.address, last=5)
    assert [(line["what"], line["change"], line["items"]) for line in entries] == [
        ("upsert", 4, 1),
        ("upsert", 5, 2),
        ("publish", 6, 0),
        ("roll back", 7, 0),
        ("prune", 7, 0),
    ]
    assert [line["version"] for line in entries] == [version, version, second, version, version]
    assert [line["removed"] for line in entries] == [[], [], [], [], [second]]
    assert entries[1]["by"] == "ada" and "@" in entries[2]["by"]
    changes = [line for line in entries if line["what"] != "prune"]
    assert changes[0]["id"] == ids[3]
    assert all(later["before"] == earlier["id"] for earlier, later in pairwise(changes))
    code, out, err = run_corank(capsys, "store", "log", local.address, "--json")
    assert (code, err) == (0, "") and json.loads(out)[-5:] == entries
    code, out, err = run_corank(capsys, "store", "log", local.address, "--last", 4)
    lines = out.splitlines()
    assert (code, err, len(lines)) == (0, "", 4)
    assert f"5-{entries[1]['id']}  ada  upsert of 2 items  {version}" in lines[0]
    assert lines[3].endswith(f"prune  {second}")

"""Refreshing: a bundle brought forward by a newer log is what packing all of it would have given."""

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from commands import corank
from random_worlds import DAY, DERIVED, HOUR, Case, bare_funnel
from scipy.special import expit
from test_pack import LOG, USERS, World

from corank import verbs
from corank.bundle import Bundle
from corank.encode import Encoders
from corank.errors import DataError
from corank.export import export, newest
from corank.features import CountFeature, IdFeature, IdsFeature, PriorFeature
from corank.funnel import Funnel, Request, snapshots
from corank.layout import dense
from corank.predict import predict
from corank.prior import Rates, Snapshots
from corank.records import Records
from corank.rows import Rows
from corank.run import Run

BEGIN = 2 * DAY + 5 * HOUR
"""When the bundle's log ended: both the daily priors and those of two days are as of the third midnight."""


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case.of(tmp_path_factory.mktemp("case"), DERIVED)


@pytest.fixture(scope="module")
def exported(case: Case, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("exported") / "bundle"
    early = replace(case.packed, manifest=case.packed.manifest.model_copy(update={"last": BEGIN}))
    export(path, case.config, early, case.model, case.calibrators)
    return path


@pytest.fixture
def bundle(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "bundle"))


def content(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def counts(found: Snapshots) -> dict[str, list[Any]]:
    def plain(rates: Rates) -> list[Any]:
        arrays = [rates.keys, *vars(rates.counts).values(), *vars(rates.all).values()]
        return [array.tolist() for array in arrays]

    return {name: plain(rates) for name, rates in found.rates.items()}


def priors(bundle: Bundle) -> dict[str, list[Any]]:
    return counts(snapshots(bundle.folder, bundle.manifest))


def records(bundle: Bundle) -> Records:
    encoders = Encoders.load(bundle.folder / "encoders", bundle.manifest.declared)
    return Records.load(bundle.folder / "items", encoders, bundle.manifest.item_columns)


def plain(rows: Rows) -> list[Any]:
    lists = [[values.length.tolist(), values.flat().tolist()] for values in rows.lists]
    return [rows.ids.tolist(), rows.numbers.tolist(), lists]


# All of a log


@pytest.mark.parametrize(
    ("until", "moment"), [(None, 4 * DAY - HOUR), ("1970-01-05", 4 * DAY), ("1970-01-06T07:30", 5 * DAY)]
)
def test_priors_are_those_that_packing_counts(
    case: Case, bundle: Path, until: str | None, moment: int
) -> None:
    before = Bundle.open(bundle)
    after = verbs.refresh(bundle, str(case.base / "log.parquet"), until=until)
    expected = case.packed.priors.as_of(case.packed.schema.priors(), moment)
    assert priors(after) == counts(expected) != priors(before)
    assert after.manifest.priors == expected.cut
    assert set(after.manifest.priors.values()) == {moment // DAY * DAY, moment // (2 * DAY) * (2 * DAY)}
    assert after.manifest.model_version == before.manifest.model_version
    assert (before.manifest.items_seq, after.manifest.items_seq) == (1, 2)


def test_records_and_vectors_are_of_the_new_priors(case: Case, bundle: Path) -> None:
    before = Bundle.open(bundle)
    after = verbs.refresh(bundle, str(case.base / "log.parquet"), until="1970-01-05")
    now = case.packed.priors.as_of(case.packed.schema.priors(), 4 * DAY)
    expected = newest(case.packed).renewed(case.packed.encoders, now)
    assert plain(records(after).rows) == plain(expected.rows) != plain(records(before).rows)
    assert records(after).ids.values.to_list() == list(range(16))
    tables = {int(d): w.detach().numpy() for d, w in case.model.tables["shared"].weights.items()}
    inputs = torch.from_numpy(dense(expected.rows, case.model.layout.groups["item"], tables))
    with torch.no_grad():
        vectors = case.model.stages["prerank"].item(inputs).numpy()
    old, new = (np.load(b.folder / "items" / "vectors.prerank.npy") for b in (before, after))
    np.testing.assert_allclose(new, vectors, atol=1e-5)
    assert np.abs(new - old).max() > 0.01


def test_a_refreshed_funnel_scores_as_the_training_model_does(case: Case, bundle: Path) -> None:
    stale = Funnel.open(bundle)
    verbs.refresh(bundle, str(case.base / "log.parquet"), until="1970-01-04")
    fresh, theirs = Funnel.open(bundle), predict(case.model, case.packed, "test")
    start, far = theirs.requests.start, 0.0
    for number in range(len(start) - 1):
        request = Request.parse(case.request("test", number))
        for stage, labels in theirs.logits.items():
            for label, logits in labels.items():
                ours, olds = (expit(f.logits(request)[stage][label]) for f in (fresh, stale))
                expected = expit(logits[start[number] : start[number + 1]])
                np.testing.assert_allclose(ours, expected, atol=1e-5)
                far = max(far, np.abs(olds - expected).max())
    assert far > 0.01


def test_who_reads_the_content_before_still_can(case: Case, bundle: Path) -> None:
    reader, request = Funnel.open(bundle), Request.parse(case.request("test", 3))
    answer = reader.rank(request)
    verbs.refresh(bundle, str(case.base / "log.parquet"), until="1970-01-04")
    again = Funnel.open(bundle).rank(request)
    assert reader.rank(request) == answer
    assert (answer["items_seq"], again["items_seq"]) == (1, 2)
    assert [i["score"] for i in again["items"]] != [i["score"] for i in answer["items"]]


def test_a_log_that_closes_no_later_period_changes_no_prior(case: Case, bundle: Path) -> None:
    said: list[str] = []
    before = Bundle.open(bundle)
    after = verbs.refresh(bundle, str(case.base / "log.parquet"), until="1970-01-03T23:00", report=said.append)
    assert after.manifest.priors == before.manifest.priors
    assert priors(after) == priors(before)
    assert said == [
        f"{name}: still as of 1970-01-03 00:00:00 UTC; the log closes no later period"
        for name in case.packed.schema.priors()
    ]


def test_days_one_after_another_are_all_at_once(case: Case, bundle: Path, tmp_path: Path) -> None:
    """Each with the day before, of which some clicks came late."""
    log, whole = pl.read_parquet(case.base / "log.parquet"), Path(shutil.copytree(bundle, tmp_path / "whole"))
    days = {str(day): some for (day,), some in log.group_by(pl.col("time") // DAY, maintain_order=True)}
    for day in "123":
        days[day].write_parquet(tmp_path / f"day{day}.parquet")
    verbs.refresh(bundle, f"{tmp_path}/day[12].parquet", until="1970-01-04")
    pieces = verbs.refresh(bundle, f"{tmp_path}/day[23].parquet", until="1970-01-05")
    once = verbs.refresh(whole, str(case.base / "log.parquet"), until="1970-01-05")
    assert priors(pieces) == priors(once)
    assert plain(records(pieces).rows) == plain(records(once).rows)
    assert (pieces.manifest.items_seq, once.manifest.items_seq) == (3, 2)


def test_exact_duplicates_count_once(case: Case, bundle: Path, tmp_path: Path) -> None:
    log = pl.read_parquet(case.base / "log.parquet")
    pl.concat([log, log[::-3]]).write_parquet(tmp_path / "twice.parquet")
    after = verbs.refresh(bundle, str(tmp_path / "twice.parquet"), until="1970-01-05")
    assert priors(after) == counts(case.packed.priors.as_of(case.packed.schema.priors(), 4 * DAY))


# A log small enough to count by hand

NEWER = pl.DataFrame(
    [
        ("d", 3, 13, 49 * HOUR, "exposed", None, None, 0.0),
        ("f", 2, 10, 60 * HOUR, "exposed", 0, "feed", 0.0),
        ("f", 2, 13, 60 * HOUR, "exposed", 1, "feed", 0.0),
        ("f", 2, 11, 60 * HOUR, "ranked", 1, "feed", 0.0),
        ("g", 1, 12, 72 * HOUR, "exposed", 1, "home", 0.0),
    ],
    schema=LOG.schema,
    orient="row",
)
"""The snapshot is as of 48 h: item 10 was clicked once of once, 11 never of once, 12 twice of twice."""


@pytest.fixture
def world(tmp_path: Path) -> World:
    found = World(tmp_path, users=USERS.with_columns(city=pl.Series(["a", "b", "a"])))
    found.features |= {
        "city": IdFeature(side="user", kind="id"),
        "brands": IdsFeature(side="user", kind="ids", of="clicked.brand"),
        "ctr": PriorFeature(kind="prior", by=["item"], label="click", smoothing=2, scale="none"),
        "brand_ctr": PriorFeature(kind="prior", by=["brand"], label="click", smoothing=2, scale="none"),
        "city_shown": PriorFeature(kind="prior", by=["city"], scale="none"),
        "brand_seen": CountFeature(kind="count", of=["clicked.brand", "brand"], scale="none"),
    }
    return found


def refreshed(world: World, log: pl.DataFrame, **tables: Any) -> list[str]:
    """What is said when the world's bundle is refreshed by a newer log, and newer items and users."""
    given = {"log": log} | {name: tables.pop(name) for name in ("items", "users") if name in tables}
    for name, table in given.items():
        table.write_parquet(world.folder / f"newer.{name}.parquet")
    said: list[str] = []
    paths = {name: str(world.folder / f"newer.{name}.parquet") for name in given}
    verbs.refresh(world.folder / "bundle", **paths, **tables, report=said.append)
    return said


def seen(world: World, *names: str, clicked: list[int] = [], candidates: list[int] = [10]) -> list[list[Any]]:  # noqa: B006
    """The values of some features for user 2 and the candidates, as the bundle's funnel encodes them."""
    funnel = Funnel.open(world.folder / "bundle")
    request = {"user": {"id": 2, "city": "b", "clicked": clicked}, "time": 73 * HOUR}
    received = funnel.receiver.receive(Request.parse(request | {"candidates": candidates}))
    everyone = np.arange(len(received.ids))
    sides = {"query": received.query, "item": received.items, "cross": funnel.receiver.cross(received, everyone)}
    found = []
    for name in names:
        placement = funnel.schema.placement(name)
        rows, placed = sides[placement], funnel.schema.placed(placement)
        if name in placed.lists:
            found.append(rows.lists[placed.lists.index(name)].flat().tolist())
        elif name in placed.ids:
            found.append(rows.ids[:, placed.ids.index(name)].tolist())
        else:
            found.append(rows.numbers[:, placed.numbers.index(name)].tolist())
    return found


ALL = [10, 11, 12, 13, 99]


def test_rates_by_hand(world: World) -> None:
    bare_funnel(world.pack(), world.folder / "bundle")
    said = refreshed(world, NEWER, users=world.users)
    ctr, brand_ctr, city_shown = seen(world, "ctr", "brand_ctr", "city_shown", candidates=ALL)
    # with 0 and 1 of the items 10 and 13 four clicks of six; two candidates of 2/3 are added to each
    assert ctr == pytest.approx([(1 + 4 / 3) / 4, (4 / 3) / 3, (2 + 4 / 3) / 4, (1 + 4 / 3) / 3, 2 / 3])
    x, y, z = (3 + 4 / 3) / 6, (1 + 4 / 3) / 4, 2 / 3
    assert brand_ctr == pytest.approx([x, y, x, y, z])
    assert city_shown == pytest.approx([np.log(1 + 1 + 2)])  # one before, two new; user 3 has no city
    assert "ctr: 1970-01-03 00:00:00 UTC → 1970-01-04 00:00:00 UTC, 2 candidates counted" in said


def test_newer_items_take_the_place_of_older_records_and_add_to_them(world: World) -> None:
    bare_funnel(world.pack(), world.folder / "bundle")
    names = ("item", "brand", "brand_ctr", "brands", "brand_seen")
    asked: dict[str, Any] = {"clicked": [12, 77], "candidates": [10, 12, 77, 99]}
    # codes of the brands: x 2, y 3, z 4
    before = [[2, 3, 1], [2, 2, 4], pytest.approx([5 / 5, 5 / 5, 2 / 3]), [2, 0], [1, 1, 0]]
    before[2] = pytest.approx([(3 + 1.5) / 5, (3 + 1.5) / 5, 0.75])
    assert seen(world, *names, **asked) == before
    newer = pl.DataFrame({"item": [77, 12], "brand": ["z", "z"], "tags": [[1], [3]]})
    said = refreshed(world, NEWER, items=newer, users=world.users)
    assert said[0] == "items: 1 renewed, 1 new"
    x, z = (3 + 4 / 3) / 6, 2 / 3  # what was counted of the brand x stays with it
    after = [[2, 3, 1, 1], [2, 4, 4, 4], pytest.approx([x, z, z, z]), [4, 4], [0, 2, 2, 2]]
    assert seen(world, *names, **asked) == after


def test_of_versions_the_newest_is_the_record(world: World) -> None:
    bare_funnel(world.pack(), world.folder / "bundle")
    newer = pl.DataFrame({"item": [12, 12], "valid_from": [2 * DAY, DAY], "brand": ["z", "y"], "tags": [[1], [2]]})
    refreshed(world, NEWER, items=newer, users=world.users)
    assert seen(world, "brand", "tags", candidates=[12]) == [[4], [3]]


def test_items_without_a_record_are_told_and_counted_by_their_id(world: World) -> None:
    bare_funnel(world.pack(), world.folder / "bundle")
    strange = NEWER.with_columns(pl.col("item").replace(13, 77))
    said = refreshed(world, strange, users=world.users)
    hint = "they are counted by their id alone (give the items, too)"
    assert f"log: 1 items have no record; {hint}" in said
    newer = pl.DataFrame({"item": [77], "brand": ["y"], "tags": [[1]]})
    refreshed(world, NEWER[:1], items=newer, users=world.users)
    ctr, brand_ctr = seen(world, "ctr", "brand_ctr", candidates=[77, 13])
    assert ctr == pytest.approx([(1 + 4 / 3) / 3, 2 / 3])
    # of the brand y only item 11 was counted, but of all the clicks both new ones
    assert brand_ctr == pytest.approx([(4 / 3) / 3, (4 / 3) / 3])


def test_a_gap_before_the_log_is_told(world: World) -> None:
    bare_funnel(world.pack(), world.folder / "bundle")
    said = refreshed(world, NEWER.with_columns(pl.col("time") + 2 * DAY), users=world.users)
    gap = "counts nothing between 1970-01-03 00:00:00 UTC and 1970-01-05 01:00:00 UTC, where the log begins"
    assert f"ctr: {gap}" in said

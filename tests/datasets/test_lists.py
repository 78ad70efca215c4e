"""The importer of one's own lists: its output trains, and inputs that do not fit are named."""

import shutil
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import corank
from corank.core.errors import DataError
from corank.core.settings import validate
from corank.data.log_rows import scan_log
from corank.datasets.feed.simulate import simulate_world
from corank.datasets.importer import TENTHS
from corank.datasets.lists import Lists, write_lists
from corank.features.kinds.ids import IdsFeature
from corank.training.checks.findings import refuse_errors
from corank.training.checks.summary import check_config
from corank.training.config.config_file import read

pytestmark = pytest.mark.slow

COLUMNS = {"candidates": "candidates", "user": "user_id", "time": "time", "labels": "clicked"}


@pytest.fixture(scope="module")
def feed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Somebody's own tables: what a feed exposed, a row an impression, and its items."""
    out = tmp_path_factory.mktemp("feed")
    simulate_world(out, requests=300, candidates=50, users=60, items=400)
    rows = pl.read_parquet(out / "log/*.parquet").filter(level="exposed")
    keys = ("request_id", "user_id", "time", "device")
    lists = rows.group_by(keys, maintain_order=True).agg(candidates="item_id", clicked="is_click")
    for old in (out / "log").iterdir():
        old.unlink()
    lists.write_parquet(out / "log" / "part-00000.parquet")
    items = pl.read_parquet(out / "items.parquet").select("item_id", "category", "brand", "published")
    items.write_parquet(out / "items.parquet")
    return out


@pytest.fixture
def world(feed: Path, tmp_path: Path) -> Path:
    """A copy of the tables, which a test may change."""
    return Path(shutil.copytree(feed, tmp_path / "in"))


def log_of(world: Path) -> pl.DataFrame:
    return pl.read_parquet(world / "log" / "*.parquet")


def settings(world: Path, **more: Any) -> Lists:
    return validate(Lists, COLUMNS | {"items": world / "items.parquet"} | more, "import lists")


def test_the_world_comes_back_and_can_be_trained_on(world: Path, tmp_path: Path) -> None:
    summary = write_lists(world / "log", tmp_path / "out", settings(world))
    config = read(tmp_path / "out" / "config.yaml")
    table = scan_log(config.data, tmp_path / "out")
    rows = table.collect(table.frame).select("user_id", pl.col("time").dt.epoch("s"), "item_id", "clicked")
    expected = log_of(world).explode("candidates", "clicked").rename({"candidates": "item_id"})
    assert rows.equals(expected.select("user_id", pl.col("time").dt.epoch("s"), "item_id", "clicked"))
    assert summary.candidates == len(rows) and summary.impressions == 300
    own = {name for name in summary.features if not name.startswith(("clicked", "shown"))}
    assert own == {"user_id", "request_id", "device", "item_id", "category", "brand"}
    assert "candidates" not in config.declared.features  # all requests have as many
    checked = check_config(config, tmp_path / "out")
    refuse_errors(checked.findings)
    assert checked.config.train.early_stop is not None and checked.config.train.epochs == 20


def test_chosen_items_a_request_key_and_odd_names(world: Path, tmp_path: Path) -> None:
    log = log_of(world)
    rows = log.explode("candidates", "clicked").group_by("request_id", maintain_order=True)
    bought = rows.agg(pl.col("candidates").filter(pl.col("clicked") == 1))["candidates"]
    odd = log.with_columns(bought=bought).rename({"device": "device type", "user_id": "null"})
    odd.write_parquet(tmp_path / "log.parquet")
    columns = settings(world, labels="", chosen="bought", request="request_id", user="null")
    summary = write_lists(tmp_path / "log.parquet", tmp_path / "out", columns)
    config = read(tmp_path / "out" / "config.yaml")
    assert config.data.request == ["request_id"] and config.data.user == "null"
    assert "device_type" in summary.features
    table = scan_log(config.data, tmp_path / "out")
    assert table.collect(table.frame)["is_0"].equals(log["clicked"].explode().alias("is_0"))
    refuse_errors(check_config(config, tmp_path / "out").findings)


def with_lists(world: Path) -> Path:
    """A log with a price, a flag and a time of reading for each candidate, and a list of another length."""
    log = log_of(world)
    log.with_columns(
        price=pl.col("candidates").list.eval(pl.element() * 3 % 100),
        flag=pl.col("candidates").list.eval(pl.element() % 2 == 0),
        after=pl.col("clicked").list.eval(pl.element() * 7.5 + 0.25),
        read_time=pl.col("candidates").list.eval(pl.element() * 5 % 7),
        other=pl.col("candidates").list.head(1),
        floats=pl.lit([0.5, 1.5]),
        names=pl.col("candidates").list.eval(pl.element().cast(pl.String).cast(pl.Categorical)),
    ).write_parquet(world / "lists.parquet")
    return world / "lists.parquet"


def test_what_belongs_to_candidates_is_a_feature_unless_it_was_logged_later(
    world: Path, tmp_path: Path
) -> None:
    said: list[str] = []
    summary = write_lists(with_lists(world), tmp_path / "out", settings(world), said.append)
    assert {"price", "price_rank", "flag"} <= {*summary.features}
    assert not {"after", "read_time", "other"} & {*summary.features}
    left_out = [line for line in said if line.startswith("left out: ")]
    for reason in (
        "after: it is 0.25 unless 'clicked' is 1",
        "read_time: its name says",
        "other: 100% of its values are candidates of the same impression",
        "floats: 300 lists are of another length",
    ):
        assert any(line.startswith(f"left out: {reason}") for line in left_out), left_out
    text = (tmp_path / "out" / "config.yaml").read_text()
    assert "along: [clicked, price, flag]" in text and "# left out: after" in text
    assert "model: towers, keep: 20, label: clicked, matches: [price_rank, clicked_count" in text
    refuse_errors(check_config(read(tmp_path / "out" / "config.yaml"), tmp_path / "out").findings)


def test_a_candidate_that_is_twice_in_an_impression_is_kept_once(world: Path, tmp_path: Path) -> None:
    said: list[str] = []
    log = log_of(world)
    twice = {"candidates": [7, 3, 7, 3, 9], "clicked": [0, 1, 1, 1, None], "price": [1.0, 2.0, 3.0, 4.0, 5.0]}
    log = log.with_columns(price=pl.col("candidates").list.eval(pl.element() * 0.5))
    row = log.slice(5, 1).with_columns(
        pl.Series(name, [values], dtype=log[name].dtype) for name, values in twice.items()
    )
    pl.concat([log.head(5), row, log.slice(6)]).write_parquet(tmp_path / "log.parquet")
    summary = write_lists(tmp_path / "log.parquet", tmp_path / "out", settings(world), said.append)
    written = pl.read_parquet(tmp_path / "out" / "log.parquet")
    columns = written.select(*twice).row(5)
    assert columns == ([3, 7, 9], [1, 1, None], [2.0, 3.0, 5.0])
    assert written.drop("impression").drop(*twice).equals(log.drop(*twice))
    assert summary.candidates == written["candidates"].list.len().sum()
    assert any(line.startswith("1 impression has a candidate twice: ") for line in said), said


def with_context(world: Path) -> Path:
    """A log with lists of the request: searches, a long one of numbers, and what was logged after the click."""
    log = log_of(world).with_row_index("n")
    clicks = pl.col("clicked").list.sum() > 0
    few = pl.col("n") % 4
    log.with_columns(
        searches=pl.when(few > 0).then(
            pl.concat_list(pl.format("q{}", few), pl.format("q{}", pl.col("n") % 7))
        ),
        seen=pl.int_ranges(0, few * 20),
        after=pl.when(clicks).then(pl.concat_list(pl.format("c{}", few))).otherwise([]),
        dwell=pl.concat_list(few),
        shown=pl.col("candidates").list.head(2).cast(pl.List(pl.String)),
        blank=pl.lit([], pl.List(pl.String)),
    ).drop("n").write_parquet(world / "context.parquet")
    return world / "context.parquet"


def test_lists_of_the_request_are_features_unless_they_say_what_was_clicked(
    world: Path, tmp_path: Path
) -> None:
    said: list[str] = []
    imported = write_lists(with_context(world), tmp_path / "out", settings(world), said.append)
    assert {"searches", "seen"} <= {*imported.features}
    left_out = {line.split(": ")[1]: line.split(": ", 2)[2] for line in said if line.startswith("left out: ")}
    assert left_out == {
        "after": "it is empty unless 'clicked' is 1 for a candidate",
        "dwell": "its name says what happens after a click",
        "shown": "100% of its values are candidates of the same impression",
        "blank": "its lists hold no value",
    }
    assert any("searches, seen" in line for line in said if line.startswith("features: "))
    config = read(tmp_path / "out" / "config.yaml")
    seen = config.features["seen"]
    assert isinstance(seen, IdsFeature) and (seen.side, seen.last) == ("context", 60), (
        "the newest is the last"
    )
    summary = check_config(config, tmp_path / "out")
    refuse_errors(summary.findings)
    run = corank.train(tmp_path / "out" / "config.yaml", ["train.epochs=1"], folder=tmp_path / "run").run
    assert {"searches", "seen"} <= {*run.config.features}


def test_named_columns_alone_are_taken_and_must_fit(world: Path, tmp_path: Path) -> None:
    log = with_lists(world)
    summary = write_lists(log, tmp_path / "out", settings(world, along="after"))
    assert "after" in summary.features and "price" not in summary.features
    config = read(tmp_path / "out" / "config.yaml")
    assert config.known_before == ["after"]
    refuse_errors(check_config(config, tmp_path / "out").findings)
    for name, message in {
        "other": "are of another length",
        "names": "expected numbers",
        "x": "--along",
    }.items():
        with pytest.raises(DataError, match=message):
            write_lists(log, tmp_path / "none", settings(world, along=name))


def test_a_log_of_two_days_is_split_by_share(world: Path, tmp_path: Path) -> None:
    log = log_of(world)
    days = log["time"].dt.date().unique().sort()
    log.filter(pl.col("time").dt.date().is_in(days[:2].to_list())).write_parquet(tmp_path / "two.parquet")
    summary = write_lists(tmp_path / "two.parquet", tmp_path / "out", settings(world))
    assert summary.split == TENTHS
    splits = corank.check(tmp_path / "out" / "config.yaml").profile.splits
    requests = {name: split.requests for name, split in splits.items()}
    assert 0.7 < requests["train"] / summary.impressions < 0.9 and min(requests.values()) > 0
    same = log.with_columns(time=pl.col("time").min())
    same.write_parquet(tmp_path / "same.parquet")
    write_lists(tmp_path / "same.parquet", tmp_path / "one", settings(world))
    with pytest.raises(DataError, match="have 1 times, too few to split"):
        corank.check(tmp_path / "one" / "config.yaml")


def test_files_that_are_not_there_or_not_alike(world: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no Parquet, CSV or TSV file in this folder"):
        write_lists(tmp_path, tmp_path / "out", settings(world))
    with pytest.raises(DataError, match="no such file"):
        write_lists(tmp_path / "x.parquet", tmp_path / "out", settings(world))
    pl.read_parquet(world / "items.parquet").head(9).write_parquet(tmp_path / "few.parquet")
    with pytest.raises(DataError, match=r"few\.parquet: no row for"):
        write_lists(world / "log", tmp_path / "out", settings(world, items=tmp_path / "few.parquet"))
    shutil.copy(world / "items.parquet", world / "log" / "zzz.parquet")
    with pytest.raises(DataError, match="its columns are not those of"):
        write_lists(world / "log", tmp_path / "out", settings(world))
    assert not (tmp_path / "out").exists()


def in_row(column: str, value: Any) -> Callable[[pl.DataFrame], pl.DataFrame]:
    """Replace a list of the third row."""

    def spoil(frame: pl.DataFrame) -> pl.DataFrame:
        lists = [value if n == 2 else old for n, old in enumerate(frame[column].to_list())]
        return frame.with_columns(pl.Series(column, lists, strict=False))

    return spoil


def every(column: str, value: Any) -> Callable[[pl.DataFrame], pl.DataFrame]:
    """Give all rows a value."""
    return lambda frame: frame.with_columns(pl.Series(column, [value] * len(frame)))


UNFIT: dict[str, tuple[Callable[[pl.DataFrame], pl.DataFrame] | None, dict[str, Any], str]] = {
    "a label 2": (in_row("clicked", [0, 2, 1]), {}, "clicked, row 3: expected 0, 1, or .*; received .0, 2, 1.$"),
    "labels of text": (every("clicked", ["n", "y", "n"]), {}, "'clicked' .* lists of String; expected 0 and 1"),
    "labels without lists": (every("clicked", 1), {}, "'clicked' .--labels. is Int64; expected lists"),
    "a ragged list": (in_row("clicked", [0, 1]), {}, "row 3: expected a list as long as .*; received .0, 1.$"),
    "no list": (in_row("clicked", None), {}, "column clicked, row 3: expected a list as long as 'candidates'"),
    "no column": (None, {"candidates": "candidate"}, "no column 'candidate' .--candidates.; near ones: candidates"),
    "no label": (None, {"labels": ""}, "no label; name a column as --labels, or one of lists as --chosen"),
    "float candidates": (every("candidates", [1.0, 2.5, 3.0]), {}, "lists Float64, not whole numbers"),
    "nested candidates": (every("candidates", [[1], [2], [3]]), {}, "lists List.*, not whole numbers"),
    "candidates of objects": (every("candidates", [{"a": 1}] * 3), {}, "lists Struct.*, not whole"),
    "a null candidate": (in_row("candidates", [1, None, 3]), {}, "candidates, row 3: expected an item in every"),
    "chosen unlike": (every("bought", ["a"]), {"labels": "", "chosen": "bought"}, "'bought' .--chosen. has lists of S"),
    "the user is the candidates": (None, {"user": "candidates"}, "as --candidates and as --user; name it once"),
    "a label twice": (None, {"labels": "clicked,clicked"}, "'clicked' is named as --labels and as --labels"),
    "a label is along": (None, {"along": "clicked"}, "'clicked' is named as --labels and as --along"),
    "a key of lists": (None, {"request": "candidates"}, "as --candidates and as --request; name it once"),
    "the items' name": (every("item_id", [1, 2, 3]), {"along": "item_id"}, "has the candidates' name .--item"),
    "a column has the rows' name": (every("impression", 1), {}, "'impression' has the name that rows"),
    "a ragged column": (lambda frame: in_row("price", [1, 2])(every("price", [1, 2, 3])(frame)), {"along": "price"},
                        "in.parquet: column 'price' .--along.: 1 lists are of another length"),
}  # fmt: skip


@pytest.mark.parametrize("case", UNFIT)
def test_lists_that_cannot_be_a_log_are_refused_at_import_in_one_line(tmp_path: Path, case: str) -> None:
    spoil, more, told = UNFIT[case]
    rows = range(40)
    log = pl.DataFrame(
        {
            "user_id": [n % 7 for n in rows],
            "time": [datetime(2026, 3, 1) + timedelta(hours=3 * n) for n in rows],
            "candidates": [[n, n + 1, n + 2] for n in rows],
            "clicked": [[0, 1, 0]] * len(rows),
        }
    )
    (spoil(log) if spoil else log).write_parquet(tmp_path / "in.parquet")
    with pytest.raises(DataError, match=told) as error:
        write_lists(
            tmp_path / "in.parquet", tmp_path / "out", validate(Lists, COLUMNS | more, "import lists")
        )
    assert "\n" not in str(error.value) and [*tmp_path.iterdir()] == [tmp_path / "in.parquet"]


def returning(folder: Path) -> Path:
    """A log whose users meet again what they met, with the clicks that each had before, and a table of items."""
    items = pl.DataFrame({"item_id": range(100), "brand": [n % 10 for n in range(100)], "price": 1.5})
    items.write_parquet(folder / "items.parquet")
    begin, past = datetime(2026, 3, 1), dict[int, list[tuple[int, datetime]]]()
    rows = []
    for n in range(240):
        user, time = n % 8, begin + timedelta(hours=3 * n)
        candidates = [(n // 8 * 3 + k) % 100 for k in range(5)]
        clicked, before = [int((n + k) % 4 == 0) for k in range(5)], past.setdefault(user, [])
        rows.append((user, time, candidates, clicked, [i for i, _ in before], [t for _, t in before]))
        before += [(i, time) for i, c in zip(candidates, clicked, strict=True) if c]
    columns = ["user_id", "time", "candidates", "clicked", "past", "past_at"]
    pl.DataFrame(rows, schema=columns, orient="row").write_parquet(folder / "log.parquet")
    return folder


def test_candidates_are_looked_for_in_the_history(tmp_path: Path) -> None:
    """By how often it has them and how long ago; by how many events ago, where times are not known."""
    world, out = returning(tmp_path), tmp_path / "out"
    times = {"history": "past", "history_times": "past_at"}
    timed = write_lists(world / "log.parquet", out / "timed", settings(world, **times))
    told = {"history_count", "history_since", "history_brand_count", "history_brand_since"}
    assert told <= {*timed.features}
    # a given history may be cut short, so that clicks of the log are looked for, too
    assert {"clicked_count", "clicked_brand_since"} <= {*timed.features}
    text = (out / "timed" / "config.yaml").read_text()
    assert "history: {side: user, kind: ids, of: item_id, column: past, times: past_at, last: 50}" in text
    assert "history_brand_since: {kind: since, of: [history.brand, brand], buckets: 16, dim: 4}" in text
    assert (
        "matches: [history_count, history_since, history_brand_count, history_brand_since, clicked_count"
        in text
    )
    checked = check_config(read(out / "timed" / "config.yaml"), out / "timed")
    refuse_errors(checked.findings)
    assert not any("feature that looks for the candidate in 'history" in one.what for one in checked.findings)
    log = pl.read_parquet(world / "log.parquet").drop("past_at")
    log.write_parquet(world / "untimed.parquet")
    write_lists(world / "untimed.parquet", out / "untimed", settings(world, history="past"))
    text = (out / "untimed" / "config.yaml").read_text()
    assert (
        "history_since: {kind: since, of: [history, item_id], measure: events, buckets: 16, dim: 4}" in text
    )
    refuse_errors(check_config(read(out / "untimed" / "config.yaml"), out / "untimed").findings)
    with pytest.raises(DataError, match="name its column, too"):
        write_lists(world / "log.parquet", out / "no", settings(world, history_times="past_at"))


def test_candidates_are_looked_for_in_earlier_requests_if_they_recur(tmp_path: Path) -> None:
    world, out = returning(tmp_path), tmp_path / "out"
    log = pl.read_parquet(world / "log.parquet").drop("past", "past_at")
    log.write_parquet(world / "own.parquet")
    own = write_lists(world / "own.parquet", out / "own", settings(world))
    assert {"clicked", "clicked_count", "clicked_brand_since", "shown", "shown_since"} <= {*own.features}
    text = (out / "own" / "config.yaml").read_text()
    assert "shown: {side: user, kind: ids, of: item_id, input: false, last: 200}" in text
    assert "clicked: {side: user, kind: ids, of: item_id, event: clicked, input: false, last: 200}" in text
    checked = check_config(read(out / "own" / "config.yaml"), out / "own")
    refuse_errors(checked.findings)
    assert not any("(kind: count, kind: since)" in one.what for one in checked.findings)
    log.with_columns(user_id=pl.int_range(pl.len())).write_parquet(world / "once.parquet")
    once = write_lists(world / "once.parquet", out / "once", settings(world))
    assert not {"clicked", "shown"} & {*once.features}

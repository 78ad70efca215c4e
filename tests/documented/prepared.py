"""What pages assume: small worlds, runs and bundles of them, brokers and stores. A page names them under `prepare`.

Each function that is `@prepares` is one: it fills the page's folder, and may return texts that replacements name, as
`{redis}`. What is expensive is made once a session and copied.
"""

import json
import shutil
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import polars as pl
import yaml

import corank
from corank.datasets.feed.simulate import simulate_world
from supply_chain.lock import ROOT
from tests.support import kuairand_files
from tests.support.kafka_broker import kafka_broker
from tests.support.object_store import make_store, s3_server
from tests.support.open_bandit_files import release
from tests.support.redis_cluster import start_cluster
from tests.support.redis_server import redis_server
from tests.support.served_worlds import ServedWorld
from tests.support.shared import shared

CHECKOUT = (
    *(
        "corank",
        "corank_serve",
        "corank_continual",
        "corank_lab",
        "docs",
        "examples",
        "pyproject.toml",
        "hatch_build.py",
        "README.md",
        "README.zh-CN.md",
    ),
    *("LICENSE", "CHANGELOG.md"),
)
"""What of the sources the wheel is built from."""


@dataclass
class Place:
    """Where a page is run."""

    folder: Path
    variables: dict[str, str]
    """Of the environment in which the page begins."""
    stack: ExitStack
    """Ends what runs beside the page."""

    def prepare(self, name: str) -> Mapping[str, str]:
        """Make one of what pages assume. Returns texts for replacements."""
        assert name in PREPARED, f"prepare: one of {', '.join(sorted(PREPARED))}; received {name!r}"
        return PREPARED[name](self) or {}


Prepare = Callable[[Place], Mapping[str, str] | None]
PREPARED: dict[str, Prepare] = {}


def prepares(make: Prepare) -> Prepare:
    """Enter what a function makes under its name."""
    PREPARED[make.__name__] = make
    return make


def _copy(folder: Path, place: Place) -> None:
    shutil.copytree(folder, place.folder, dirs_exist_ok=True)


@prepares
def checkout(place: Place) -> None:
    """The sources, as `git clone` leaves them, as far as the wheel needs them."""
    for name in CHECKOUT:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, place.folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, place.folder)


@prepares
def examples(place: Place) -> None:
    """The folder examples/ of the sources."""
    shutil.copytree(ROOT / "examples", place.folder / "examples")


@prepares
def shop(place: Place) -> None:
    """examples/shop.yaml with log/2026-04-21.parquet to log/2026-04-30.parquet, items.parquet, users.parquet."""
    _copy(shared("documented-shop", _make_shop), place)


def _make_shop(folder: Path) -> None:
    """Write a simulated world under the names of the shop's columns, of ten days until 2026-04-30."""
    simulate_world(folder / "world", requests=700, candidates=120, users=60, items=300)
    later = timedelta(days=51)
    log = pl.read_parquet(folder / "world" / "log" / "*.parquet").with_columns(pl.col("time") + later)
    ordered = np.random.default_rng(0).random(len(log)) < 0.3
    log = log.with_columns(is_order=pl.when(pl.col("is_click") == 1).then(pl.Series(ordered).cast(pl.Int8)))
    (folder / "log").mkdir()
    for (day,), rows in log.group_by(pl.col("time").dt.date()):
        rows.write_parquet(folder / "log" / f"{day}.parquet")
    items = pl.read_parquet(folder / "world" / "items.parquet")
    items.with_columns(pl.col("tags").cast(pl.List(pl.String)).list.join(",")).write_parquet(
        folder / "items.parquet"
    )
    shutil.copy(folder / "world" / "users.parquet", folder)
    shutil.rmtree(folder / "world")
    shutil.copy(ROOT / "examples" / "shop.yaml", folder)


@prepares
def shop_run(place: Place) -> None:
    """`shop` with packed/ and the finished run runs/shop."""
    _copy(shared("documented-shop-run", _make_run), place)


def _make_run(folder: Path) -> None:
    shutil.copytree(shared("documented-shop", _make_shop), folder, dirs_exist_ok=True)
    corank.train(folder / "shop.yaml")


@prepares
def shop_bundle(place: Place) -> None:
    """`shop_run` with its bundle in bundle/."""
    _copy(shared("documented-shop-bundle", _make_bundle), place)


def _make_bundle(folder: Path) -> None:
    shutil.copytree(shared("documented-shop-run", _make_run), folder, dirs_exist_ok=True)
    corank.export(folder / "runs" / "shop", folder / "bundle")


@prepares
def shop_clicks(place: Place) -> None:
    """clicks/, the clicks of `shop` as a table of events, and clicks_bundle/, whose histories are made of it."""
    _copy(shared("documented-shop-clicks", _make_clicks), place)


def _make_clicks(folder: Path) -> None:
    shop = shared("documented-shop", _make_shop)
    (folder / "clicks").mkdir()
    clicks = pl.read_parquet(shop / "log" / "*.parquet").filter(pl.col("is_click") == 1)
    clicks.select("user_id", "item_id", "time").write_parquet(folder / "clicks" / "0.parquet")
    config = yaml.safe_load((shop / "shop.yaml").read_text(encoding="utf-8"))
    config["data"] |= {name: str(shop / config["data"][name]) for name in ("log", "items", "users")}
    events = {"user": "user_id", "item": "item_id", "time": "time"}
    config["data"]["events"] = {"clicks": {"table": str(folder / "clicks" / "*.parquet"), **events}}
    config["features"]["history"] = {"side": "user", "kind": "ids", "of": "item_id", "events": "clicks"}
    with TemporaryDirectory() as work:
        path = Path(work, "clicks.yaml")
        path.write_text(json.dumps(config, default=str))
        corank.export(corank.train(path).run.folder, folder / "clicks_bundle")


@prepares
def grid(place: Place) -> None:
    """grid.yaml, a grid for `corank tune`."""
    (place.folder / "grid.yaml").write_text("train.rank.lr: [0.001, 0.003]\n")


@prepares
def arms(place: Place) -> None:
    """arms.yaml, an arm for `corank experiment`."""
    (place.folder / "arms.yaml").write_text("arms:\n  narrow ranker: {set: {stages.1.hidden: [64, 32]}}\n")


@prepares
def impressions(place: Place) -> None:
    """impressions/, a row an impression, of the items in `shop`: user, time, shown_ids, clicked."""
    (place.folder / "impressions").mkdir()
    _impressions().write_parquet(place.folder / "impressions" / "0.parquet")


def _impressions() -> pl.DataFrame:
    log = pl.read_parquet(shared("documented-shop", _make_shop) / "log" / "*.parquet")
    shown = log.filter(pl.col("level") == "exposed").sort("request_id", "position")
    lists = shown.group_by("request_id", "user_id", "time", maintain_order=True).agg(
        shown_ids="item_id", clicked=pl.col("is_click").cast(pl.Int8)
    )
    return lists.drop("request_id").rename({"user_id": "user"})


@prepares
def exposures(place: Place) -> None:
    """exposures.csv, a row an exposure in `shop`: request_id, user_id, time, device, item_id, price, is_click."""
    _exposures().write_csv(place.folder / "exposures.csv")


def _exposures() -> pl.DataFrame:
    log = pl.read_parquet(shared("documented-shop", _make_shop) / "log" / "*.parquet")
    shown = log.filter(pl.col("level") == "exposed").sort("request_id", "position")
    shown = shown.with_columns(price=(pl.col("item_id") * 37 % 200 + pl.col("request_id") % 9) / 100)
    return shown.select("request_id", "user_id", "time", "device", "item_id", "price", "is_click")


@prepares
def returning(place: Place) -> None:
    """returning.parquet, `impressions` with the user's earlier clicks, clicked_before, and when, clicked_at.

    Three of ten candidates are items that the user clicked before, if there are so many.
    """
    lists = _impressions().sort("time")
    past: dict[int, list[tuple[int, Any]]] = {}
    rows = []
    for row in lists.iter_rows(named=True):
        mine = past.setdefault(row["user"], [])
        again = [item for item, _ in mine[-3:] if item not in row["shown_ids"]]
        shown = [*row["shown_ids"][: len(row["shown_ids"]) - len(again)], *again]
        before = {"clicked_before": [i for i, _ in mine], "clicked_at": [at for _, at in mine]}
        rows.append(row | {"shown_ids": shown} | before)
        mine += [(i, row["time"]) for i, c in zip(shown, row["clicked"], strict=True) if c]
    schema = lists.schema | {"clicked_before": pl.List(pl.Int64), "clicked_at": pl.List(lists.schema["time"])}
    pl.DataFrame(rows, schema=schema).write_parquet(place.folder / "returning.parquet")


@prepares
def few(place: Place) -> None:
    """few.parquet, the first 60 of `impressions`."""
    _impressions().sort("time").head(60).write_parquet(place.folder / "few.parquet")


@prepares
def visits(place: Place) -> None:
    """visits.parquet, the impressions of `shop` without users and times: device, shown_ids, clicked."""
    log = pl.read_parquet(shared("documented-shop", _make_shop) / "log" / "*.parquet")
    shown = log.filter(pl.col("level") == "exposed").sort("time", "request_id", "position")
    lists = shown.group_by("request_id", "device", maintain_order=True).agg(
        shown_ids="item_id", clicked=pl.col("is_click").cast(pl.Int8)
    )
    lists.drop("request_id").write_parquet(place.folder / "visits.parquet")


@prepares
def shop_daily(place: Place) -> None:
    """daily.yaml, for `corank daily` of `shop`: its last two days are due, and all that is trained goes live.

    Its config clicks.yaml is shop.yaml without orders.
    """
    (place.folder / "clicks.yaml").write_text(json.dumps(_clicks() | {"name": "clicks"}, default=str))
    settings = {
        "config": "clicks.yaml",
        "first": "2026-04-29",
        "holdout": "8h",
        "gate": ["rank.exposed.click.auc >= live - 1"],
        "store": "lmdb:daily_store",
        "users": "users.parquet",
    }
    (place.folder / "daily.yaml").write_text(json.dumps(settings))


def _clicks() -> dict[str, Any]:
    """shop.yaml without orders, which are not known at the end of a day; its days are those of the files."""
    config: dict[str, Any] = yaml.safe_load((ROOT / "examples" / "shop.yaml").read_text(encoding="utf-8"))
    del config["data"]["labels"]["order"]
    config["data"]["timezone"] = "UTC"
    config["stages"][1] |= {"labels": ["click"]}
    config["losses"] = [loss for loss in config["losses"] if loss.get("label") != "order"]
    return config


@prepares
def served(place: Place) -> None:
    """seen/a and seen/b, the logs of a trial and of the live service; shown.parquet and clicks.parquet of both."""
    world = ServedWorld(lift=2.0).write(place.folder / "seen")
    pl.read_parquet(world / "exposures.parquet").write_parquet(place.folder / "shown.parquet")
    pl.read_csv(world / "clicks.csv").write_parquet(place.folder / "clicks.parquet")


@prepares
def tuesday(place: Place) -> None:
    """tuesday.yaml: `shop` two days later, with a log of its own, later/*.parquet, of its last and of two more days."""
    days = [date(2026, 4, 28), date(2026, 4, 29), date(2026, 4, 30)]
    (place.folder / "later").mkdir()
    for day in days:
        shutil.copy(place.folder / "log" / f"{day}.parquet", place.folder / "later")
    for day in days[1:]:
        rows = pl.read_parquet(place.folder / "log" / f"{day}.parquet")
        later = rows.with_columns(pl.col("time") + timedelta(days=2), pl.col("request_id") + 1_000_000)
        later.write_parquet(place.folder / "later" / f"{day + timedelta(days=2)}.parquet")
    config = yaml.safe_load((ROOT / "examples" / "shop.yaml").read_text(encoding="utf-8"))
    config["data"] |= {"log": "later/*.parquet", "split": {"valid": "2026-05-01", "test": "2026-05-02"}}
    config["data"]["as_of"] = "2026-05-06"
    (place.folder / "tuesday.yaml").write_text(json.dumps(config | {"name": "tuesday"}, default=str))


@prepares
def monday(place: Place) -> None:
    """runs/monday of monday.yaml, `shop`'s clicks alone before 2026-04-27; tuesday.yaml trains a day more.

    The log ends on 2026-04-29, of which runs/monday did not know.
    """
    _copy(shared("documented-monday", _make_monday), place)


def _make_monday(folder: Path) -> None:
    shutil.copytree(shared("documented-shop", _make_shop), folder, dirs_exist_ok=True)
    tuesday = folder / "log" / "2026-04-29.parquet"
    (folder / "log" / "2026-04-30.parquet").unlink()
    config = _clicks()
    for name, first in (("monday", 27), ("tuesday", 28)):
        config["data"]["split"] = {"valid": f"2026-04-{first}", "test": f"2026-04-{first + 1}"}
        (folder / f"{name}.yaml").write_text(json.dumps(config, default=str))
    tuesday.rename(folder / "later.parquet")
    corank.train(folder / "monday.yaml", folder=folder / "runs" / "monday")
    (folder / "later.parquet").rename(tuesday)


@prepares
def redis(place: Place) -> Mapping[str, str]:
    """A server that speaks Redis' protocol; {redis} is its HOST:PORT."""
    (place.folder.parent / "redis").mkdir()
    server = place.stack.enter_context(redis_server(place.folder.parent / "redis"))
    return {"redis": f"127.0.0.1:{server.port}"}


@prepares
def redis_cluster(place: Place) -> Mapping[str, str]:
    """A cluster of servers that speak Redis' protocol; {redis_cluster} is HOST:PORT,HOST:PORT of two of them."""
    (place.folder.parent / "redis_cluster").mkdir()
    cluster = start_cluster(place.stack, place.folder.parent / "redis_cluster")
    return {"redis_cluster": ",".join(f"127.0.0.1:{server.port}" for server in cluster.servers[1:3])}


@prepares
def bucket(place: Place) -> Mapping[str, str]:
    """The bucket s3://shop with log/, items.parquet and users.parquet of `shop`; {s3} is the server's address."""
    endpoint = place.stack.enter_context(s3_server())
    store, shop = make_store(endpoint, "shop"), shared("documented-shop", _make_shop)
    for file in [*shop.glob("log/*"), shop / "items.parquet", shop / "users.parquet"]:
        store.put(str(file.relative_to(shop)), file.read_bytes())
    return {"s3": endpoint}


@prepares
def kafka(place: Place) -> Mapping[str, str]:
    """A broker that speaks Kafka's protocol, with empty topics items, users and log; {kafka} is its HOST:PORT."""
    (place.folder.parent / "kafka").mkdir()
    broker = place.stack.enter_context(kafka_broker(place.folder.parent / "kafka"))
    place.variables["CORANK_KAFKA_PROPERTIES"] = str(broker.properties)
    for topic in ("items", "users", "log"):
        broker.make_topic(topic)
    return {"kafka": broker.servers}


@prepares
def shop_world(place: Place) -> None:
    """shop/, a simulated world with its config.yaml."""
    simulate_world(place.folder / "shop", requests=300, candidates=60, users=40, items=200)


@prepares
def open_bandit(place: Place) -> None:
    """open_bandit_dataset/, a few rows in the layout of the release."""
    release(place.folder / "open_bandit_dataset", rows=2000, campaign="all")


@prepares
def kuairand(place: Place) -> None:
    """KuaiRand-Pure/, a few rows in the layout of the release."""
    kuairand_files.release(place.folder / "KuaiRand-Pure", rows=2000)

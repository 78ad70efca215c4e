"""Drawn logs with columns that tell what happened, and with honest ones that only go with it, as a row a candidate."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from corank.core.types import Doubles, Longs, Mask
from corank.datasets.lists import Lists, write_lists
from corank.training.checks.log_profile import profile_log
from corank.training.config.config_file import read

SIZE = 10
"""Candidates of a request."""
KEYS = ("request", "user", "item_id", "time", "clicked")
_BEGIN = datetime(2026, 3, 1)


@dataclass(frozen=True)
class OutcomeLog:
    """A log, and which of its columns are what."""

    rows: pl.DataFrame
    """A row a candidate, in the order of time: KEYS, and all columns of both kinds."""
    planted: dict[str, str]
    """Column that is known only after the request → its feature's settings."""
    honest: dict[str, str]
    """Column that is known before."""


def draw_outcome_log(requests: int, seed: int) -> OutcomeLog:
    """Draw a log of some 8 % clicks, with 20 planted outcomes and 40 honest columns."""
    rng = np.random.default_rng(seed)
    rows = requests * SIZE
    request = np.repeat(np.arange(requests), SIZE)
    item = np.concatenate([rng.choice(200, SIZE, replace=False) for _ in range(requests)])
    second = np.sort(rng.integers(20 * 86_400, size=requests))[request]
    known = _draw_honest(rng, request, item)
    logit = -3.4 + known.pop("@logit")
    clicked = rng.random(rows) < 1 / (1 + np.exp(-logit))
    for name, rate in (("returned", 0.8), ("in_wishlist", 0.6), ("viewed_today", 0.4)):
        flag = known[name] == 1
        clicked[flag] = rng.random(int(flag.sum())) < rate
    clicked[known["sold_out"] == 1] = False
    time = [_BEGIN + timedelta(seconds=int(s)) for s in second]
    user = rng.integers(max(20, requests // 4), size=requests)[request]
    frame = pl.DataFrame(
        {"request": request, "user": user, "item_id": item, "time": time, "clicked": clicked.astype(np.int8)}
    )
    planted, honest = _planted(rng, frame, clicked), _honest(rng, frame, known)
    columns = frame.with_columns(*planted.values(), *honest.values())
    return OutcomeLog(columns, *({n: _settings(columns[n]) for n in names} for names in (planted, honest)))


def is_of_request(name: str) -> bool:
    """Whether a column has one value a request."""
    return name.startswith(("session_", "user_", "page_"))


def _settings(column: pl.Series) -> str:
    side = "context" if is_of_request(column.name) else "cross"
    if isinstance(column.dtype, pl.List):
        return f"side: {side}, kind: ids"
    return f"side: {side}, kind: {'number' if column.dtype.is_float() else 'id'}"


def _draw_honest(rng: np.random.Generator, request: Longs, item: Longs) -> dict[str, Doubles]:
    """Draw what clicks depend on, and how: `@logit`."""
    rows, requests = len(request), request[-1] + 1
    quality = rng.normal(size=200)[item]
    affinity, price = rng.normal(size=rows), rng.lognormal(3, 0.5, rows)
    discount, query = rng.random(rows) < 0.1, rng.random(rows) < 0.05
    member, searched = rng.random(requests) < 0.3, rng.random(requests) < 0.2
    place = np.tile(np.arange(SIZE), requests)
    logit = 0.8 * quality + 0.8 * affinity - 0.8 * (np.log(price) - 3) + 0.6 * discount + 1.5 * query
    logit += 0.3 * member[request] + 0.6 * searched[request] - 0.12 * place
    known = {"quality": quality, "affinity": affinity, "price": price, "place": place, "discount": discount}
    known |= {"query_match": query, "user_is_member": member[request], "user_searched": searched[request]}
    for name, rate in (("returned", 0.01), ("in_wishlist", 0.02), ("viewed_today", 0.03), ("sold_out", 0.02)):
        known[name] = rng.random(rows) < rate
    return {name: values.astype(float) for name, values in known.items()} | {"@logit": logit}


def _planted(rng: np.random.Generator, frame: pl.DataFrame, clicked: Mask) -> dict[str, pl.Series]:
    """Draw what is known only after the click: flags, counts, amounts, what is null without, times; of request, too."""
    rows, request = len(frame), frame["request"].to_numpy()

    def among(share: float, others: float = 0.0) -> Mask:
        """Some of the clicks; and of other rows so many that they are this share of all."""
        chosen: Mask = clicked & (rng.random(rows) < share)
        count = round(chosen.sum() * others / (1 - others))
        chosen[rng.choice(np.flatnonzero(~clicked), count, replace=False)] = True
        return chosen

    bought, seconds = among(0.25), rng.integers(2, 300, rows)
    clicks = np.bincount(request, clicked)[request]
    in_cart = np.bincount(request, among(0.6))[request]
    time = frame["time"].cast(pl.Datetime("ms")).to_physical().to_numpy()
    late = time + 1000 * seconds * clicked
    columns: dict[str, Any] = {
        "bought": bought.astype(int),
        "in_cart": among(0.4),
        "opened": among(0.98),
        "bought_after_view": among(0.3, others=0.02).astype(int),
        "not_bought": (~bought).astype(int),
        "answer": np.where(clicked, "yes", "no"),
        "detail_pages": np.where(clicked, 1 + rng.poisson(1.5, rows), 0),
        "pictures": np.where(among(0.5), 1 + rng.poisson(1.0, rows), 0),
        "revenue": np.where(bought, rng.lognormal(3, 1, rows).round(2), 0.0),
        "paid": [float(v) if b else None for v, b in zip(rng.lognormal(3, 1, rows), bought, strict=True)],
        "rating": [int(v) if b else None for v, b in zip(rng.integers(1, 6, rows), among(0.3), strict=True)],
        "seconds_on_page": [int(v) if c else None for v, c in zip(seconds, clicked, strict=True)],
        "seconds": np.where(clicked, seconds, -1),
        "exit": np.where(among(0.7), rng.choice(["back", "buy", "close"], rows), ""),
        "clicked_at": pl.Series(late).set(pl.Series(~clicked), None),
        "last_event": late + rng.integers(0, 900, rows),
        "last_second": late / 1000,
        "session_clicks": clicks.astype(int),
        "session_spent": np.where(in_cart > 0, in_cart * 9.5, 0.0),
        "session_clicked": _lists(frame, clicked),
    }  # fmt: skip
    return {name: pl.Series(name, values) for name, values in columns.items()}


def _honest(rng: np.random.Generator, frame: pl.DataFrame, known: dict[str, Doubles]) -> dict[str, pl.Series]:
    """Draw what is known before and goes with clicks, or does not: flags, some of few rows, rates, times, texts."""
    rows, request, requests = len(frame), frame["request"].to_numpy(), frame["request"].n_unique()
    time = frame["time"].cast(pl.Datetime("ms")).to_physical().to_numpy()
    ago = time - rng.integers(3_600_000, 10**9, rows)

    def where(name: str, values: Any) -> pl.Series:
        return pl.Series(values).set(pl.Series(known[name] == 0), None)

    def of_request(values: Any) -> Any:
        return np.asarray(values)[request]

    def noisy(name: str, noise: float) -> Doubles:
        return known[name] + noise * rng.normal(size=rows)

    flags = ("discount", "query_match", "returned", "in_wishlist", "viewed_today", "sold_out")
    members, searched = known["user_is_member"] == 1, known["user_searched"] == 1
    recent = known["viewed_today"].astype(bool) | (rng.random(rows) < 0.2)
    columns: dict[str, Any] = {name: known[name].astype(int) for name in (*flags, "place")}
    columns |= {
        "price": known["price"],
        "rank_of_price": pl.Series(known["price"]).rank().to_numpy(),
        "score": noisy("quality", 0.2) + noisy("affinity", 0.2),
        "rate_of_item": 0.08 * np.exp(0.5 * noisy("quality", 0.3)),
        "affinity": noisy("affinity", 0.5),
        "similarity": np.tanh(noisy("affinity", 1.0)),
        "watch_count": rng.poisson(np.exp(0.5 * known["quality"])),
        "orders_7d": rng.poisson(np.exp(0.8 * known["quality"])),
        "stock": rng.poisson(5, rows) * (known["sold_out"] == 0),
        "km": rng.exponential(5, rows),
        "same_city": rng.random(rows) < 0.3,
        "new": rng.random(rows) < 0.005,
        "sponsored": rng.random(rows) < 0.001,
        "recalled": rng.random(rows) < 0.002,
        "coupon": np.where(known["discount"] == 1, rng.choice([5.0, 10.0], rows), 0.0),
        "days_since_viewed": where("viewed_today", rng.random(rows)),
        "days_since_click": where("returned", rng.exponential(3, rows)),
        "wish_text": where("in_wishlist", rng.choice(["gift", "own"], rows)),
        "viewed_at": where("viewed_today", ago),
        "published": ago,
        "stocked_second": ago / 1000,
        "served_at": time + rng.integers(1, 300, rows),
        "category": rng.choice(list("abcdefgh"), rows),
        "badge": np.where(known["quality"] > 1.2, "top", np.where(rng.random(rows) < 0.1, "new", "")),
        "user_is_member": members,
        "user_searched": searched.astype(int),
        "user_clicks_7d": of_request(rng.poisson(3, requests)) + 2 * members,
        "user_device": of_request(rng.choice(["phone", "tablet", "desktop"], requests)),
        "user_age": of_request(rng.normal(40, 10, requests)),
        "user_recent": _lists(frame, recent, others=5),
        "page_name": np.where(searched, "search", "home"),
        "page_depth": of_request(rng.poisson(2, requests)),
        "session_hour": of_request(rng.integers(24, size=requests)),
    }
    return {name: pl.Series(name, values) for name, values in columns.items()}


def _lists(frame: pl.DataFrame, chosen: Mask, others: int = 0) -> pl.Series:
    """The chosen items of each request, and some that are no candidates, as a list at each of its candidates."""
    marked = frame.with_columns(chosen=pl.Series(chosen))
    items = marked.select(pl.col("item_id").filter("chosen").implode().over("request"))
    more = pl.lit([1000 + n for n in range(others)], pl.List(pl.Int64))
    return items.select(pl.col("item_id").list.concat(more)).to_series()


def write_log(log: OutcomeLog, folder: Path) -> None:
    """Write the log, and a config with a feature of each column, `config.yaml`."""
    log.rows.write_parquet(folder / "log.parquet")
    features = [f"  {name}: {{{settings}}}\n" for name, settings in (log.planted | log.honest).items()]
    (folder / "config.yaml").write_text(_CONFIG + "".join(features), encoding="utf-8")


def refused_by_check(folder: Path) -> set[str]:
    """Name the columns that `corank check` refuses in the config that `write_log` has written."""
    return {*profile_log(read(folder / "config.yaml"), folder).outcomes}


def left_out_by_import(log: OutcomeLog, folder: Path) -> set[str]:
    """Name the columns that `corank import lists` leaves out."""
    whole = [name for name in log.rows.columns if is_of_request(name) or name in ("request", "user", "time")]
    lists = log.rows.group_by("request", maintain_order=True).agg(
        pl.col(whole[1:]).first(), pl.exclude(whole)
    )
    lists.write_parquet(folder / "lists.parquet")
    said: list[str] = []
    columns = Lists(candidates="item_id", user="user", time="time", request="request", labels="clicked")
    write_lists(folder / "lists.parquet", folder / "imported", columns, said.append)
    return {line.split(": ")[1] for line in said if line.startswith("left out: ")}


_CONFIG = """name: outcomes
data:
  log: log.parquet
  request: [request]
  user: user
  item: item_id
  time: time
  labels: {click: {column: clicked}}
  split: {train: ..}
stages: [{name: rank, model: mlp, keep: 5}]
losses: [{kind: click, stage: rank}]
features:
  item_id: {side: item, kind: id}
"""

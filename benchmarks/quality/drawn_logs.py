"""Logs of drawn shops, in the shapes that newcomers bring: small ones, returning users, ordered lists, sparse days.

A shop has users and items with attributes, prices that change, and candidates by popularity, which drifts. Clicks are
logistic in what an item is worth, how its price stands in the list, hidden tastes of users, effects of an attribute of
the user with one of the item, and noise of the request. Nothing of it follows a model of corank. What only the world
knows, the true probabilities, stays out of the files.
"""

from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from corank.core.reports import Report
from corank.core.types import Doubles, Longs
from corank.datasets.lists import Lists, write_lists

START = datetime(2026, 3, 2)
ITEMS, CATEGORIES, BRANDS, COUNTRIES, AGES, DEVICES = 400, 12, 40, 8, 6, 3
FEWEST, MOST = 20, 50
"""Candidates of a request."""
REMEMBERED = 50
"""Clicks of a user that a log of histories lists, at most: the last ones."""
RETURNING = 0.3
"""Of the candidates of a returning user, those that the user saw before."""
HIDDEN = ("truth", "fair")
"""Columns that only the world knows."""
USERS = ("country", "age_band")
"""Attributes of users."""


@dataclass(frozen=True)
class Shape:
    """What a drawn shop is like, and how its log is written."""

    requests: int
    days: int = 14
    users: float = 0.3
    """Of the number of requests."""
    pairs: float = 0.3
    """Deviation of the effects of an attribute of the user with one of the item."""
    place: float = 0.0
    """Logit that a place further down by the factor e costs."""
    ordered: bool = False
    """Whether lists are in production's order, else shuffled."""
    returns: bool = False
    """Whether users come back to what they saw, and the log lists what they clicked."""
    purchases: bool = False
    """Whether the log has what was bought after the click."""
    ends_sparse: bool = False
    """Whether the last two days have one and two requests."""
    rows: bool = False
    """Whether a row is an exposure, in CSV, in place of a list in Parquet."""


SHAPES = {
    "small200": Shape(200),
    "small1000": Shape(1000),
    "small5000": Shape(5000),
    "returns": Shape(2000, users=0.06, returns=True, ordered=True),
    "shown": Shape(2000, place=0.6, ordered=True),
    "pairs": Shape(2000, pairs=0.8),
    "leaked": Shape(2000, purchases=True),
    "days": Shape(2000, days=240, ends_sparse=True),
    "weeks": Shape(2000, days=21),
    "rows": Shape(2000, rows=True, ordered=True),
}
"""By the prefix of their figures."""


@dataclass(frozen=True)
class DrawnLog:
    """A drawn log: what is written of it, and what only the world knows."""

    shape: Shape
    exposures: pl.DataFrame
    """A row a candidate, in the order of time and place: `request`, `time`, `user_id`, `item_id`, `device`, `price`,
    `clicked`, `bought`; `truth`, the probability of a click, and `fair`, a click drawn as if at the first place."""
    users: pl.DataFrame
    items: pl.DataFrame
    histories: pl.DataFrame | None
    """By request, what its user clicked before, and when; None unless the log lists it."""

    def fair_labels(self, requests: Longs) -> NDArray[np.int8]:
        """Clicks drawn as if at the first place, of all candidates of some requests, in the order of the log."""
        return self.exposures.filter(pl.col("request").is_in(requests))["fair"].cast(pl.Int8).to_numpy()

    def write(self, folder: Path) -> None:
        """Write the files that a newcomer brings."""
        shown = self.exposures.drop(HIDDEN, *([] if self.shape.purchases else ["bought"]))
        if self.shape.rows:
            shown.rename({"request": "request_id"}).write_csv(folder / "exposures.csv")
            self.users.write_csv(folder / "users.csv")
            self.items.write_csv(folder / "items.csv")
            return
        along = [name for name in ("item_id", "price", "clicked", "bought") if name in shown.columns]
        lists = shown.group_by("request", maintain_order=True).agg(
            pl.col("time", "user_id", "device").first(), pl.col(along)
        )
        if self.histories is not None:
            lists = lists.join(self.histories, "request", how="left", maintain_order="left")
        log = lists.rename({"item_id": "shown"}).join(self.users, "user_id", maintain_order="left")
        log.drop("request").write_parquet(folder / "log.parquet")
        self.items.write_parquet(folder / "items.parquet")

    def load(self, folder: Path, out: Path, report: Report) -> None:
        """Import the files with the importer's defaults."""
        source, columns = self.source(folder)
        write_lists(source, out, columns, report)

    def source(self, folder: Path) -> tuple[Path, Lists]:
        """The log among the files of a folder, and what its columns are."""
        columns = Lists(
            candidates="shown", user="user_id", time="time", labels="clicked", items=folder / "items.parquet"
        )
        if self.shape.rows:
            tables = {name: folder / f"{name}.csv" for name in ("items", "users")}
            named = {"candidates": "item_id", "request": "request_id", **tables}
            return folder / "exposures.csv", columns.model_copy(update=named)
        history = (
            {} if self.histories is None else {"history": "clicked_before", "history_times": "clicked_at"}
        )
        return folder / "log.parquet", columns.model_copy(update=history)


def draw_log(name: str, drawing: int) -> DrawnLog:
    """Draw a log of a shape; another `drawing` is another shop."""
    shape = SHAPES[name]
    world = _World.draw(shape, np.random.default_rng([drawing, list(SHAPES).index(name)]))
    return world.play()


@dataclass(frozen=True)
class _World:
    """A shop with its users. Letters: U users · I items · D days."""

    shape: Shape
    rng: np.random.Generator
    users: dict[str, Longs]
    """Attribute → of each user: (U,)."""
    items: dict[str, NDArray[Any]]
    """Attribute → of each item: (I,)."""
    worth: Doubles
    """Of each item on each day, as a logit: (D, I)."""
    popularity: Doubles
    """By which production retrieves, likewise: (D, I)."""
    taste: Doubles
    """(U, CATEGORIES)"""
    pairs: dict[tuple[str, str], Doubles]
    """Attribute of the user and one of the item → the effect of each pair of values."""
    thrift: Doubles
    """What a price lower by the factor e is worth, by age band: (AGES,)."""

    @classmethod
    def draw(cls, shape: Shape, rng: np.random.Generator) -> "_World":
        count, days = max(30, int(shape.users * shape.requests)), shape.days
        category = rng.choice(CATEGORIES, ITEMS, p=_shares(CATEGORIES))
        # a brand makes things of few categories
        brand = (category * 7 + rng.choice(BRANDS, ITEMS, p=_shares(BRANDS))) % BRANDS
        drift = np.cumsum(rng.normal(0, 0.5 / np.sqrt(days), (days, ITEMS)), axis=0)
        quality = rng.normal(0, 0.5, ITEMS) + rng.normal(0, 0.3, BRANDS)[brand]
        users = {
            "country": rng.choice(COUNTRIES, count, p=_shares(COUNTRIES)),
            "age_band": rng.integers(AGES, size=count),
        }
        items = {
            "category": category,
            "brand": brand,
            "list_price": np.exp(3 + rng.normal(0, 0.6, CATEGORIES)[category] + rng.normal(0, 0.4, ITEMS)).round(2),
            "popularity": (quality + rng.normal(0, 0.7, ITEMS)).round(3),
        }  # fmt: skip
        sizes = {"country": COUNTRIES, "age_band": AGES, "category": CATEGORIES, "brand": BRANDS}
        paired = (("age_band", "category"), ("country", "brand"))
        return cls(
            shape, rng, users, items,
            quality + drift,
            0.8 * quality + drift + rng.normal(0, 0.7, ITEMS),
            rng.normal(0, 0.4, (count, CATEGORIES)),
            {(u, i): rng.normal(0, shape.pairs, (sizes[u], sizes[i])) for u, i in paired},
            np.abs(rng.normal(0.7, 0.4, AGES)),
        )  # fmt: skip

    def play(self) -> DrawnLog:
        """Let users come, see and click, one request after the other."""
        rng, shape = self.rng, self.shape
        visits = self._visits()
        past: dict[int, _Past] = defaultdict(_Past)
        parts: list[dict[str, Any]] = []
        histories = []
        for request, (minute, user) in enumerate(visits):
            day, mine = min(int(minute // 1440), shape.days - 1), past[user]
            shown = self._retrieve(day, mine)
            price = self.items["list_price"][shown] * (1 - rng.choice([0, 0, 0, 0.1, 0.2, 0.4], len(shown)))
            device = int(rng.integers(DEVICES))
            fair = self._worth(day, user, device, shown, price)
            if shape.returns:
                fair = fair + mine.effect(shown, minute)
                histories.append({"request": request, **mine.listed()})
            truth = fair - shape.place * np.log(1 + np.arange(len(shown)))
            clicked = rng.random(len(shown)) < _probability(truth)
            mine.note(shown, clicked, minute)
            time = START + timedelta(minutes=minute)
            parts.append(
                {
                    "request": request, "time": time, "user_id": user + 1000, "device": f"device {device}",
                    "item_id": shown + 1, "price": price.round(2), "clicked": clicked.astype(np.int8),
                    "truth": _probability(truth), "fair": (rng.random(len(shown)) < _probability(fair)).astype(np.int8),
                    "bought": (clicked & (rng.random(len(shown)) < 0.2)).astype(np.int8),
                }
            )  # fmt: skip
        every = ("item_id", "price", "clicked", "truth", "fair", "bought")
        frame = pl.DataFrame(
            [{k: v.tolist() if k in every else v for k, v in part.items()} for part in parts]
        )
        listed = pl.DataFrame(histories, infer_schema_length=None) if histories else None
        return DrawnLog(shape, frame.explode(every), self._user_table(), self._item_table(), listed)

    def _visits(self) -> list[tuple[float, int]]:
        """When requests come, minutes from the start, each at a second of its own, and of whom."""
        rng, shape = self.rng, self.shape
        count, length = len(self.taste), shape.days * 1440
        weight = rng.gamma(1.0, size=count)
        if shape.returns:
            # sessions of some requests, minutes apart
            sessions = rng.uniform(0, length - 120, shape.requests // 3)
            of = rng.choice(count, len(sessions), p=weight / weight.sum())
            at = rng.integers(len(sessions), size=shape.requests)
            minutes, users = sessions[at] + rng.exponential(12, shape.requests).clip(max=110), of[at]
        else:
            minutes = rng.uniform(0, length, shape.requests)
            users = rng.choice(count, shape.requests, p=weight / weight.sum())
        if shape.ends_sparse:
            minutes[3:] *= (shape.days - 2) / shape.days
            minutes[:3] = length - np.array([2500, 1000, 500])
        seconds = np.sort((minutes * 60).astype(np.int64))
        order = np.argsort(minutes, kind="stable")
        apart = np.maximum.accumulate(seconds - np.arange(len(seconds))) + np.arange(len(seconds))
        return list(zip((apart / 60).tolist(), users[order].tolist(), strict=True))

    def _retrieve(self, day: int, past: "_Past") -> Longs:
        rng = self.rng
        size = int(rng.integers(FEWEST, MOST + 1))
        score = self.popularity[day] + rng.gumbel(size=ITEMS)
        if self.shape.returns and past.seen:
            seen = np.array(list(past.seen))
            again = rng.choice(seen, min(len(seen), int(RETURNING * size)), replace=False)
            score[again] = self.popularity[day, again] + rng.gumbel(size=len(again)) + 8
        shown = np.argsort(-score)[:size]
        if not self.shape.ordered:
            return rng.permutation(shown)
        placed = self.popularity[day, shown] + rng.normal(0, 0.7, size)
        return shown[np.argsort(-placed)]

    def _worth(self, day: int, user: int, device: int, shown: Longs, price: Doubles) -> Doubles:
        category, thrift = self.items["category"][shown], self.thrift[self.users["age_band"][user]]
        value = (
            -2.6
            + 2.0 * self.shape.place
            + self.worth[day, shown]
            + self.taste[user, category]
            + self.rng.normal(0, 0.4)
        )
        value += thrift * np.log(np.median(price) / price) + 0.3 * (device == 0) * (category % 3 == 0)
        for (of_user, of_item), effect in self.pairs.items():
            value += effect[self.users[of_user][user], self.items[of_item][shown]]
        return np.asarray(value)

    def _user_table(self) -> pl.DataFrame:
        named = {name: [f"{name} {value}" for value in values] for name, values in self.users.items()}
        return pl.DataFrame({"user_id": np.arange(len(self.taste)) + 1000, **named})

    def _item_table(self) -> pl.DataFrame:
        named = {name: [f"{name} {v}" for v in self.items[name]] for name in ("category", "brand")}
        return pl.DataFrame({"item_id": np.arange(ITEMS) + 1, **self.items, **named})


class _Past:
    """What a user saw and clicked."""

    def __init__(self) -> None:
        self.seen: dict[int, tuple[int, float]] = {}
        """Item → how often it was seen without a click since the last one, and when last."""
        self.clicks: dict[int, float] = {}
        """Item → when it was clicked last."""
        self.log: list[tuple[int, float]] = []

    def effect(self, shown: Longs, minute: float) -> Doubles:
        """Tired of what was just seen, drawn to what was clicked, though not at once: logits (C,)."""
        value = np.zeros(len(shown))
        for n, item in enumerate(shown.tolist()):
            if item in self.seen:
                often, last = self.seen[item]
                value[n] -= 0.2 * np.log1p(often) + 0.6 * np.exp(-(minute - last) / 180)
            if item in self.clicks:
                hours = (minute - self.clicks[item]) / 60
                value[n] += 0.6 + 1.6 * np.exp(-hours / 36) - 2.5 * np.exp(-hours / 0.5)
        return value

    def note(self, shown: Longs, clicked: NDArray[np.bool_], minute: float) -> None:
        for item, click in zip(shown.tolist(), clicked.tolist(), strict=True):
            often = self.seen.get(item, (0, 0.0))[0]
            self.seen[item] = (0 if click else often + 1, minute)
            if click:
                self.clicks[item] = minute
                self.log.append((item, minute))

    def listed(self) -> dict[str, list[Any]]:
        last = self.log[-REMEMBERED:]
        return {
            "clicked_before": [item + 1 for item, _ in last],
            "clicked_at": [START + timedelta(minutes=minute) for _, minute in last],
        }


def _shares(count: int) -> Doubles:
    weight = 1 / np.arange(1, count + 1) ** 0.7
    return np.asarray(weight / weight.sum())


def _probability(logit: Doubles) -> Doubles:
    return np.asarray(1 / (1 + np.exp(-logit)))

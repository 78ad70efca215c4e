"""Plays the users of a simulated world: sends their requests to a service, and sees and clicks what it answers.

    python play.py WORLD http://localhost:8000 2026-03-03

The requests are those of the world's log from a day on, with the candidates that production had. What was shown and
clicked, by the world's true probabilities, is written to WORLD/events/. Users act outside of the funnel, too: that is
in WORLD/organic/ already, by `corank simulate --organic`.
"""

import json
import random
import sys
import urllib.request
from collections import defaultdict
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import polars as pl

CONTEXT = ("tab", "hour", "device")


def rank(service: str, request: dict[str, Any]) -> dict[str, Any]:
    """Let a service rank a request."""
    post = urllib.request.Request(
        f"{service}/rank", json.dumps(request).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(post) as answer:
        return dict(json.load(answer))


def main() -> None:
    world, service, first = Path(sys.argv[1]), sys.argv[2], date.fromisoformat(sys.argv[3])
    log, truth = (pl.read_parquet(world / name / "*.parquet") for name in ("log", "truth"))
    users = {row["user_id"]: row for row in pl.read_parquet(world / "users.parquet").to_dicts()}
    log = log.join(truth, on=["request_id", "item_id"]).sort("time")
    day = pl.col("time").dt.date()
    past: dict[int, list[int]] = defaultdict(list)  # what users clicked before the day
    for user, item in log.filter(day < first, is_click=1).select("user_id", "item_id").iter_rows():
        past[user].append(item)
    draw, views, clicks = random.Random(0), list[dict[str, Any]](), list[dict[str, Any]]()
    for _, today in log.filter(day >= first).group_by(day, maintain_order=True):
        clicked: list[tuple[int, int]] = []
        for _, rows in today.group_by("request_id", maintain_order=True):
            head = rows.row(0, named=True)
            user = {name: value for name, value in users[head["user_id"]].items() if name != "user_id"}
            answer = rank(
                service,
                {
                    "user": {"id": head["user_id"], "history": past[head["user_id"]][-50:]} | user,
                    "context": {name: head[name] for name in CONTEXT},
                    "time": round(head["time"].timestamp() * 1000),
                    "candidates": rows.select(id="item_id", category_clicks="category_clicks").to_dicts(),
                },
            )
            chance = dict(rows.select("item_id", "click").iter_rows())
            for place, item in enumerate(answer["items"], 1):
                event = {"request_id": answer["served_id"], "item_id": item["id"]}
                views.append(event | {"time": head["time"] + timedelta(seconds=place)})
                # the further below, the fewer look
                if draw.random() < place**-0.4 * chance[item["id"]]:
                    clicks.append(event | {"time": head["time"] + timedelta(minutes=1)})
                    clicked.append((head["user_id"], item["id"]))
        for user_id, item_id in clicked:
            past[user_id].append(item_id)
    folder = world / "events"
    folder.mkdir(exist_ok=True)
    for kind, events in (("view", views), ("click", clicks)):
        pl.DataFrame(events).with_columns(kind=pl.lit(kind)).write_parquet(folder / f"{kind}s.parquet")
    sys.stdout.write(f"{len(views):,} views, {len(clicks):,} clicks\n")


if __name__ == "__main__":
    main()

"""Plays the users of a simulated world: sends its requests to a service, looks at the answers and clicks.

    python play.py WORLD RUN http://localhost:8000

Its requests are those of the days on which RUN validates and tests. What was shown and clicked, by the world's true
probabilities, is written to WORLD/events/. Users act outside of the funnel, too: `corank simulate --organic` has
written that to WORLD/organic/.
"""

import json
import random
import sys
import urllib.request
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path

import polars as pl

import corank
from corank.core.errors import DataError


def read_truth(world: Path) -> dict[tuple[int, datetime, int], float]:
    """The click probability of an item for a user at a time."""
    keys = ["request_id", "item_id"]
    log, truth = (pl.read_parquet(world / name / "*.parquet") for name in ("log", "truth"))
    rows = log.select("user_id", pl.col("time").dt.truncate("1ms"), *keys).join(truth, on=keys)
    return {
        (user, time, item): p
        for user, time, item, p in rows.select("user_id", "time", "item_id", "click").rows()
    }


def main() -> None:
    world, run, service = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    truth, draw = read_truth(world), random.Random(0)
    views, clicks = [], []
    for split in ("valid", "test"):
        for number in count():
            try:
                logged = corank.request(run, number, split)
            except DataError:  # there are no more
                break
            body = json.dumps(logged | {"trace": False}).encode()
            post = urllib.request.Request(f"{service}/rank", body, {"Content-Type": "application/json"})
            answer = json.load(urllib.request.urlopen(post))
            time = datetime.fromtimestamp(logged["time"] / 1000, UTC)
            for place, item in enumerate(answer["items"], 1):
                event = {"request_id": answer["served_id"], "item_id": item["id"]}
                views.append(event | {"time": time + timedelta(seconds=place)})
                seen = place**-0.4  # as in the world: the further below, the fewer look
                if draw.random() < seen * truth[logged["user"]["id"], time, item["id"]]:
                    clicks.append(event | {"time": time + timedelta(minutes=1)})
    folder = world / "events"
    folder.mkdir(exist_ok=True)
    for kind, events in (("view", views), ("click", clicks)):
        pl.DataFrame(events).with_columns(kind=pl.lit(kind)).write_parquet(folder / f"{kind}s.parquet")
    sys.stdout.write(f"{len(views):,} views, {len(clicks):,} clicks\n")


if __name__ == "__main__":
    main()

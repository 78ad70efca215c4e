"""Joins requests with their clicks by Quix Streams, and writes the log that `corank follow log` reads.

    pip install quixstreams
    python join_quix.py --broker HOST:9092 --minutes 5

Topics, all of JSON, with the request's id as the key of each message and its time as the timestamp, and as many
partitions each:

    requests    {"request_id": "r1", "user_id": 7, "time": 1772532000000, "candidates": [{"item_id": 3, "level": …}, …]}
    clicks      {"request_id": "r1", "item_id": 3, "time": 1772532042000}
    log         [{"request_id": "r1", "user_id": 7, "time": …, "item_id": 3, "level": …, "is_click": 1}, …]

A request and its clicks are a session, which ends when nothing of it has come for twice so many minutes of event time.
Then its rows are one message, so that a request is always whole. What comes later is dropped, and counted by Quix.
"""

import argparse
from datetime import timedelta
from typing import Any

from quixstreams import Application

Joined = dict[str, Any]
"""`request`, None before it came, and `clicks`, the items clicked so far."""


def begin(event: dict[str, Any]) -> Joined:
    """A session of its first event."""
    return add({"request": None, "clicks": []}, event)


def add(joined: Joined, event: dict[str, Any]) -> Joined:
    """A session with one more event."""
    if "candidates" in event:
        return {**joined, "request": event}
    return {**joined, "clicks": [*joined["clicks"], event["item_id"]]}


def merge(one: Joined, other: Joined) -> Joined:
    """Two sessions that turn out to be one."""
    return {"request": one["request"] or other["request"], "clicks": [*one["clicks"], *other["clicks"]]}


def to_rows(joined: Joined) -> list[dict[str, Any]]:
    """The rows of a request, one a candidate."""
    request = {name: value for name, value in joined["request"].items() if name != "candidates"}
    clicked = {*joined["clicks"]}
    return [
        request | candidate | {"is_click": int(candidate["item_id"] in clicked)}
        for candidate in joined["request"]["candidates"]
    ]


def main() -> None:
    """Join until the process ends."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--broker", default="localhost:9092")
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--state", default="state", help="folder of the state of open sessions")
    options = parser.parse_args()
    application = Application(
        broker_address=options.broker,
        consumer_group="join",
        auto_offset_reset="earliest",
        auto_create_topics=True,
        state_dir=options.state,
    )
    requests, clicks = (application.topic(name) for name in ("requests", "clicks"))
    events = application.dataframe(requests).concat(application.dataframe(clicks))
    sessions = events.session_window(timedelta(minutes=options.minutes)).reduce(add, begin, merger=merge)
    joined = sessions.final(closing_strategy="partition").apply(lambda window: window["value"])
    rows = joined.filter(lambda session: session["request"] is not None).apply(to_rows)
    rows.to_topic(application.topic("log"))
    application.run()


if __name__ == "__main__":
    main()

"""`kind: since`: which lists it is of, and whose events' times a request gives."""

from typing import Any

import pytest

from corank.core.errors import ConfigError
from corank.features.history_events import timed_histories
from tests.support.four_days import schema_of

ITEM = {"item": {"side": "item", "kind": "id"}}
LISTED: dict[str, Any] = {"side": "user", "kind": "ids", "of": "item", "column": "past"}
HISTORIES: dict[str, Any] = {
    "clicked": {"side": "user", "kind": "ids", "of": "item", "event": "click"},
    "past": LISTED,
    "dated": LISTED | {"times": "past_at"},
    "likes": {"side": "user", "kind": "ids"},
}


def test_a_request_gives_the_times_that_are_read() -> None:
    looks = {
        "a": {"kind": "since", "of": ["clicked", "item"]},
        "b": {"kind": "since", "of": ["dated", "item"]},
        "c": {"kind": "since", "of": ["past", "item"], "measure": "events"},
    }
    assert timed_histories(schema_of(ITEM | HISTORIES | looks), ()) == {"clicked", "dated"}
    counted = {name: feature | {"measure": "events"} for name, feature in looks.items()}
    assert timed_histories(schema_of(ITEM | HISTORIES | counted), ()) == frozenset()


@pytest.mark.parametrize(
    ("listed", "message"),
    [
        ("past", "features.seen: the times of the events of 'past' are not known; .* features.past.times"),
        (
            "likes",
            "features.seen.of: a since is of a history, .*; 'likes' is a list without events; use kind",
        ),
        ("item", "names one feature twice"),
    ],
)
def test_what_has_no_events_or_no_times_is_refused(listed: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        schema_of(ITEM | HISTORIES | {"seen": {"kind": "since", "of": [listed, "item"]}})

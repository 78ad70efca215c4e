"""Records written in the background: their order, failures, and records that are dropped."""

import threading

from corank.training.tracking.tracker import RecordWriter
from tests.support.waiting import PATIENCE, eventually


def test_records_keep_their_order_through_a_failure() -> None:
    said: list[str] = []
    written: list[int] = []
    failures = iter([True, False])

    def fail_once() -> None:
        if next(failures):
            raise OSError("down\nfor a while")
        written.append(1)

    writer = RecordWriter("tracker", said.append, pause_s=0)
    for record in (lambda: written.append(0), fail_once, lambda: written.append(2)):
        writer.put(record)
    eventually(lambda: len(written) == 3)  # a record put before the end is tried again
    assert writer.close(PATIENCE) == 0
    assert written == [0, 1, 2]
    assert said == ["tracker: cannot be written to: down for a while; going on, and trying again"]


def test_a_record_that_hangs_is_given_up() -> None:
    said: list[str] = []
    begun, release = threading.Event(), threading.Event()
    after: list[int] = []

    def hang() -> None:
        begun.set()
        release.wait()

    writer = RecordWriter("tracker", said.append)
    writer.put(hang)
    begun.wait()
    writer.put(lambda: after.append(1))
    assert writer.close(0.01) == 2
    assert said == ["tracker: 2 records were not written"]
    release.set()
    writer.close(PATIENCE)
    assert after == [], "what was given up is not written later"

import gc
import shutil
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest

from corank.funnel.funnel import Funnel
from corank.funnel.request import Request
from corank.training.export import export_bundle
from corank_serve.http.follower import SAMPLE_REQUESTS, Follower
from corank_serve.store.source import BundleSource
from tests.support.panics import panic
from tests.support.shared import derived
from tests.support.waiting import PATIENCE


@pytest.mark.slow
def test_a_version_has_ranked_what_came_last_before_it_goes_live(tmp_path: Path) -> None:
    case, path, reports = derived(), tmp_path / "bundle", list[str]()
    shutil.copytree(case.base / "bundle", path)
    follower = Follower(BundleSource(path), report=reports.append)
    first = follower.funnel
    asked = [Request.parse(case.request("test", n)) for n in range(3)]
    follower.recent.extend(asked)
    follower.refresh()
    assert follower.funnel is first and not reports
    export_bundle(path, case.config, case.packed, case.model, case.calibrators)
    follower.refresh()
    assert follower.funnel is not first and reports == [f"live: {follower.funnel.manifest.content}"]
    encoded = follower.funnel.reader._values._single.cache_info
    before = encoded()
    for request in asked:
        assert follower.funnel.rank(request)["items"] == first.rank(request)["items"]
    assert encoded().misses == before.misses and encoded().hits > before.hits


def test_warming_tells_nothing_of_how_long_a_stage_takes() -> None:
    follower = Follower(BundleSource(derived().base / "bundle"))
    assert follower.funnel.reader._values._single.cache_info().currsize, (
        f"{SAMPLE_REQUESTS} requests were made up and ranked"
    )
    assert not any(pace._seconds for pace in follower.funnel._latencies.values())


class PanickingSource(BundleSource):
    """A bundle at whose first check a library panics."""

    panicked = False

    def load_newer(self, held: Funnel | None) -> Funnel | None:
        if held is not None and not self.panicked:
            self.panicked = True
            panic()
        return super().load_newer(held)


def test_a_panic_in_a_check_of_the_source_is_reported_and_the_next_check_comes() -> None:
    reports: list[str] = []
    follower = Follower(PanickingSource(derived().base / "bundle"), report=reports.append)
    follower.start()
    try:
        follower.next_check().result(PATIENCE)
        follower.next_check().result(PATIENCE)
    finally:
        follower.stop()
    assert "PanicException" in reports[0] and reports[1:] == ["the source answers again"]


def test_who_is_told_to_stop_warms_no_longer() -> None:
    def asked() -> Iterator[Request]:
        yield Request.parse(derived().request("test", 0))
        pytest.fail("another was ranked")

    follower = Follower(BundleSource(derived().base / "bundle"))
    follower.start()
    follower.stop()
    follower._warm(follower.funnel, asked())


def test_the_version_before_is_freed_after_a_swap(tmp_path: Path) -> None:
    case, path = derived(), tmp_path / "bundle"
    shutil.copytree(case.base / "bundle", path)
    follower = Follower(BundleSource(path))
    gc.freeze()  # as a service does when it starts
    reference = weakref.ref(follower.funnel.request_encoder.items)
    export_bundle(path, case.config, case.packed, case.model, case.calibrators)
    follower.refresh()
    assert follower.trouble is None and reference() is None
    gc.unfreeze()

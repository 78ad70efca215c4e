from pathlib import Path

import pytest

from corank.bundle.bundle import Bundle
from corank.serving.funnel.request import Request
from corank.serving.http.follower import Follower
from corank.serving.store.base import open_store
from corank.serving.store.fetch import fetch_in_subprocess
from corank.serving.store.publish import publish_bundle
from corank.serving.store.source import StoreSource
from corank.training.export import export_bundle
from tests.support.exported_graphs import graphs_of
from tests.support.redis_server import redis_server
from tests.support.shared import derived

pytestmark = pytest.mark.slow


@pytest.mark.store
def test_a_version_is_fetched_from_a_server_that_wants_a_password(tmp_path: Path) -> None:
    bundle = derived().base / "bundle"
    with redis_server(tmp_path, "--requirepass", "secret") as server:
        url = server.url.replace("://", "://:secret@")
        version = publish_bundle(bundle, open_store(url))
        assert fetch_in_subprocess(url, tmp_path / "cache", version)
    cached = Bundle.open(tmp_path / "cache" / version)
    assert cached.manifest.model_version == Bundle.open(bundle).manifest.model_version


def test_what_cannot_be_fetched_is_left_to_who_tells_why(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    publish_bundle(derived().base / "bundle", open_store(f"lmdb:{tmp_path / 'store'}", create=True))
    assert not fetch_in_subprocess(f"lmdb:{tmp_path / 'store'}", tmp_path / "cache", "0" * 16 + "-1-00000000")
    assert not fetch_in_subprocess(f"lmdb:{tmp_path / 'nowhere'}", tmp_path / "cache", "any")
    assert capfd.readouterr() == ("", "")


def test_a_service_has_the_next_version_fetched_beside_it(tmp_path: Path) -> None:
    case = derived()
    url, cache, bundle = f"lmdb:{tmp_path / 'store'}", tmp_path / "cache", tmp_path / "bundle"
    store, asked = open_store(url, create=True), list[tuple[str, bool]]()

    def aside(version: str) -> bool:
        asked.append((version, fetch_in_subprocess(url, cache, version)))
        return asked[-1][1]

    versions = []
    for _ in range(2):
        with graphs_of(case.base / "bundle"):
            export_bundle(bundle, case.config, case.packed, case.model, case.calibrators)
        versions.append(publish_bundle(bundle, store))
        if len(versions) == 1:
            follower = Follower(StoreSource(store, cache, aside))
            assert not asked, "who serves nobody yet need not make way"
    follower.refresh()
    assert follower.funnel.manifest.content == versions[1] != versions[0]
    assert asked == [(versions[1], True)]
    request = Request.parse(case.request("test", 0))
    ours, theirs = case.funnel.rank(request), follower.funnel.rank(request)
    assert theirs["items"] == ours["items"]

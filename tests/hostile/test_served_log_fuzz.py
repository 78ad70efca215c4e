"""Random hostile requests are served and logged, and refresh and packing accept the files."""

import shutil
from pathlib import Path

import pytest

from corank.bundle.bundle import Bundle
from corank.core.time import now_ms
from tests.support.served_logs import add_labels, learn_from, serve_hostile
from tests.support.shared import derived


@pytest.mark.slow
def test_what_hostile_requests_leave_in_the_log_can_be_learnt_from(tmp_path: Path) -> None:
    case = derived()
    assert case.funnel  # exports the bundle
    served = serve_hostile(case, tmp_path / "served", 400, seed=1)
    assert served.refused > 50 and served.counts["written"] > 50 and served.counts["rejected"] > 0
    assert "dropped" not in served.counts
    assert sum(served.counts.values()) + served.refused == 400
    rows = add_labels(case, served.files, tmp_path / "labelled.parquet")
    shutil.copytree(case.base / "bundle", tmp_path / "bundle")
    packed = learn_from(case, tmp_path / "labelled.parquet", tmp_path / "bundle", tmp_path / "packed")
    assert 0 < packed <= rows
    # the same users and times come again and again
    key = [case.config.data.user, case.config.data.time]
    fewer = learn_from(case, tmp_path / "labelled.parquet", tmp_path / "bundle", tmp_path / "by_time", key)
    assert 0 < fewer < packed
    assert max(Bundle.open(tmp_path / "bundle").manifest.priors.values()) <= now_ms()

"""The CPU time of requests."""

from pathlib import Path

import pytest

import corank
from corank.analysis.cost import cpu_ms
from corank.analysis.logged_request import logged_request
from corank.core.errors import RequestError
from corank.serving.funnel.funnel import Funnel
from corank.serving.funnel.request import Request
from corank.training.run import Run


def test_a_time_for_every_quota(trained: Run, tmp_path: Path) -> None:
    corank.export(trained.folder, tmp_path / "bundle")
    funnel = Funnel.open(tmp_path / "bundle")
    requests = [Request.parse(logged_request(trained, "test", n)) for n in (0, 1)]
    found = cpu_ms(funnel, requests, "prerank", [6, 12, 30])
    assert found.shape == (3,) and (found > 0).all()
    with pytest.raises(RequestError, match="no stage 'pre'"):
        cpu_ms(funnel, requests, "pre", [6])

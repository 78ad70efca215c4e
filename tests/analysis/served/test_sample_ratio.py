"""The sample ratio test flags users who were not assigned as the share says, and no others."""

from pathlib import Path

import numpy as np
import pytest

import corank
from corank.core.errors import DataError
from corank_serve.rollout.sequential import MISMATCH, check_share
from tests.support.command_line import run_corank
from tests.support.served_worlds import ServedWorld


def test_a_share_that_is_kept_is_doubted_no_more_often_than_the_p_value_says() -> None:
    rng = np.random.default_rng(3)
    p = np.array([check_share(rng.random(5_000) < 0.05, 0.05)["p"] for _ in range(500)])
    assert (p <= 0.1).mean() <= 0.1 and (p <= 0.02).mean() <= 0.02
    assert p.max() <= 1


@pytest.mark.parametrize(("share", "users"), [(0.055, 100_000), (0.045, 100_000), (0.08, 5_000)])
def test_another_share_is_noticed(share: float, users: int) -> None:
    assigned = np.random.default_rng(4).random(users) < share
    assert check_share(assigned, 0.05)["mismatch"] and not check_share(assigned, share)["mismatch"]


def test_a_split_of_another_share_is_not_comparable(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ServedWorld(lift=2.0).write(tmp_path)
    logs = tmp_path / "a", tmp_path / "b"
    tables = [tmp_path / "exposures.parquet", tmp_path / "clicks.csv"]
    right = corank.compare_served(*logs, tables, effect=0.5, share=0.3)
    ratio = right["sample_ratio"]
    assert right["verdict"] == "better" and ratio["p"] > MISMATCH
    assert ratio["users"] == right["users"]["a"] + right["users"]["b"]
    assert ratio["observed"] == right["users"]["a"] / ratio["users"]
    page = tmp_path / "page.html"
    options = ["--share", 0.1, "--page", page, *(word for one in tables for word in ("--exposures", one))]
    code, out, err = run_corank(capsys, "compare-served", *logs, *options)
    assert code == 0, err
    for text in (" ".join(out.split()), page.read_text(encoding="utf-8")):
        assert "not comparable" in text and "users were not assigned as the share says" in text
    with pytest.raises(DataError, match="--share: expected a share above 0 and below 1; received 5"):
        corank.compare_served(*logs, share=5.0)

"""Ranks exchange, and end together: whoever does not arrive is named, and one rank reports."""

from pathlib import Path

import numpy as np
import pytest
from torch.distributed import HashStore  # type: ignore[attr-defined]

from corank.core.errors import DataError, OtherRankError
from corank.distributed import process_group
from corank.distributed.launch_environment import LaunchEnvironment
from corank.distributed.ranks import CollectiveLog
from corank.evaluation.predict import predict_split
from corank.training.run import Run
from tests.support import joined_ranks as parts
from tests.support.joined_ranks import JoinedRanks
from tests.support.shared import finished_run


@pytest.mark.slow
def test_ranks_exchange_and_end_together(tmp_path: Path) -> None:
    run = finished_run()
    (tmp_path / "predict").mkdir()
    (tmp_path / "predict" / "run").write_text(str(run.folder.resolve()))
    named = {
        "exchange": parts.exchange_all,
        "predict": parts.predict_split,
        "stop_last": parts.stop_last,
        "kill_last": parts.kill_last,
        "stop_first": parts.stop_first,
        "refuse_on_middle": parts.refuse_on_middle,
        "refuse_on_all": parts.refuse_on_all,
        "refuse_on_first": parts.refuse_on_first,
        "break_middle": parts.break_middle,
    }
    started = {name: JoinedRanks(3, part, tmp_path / name) for name, part in named.items()}
    results = {name: ranks.results() for name, ranks in started.items()}

    shared = {"rank": 0, "ö": 0.1}
    for rank, (kind, value) in enumerate(results["exchange"]):
        assert kind == "value"
        gathered = [] if rank else [0, 1, 2]
        assert value == [[1.5, None], shared, gathered, [0, 1, 2], 2 if rank else 0]

    late = "step 7, collective 'dense gradients': rank 2 did not arrive within 5 s"
    assert results["stop_last"][0][0] == "DistributedError"
    assert results["stop_last"][0][1].startswith(late)
    assert [kind for kind, _ in results["stop_last"][1:]] == ["OtherRankError", "killed"]
    assert started["stop_last"].processes[2].exitcode == -9, "the hanging rank is ended"

    kinds = [kind for kind, _ in results["kill_last"]]
    assert kinds == ["DistributedError", "OtherRankError", "killed"]
    assert "collective 'dense gradients': rank 2 ended" in results["kill_last"][0][1]

    assert [kind for kind, _ in results["stop_first"]] == ["killed", "DistributedError", "OtherRankError"]
    assert "collective 'packing': rank 0 did not arrive within 10 s" in results["stop_first"][1][1]

    other = "OtherRankError"
    assert results["refuse_on_middle"] == [
        (other, "rank 1: no such key"),
        ("ConfigError", "rank 1: no such key"),
        (other, "rank 1: no such key"),
    ]
    assert [kind for kind, _ in results["refuse_on_all"]] == ["ConfigError", other, other]
    assert results["refuse_on_first"] == [("DataError", "no data"), *[(other, "no data")] * 2]
    assert [kind for kind, _ in results["break_middle"]] == [other, "KeyError", other]

    again = {
        name: JoinedRanks(3, parts.do_nothing, tmp_path / f"{name}_again", 1, started[name])
        for name in ("refuse_on_middle", "kill_last")
    }
    # a mistake of the user is not repeated; after a death the group meets in the same store
    assert [kind for kind, _ in again["refuse_on_middle"].results()] == [other] * 3
    assert [kind for kind, _ in again["kill_last"].results()] == ["value"] * 3

    assert results["predict"] == [("value", rank == 0) for rank in range(3)]
    compare_predictions(run, tmp_path / "predict" / "found.npz")


def compare_predictions(run: Run, path: Path) -> None:
    """Compare what three ranks predicted with what one process does."""
    packed = run.packed()
    alone = predict_split(run.model(packed)[0], packed, "valid", requests=100)
    with np.load(path) as theirs:
        np.testing.assert_array_equal(theirs["start"], alone.requests.start)
        np.testing.assert_array_equal(theirs["weight"], alone.weight)
        np.testing.assert_array_equal(theirs["click"], alone.labels["click"])
        for stage, by_label in alone.logits.items():
            np.testing.assert_allclose(theirs[f"{stage}.click"], by_label["click"], atol=1e-6)


def test_a_rank_that_joins_after_another_has_failed_tells_why(monkeypatch: pytest.MonkeyPatch) -> None:
    store = HashStore()
    first, second = (CollectiveLog(store, "group", rank, 2, 5.0) for rank in range(2))
    first.announce()
    first.report(DataError("no data"))

    def break_off(*_: object, **__: object) -> None:
        raise RuntimeError("Connection closed by peer")

    monkeypatch.setattr("torch.distributed.init_process_group", break_off)
    launch = LaunchEnvironment(1, 2, 0, "127.0.0.1", 1)
    with pytest.raises(OtherRankError, match="no data"):
        process_group._init_group(launch, second, 5.0)

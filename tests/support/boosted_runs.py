"""Runs whose ranker is boosted trees."""

from corank.testing.worlds import trained_run
from corank.training.run import Run
from tests.support.shared import shared, small_world

PRERANK = "{name: prerank, model: towers, cuts: [retrieved], keep: 18, query: [16, 8], item: [16, 8]}"
RANK = "{name: rank, model: trees, cuts: [preranked], keep: 6, trees: 40, leaves: 8, min_rows: 5, lr: 0.1}"
LOSSES = (
    "losses=[{kind: click, stage: prerank}, "
    "{kind: unexposed, stage: prerank, from: [retrieved], per_request: 10}]"
)
GROWN = [f"stages=[{PRERANK}, {RANK}]", LOSSES, "train.epochs=1", "train.requests=64"]
"""Changes of a simulated world's config, so that trees rank."""


def grown_run() -> Run:
    """A finished run of `small_world`."""
    config = small_world() / "config.yaml"
    return Run.open(shared("grown", lambda folder: trained_run(config, folder / "run", *GROWN)) / "run")

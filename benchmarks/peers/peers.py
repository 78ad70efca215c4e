"""corank beside LightGBM, FuxiCTR and torch-rechub: AUC on KuaiRand-Pure, and candidates a second of training.

`peers DIR` imports the log in DIR and installs the other libraries, once, into an environment of their own under the
user's cache. All read the same rows in the same order, with the same codes, lists and scaled numbers: `priors.`, the
imported config's features, and `plain.`, those without the day-lagged rates. Each model has the same number of trials;
the best on validation is repeated with every seed. Intervals are over users and seeds, those of differences paired.
`corank_rank` and `corank_prerank` are one joint training, whose ranker boosted trees may teach; none teach that of
`corank_untaught_…`. `--parts speed` needs no DIR.
"""

import argparse
import tempfile
from pathlib import Path

import torch
from rich.console import Console

from benchmarks import harness
from benchmarks.peers import ours
from benchmarks.peers.environment import PeerProcess, environment
from benchmarks.peers.speed import BF16, FP32, speeds
from benchmarks.peers.trials import NETWORKS, Arena, compare
from corank.datasets.kuairand import import_kuairand
from corank.training.device import keep_freed_memory

PARTS = ("priors", "plain", "speed")
AIMS: dict[str, tuple[str, float]] = {
    "priors.corank_rank-lightgbm.auc": (">=", 0.001),
    "priors.corank_rank-corank_prerank.auc": ("<=", 0.002),
    "plain.corank_rank-corank_prerank.auc": ("<=", 0.002),
} | {f"{arena}.corank_rank-{name}.auc": (">=", 0.003) for arena in ("priors", "plain") for name in NETWORKS}

SPEED_AIMS: dict[harness.Figure, dict[str, tuple[str, float]]] = {
    BF16: {"corank.times_rechub_pair": (">=", 12.0), "corank.times_fuxictr_dnn": (">=", 3.2)},
    FP32: {"corank.times_rechub_pair": (">=", 5.5), "corank.times_fuxictr_dnn": (">=", 1.0)},
}
"""By the precision that `auto` is: an emulated bf16 is compared with nothing."""


def quality(
    source: Path, folder: Path, arenas: list[str], peers: PeerProcess, seeds: int
) -> dict[str, harness.Figure]:
    """Compare all models on the log of a folder, with and without priors."""
    say = Console(stderr=True).print
    data = folder / "data"
    if not (data / "config.yaml").is_file():
        import_kuairand(source, data, say)
    configs = {"priors": data / "config.yaml", "plain": ours.without_priors(data / "config.yaml")}
    figures: dict[str, harness.Figure] = {}
    for name in arenas:
        figures |= compare(Arena(name, configs[name], folder / name), peers, seeds, say)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, nargs="?", metavar="DIR", help="KuaiRand-Pure")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--keep", type=Path, help="folder where finished trainings are kept; a rerun goes on there"
    )
    parser.add_argument("--rounds", type=int, default=7, help="of speed")
    parser.add_argument("--steps", type=int, default=3, help="of a training in a round of speed")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    arenas = [part for part in arguments.parts if part != "speed"]
    if arenas and arguments.folder is None:
        parser.error("DIR is needed for all but --parts speed")
    keep_freed_memory()
    python = environment()
    figures: dict[str, harness.Figure] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = (arguments.keep or Path(temporary) / "kept").resolve()
        folder.mkdir(parents=True, exist_ok=True)
        log = folder / "peers.log"
        if arenas:
            with PeerProcess(python, log) as peers:
                figures |= quality(arguments.folder, folder, arenas, peers, arguments.seeds)
        if "speed" in arguments.parts:
            with PeerProcess(python, log, torch.get_num_threads()) as peers:
                figures |= speeds(Path(temporary), peers, arguments.rounds, arguments.steps)
    aims = AIMS | SPEED_AIMS.get(figures.get("precision", ""), {})
    harness.report(
        "peers", figures, {key: aim for key, aim in aims.items() if key in figures}, arguments.json
    )


if __name__ == "__main__":
    main()

"""Test-day AUC and per-user GAUC of both stages on KuaiRand-Pure; reference: gradient boosting on the same rows.

`quality DIR` imports the log in DIR, trains the imported config once a seed, and fits the references in the same run:
one on the same basic features, one with day-lagged priors in addition, which the config of corank does not have.
"""

import argparse
import tempfile
from pathlib import Path
from statistics import fmean, pstdev

from rich.console import Console

import corank
from benchmarks import harness
from benchmarks.quality.references import reference
from corank.datasets.kuairand import import_kuairand

STAGES = ("rank", "prerank")


def trained(config: Path, seed: int, runs: Path) -> dict[str, float]:
    """Figures of the test days of one training."""
    run = corank.train(config, [f"train.seed={seed}", "baseline=false"], folder=runs / str(seed)).run
    found = corank.evaluate(run.folder, bootstrap=False)
    return {
        f"{s}_{metric}": found.row(f"{s}.exposed.click.{metric}")["value"]
        for s in STAGES
        for metric in ("auc", "gauc")
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, metavar="DIR", help="KuaiRand-Pure in its official layout")
    parser.add_argument(
        "--config", type=Path, help="a config in place of the imported one, data paths as there"
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    say = Console(stderr=True).print
    with tempfile.TemporaryDirectory() as temporary:
        data = Path(temporary) / "data"
        import_kuairand(arguments.folder, data, say)
        if arguments.config:
            (data / "config.yaml").write_bytes(arguments.config.read_bytes())
        samples: dict[str, list[float]] = {}
        for seed in range(arguments.seeds):
            for name, value in trained(data / "config.yaml", seed, Path(temporary)).items():
                samples.setdefault(name, []).append(value)
            for name, priors in (("reference", False), ("prior_reference", True)):
                scores = reference(data, priors, seed)
                samples.setdefault(f"{name}_auc", []).append(scores.auc)
                samples.setdefault(f"{name}_gauc", []).append(scores.gauc)
            say(f"seed {seed}: " + "  ".join(f"{name} {values[-1]:.4f}" for name, values in samples.items()))
    figures = {name: fmean(values) for name, values in samples.items()}
    figures |= {f"{name}_std": pstdev(values) for name, values in samples.items()}
    for stage in STAGES:
        for metric in ("auc", "gauc"):
            gains = [
                a - b
                for a, b in zip(samples[f"{stage}_{metric}"], samples[f"reference_{metric}"], strict=True)
            ]
            figures[f"{stage}_{metric}_gain"] = fmean(gains)
    aims = {
        "rank_auc_gain": 0.015,
        "prerank_auc_gain": 0.012,
        "rank_gauc_gain": 0.008,
        "prerank_gauc_gain": 0.008,
    }
    harness.report("quality", figures, {name: (">=", value) for name, value in aims.items()}, arguments.json)


if __name__ == "__main__":
    main()

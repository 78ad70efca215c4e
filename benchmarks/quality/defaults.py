"""The recipe that corank writes, beside clicks alone, the earlier recipe and others, in simulated worlds and real logs.

`defaults [DIR…]` simulates each preset, in one or more drawings, and takes folders in KuaiRand-Pure's layout; each
trains at its config's own batches, epochs and rates with other losses. `WORLD.shipped` has the config as
`corank simulate` writes it; `clicks` the losses of labels alone; `earlier` the recipe of the first releases; the others
are those of `--arms FILE`, YAML of names → `losses`, beside the clicks, and `train`. Differences are paired by user and
seed. A log's `rank_auc` and `prerank_auc` are of its test.
"""

import argparse
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.console import Console

from benchmarks import harness
from benchmarks.quality.own_logs import is_video_log
from corank.analysis.study.arm_result import ArmResult
from corank.analysis.study.study import Budget, train_arm
from corank.analysis.study.trials import TrialStore
from corank.analysis.trials.arm import Arm
from corank.analysis.trials.comparisons import differences
from corank.analysis.trials.trial_progress import TrialProgress
from corank.core.errors import CorankError
from corank.core.types import Report
from corank.datasets.feed.presets import PRESETS
from corank.datasets.feed.simulate import simulate_world
from corank.datasets.kuairand import import_kuairand
from corank.training.config_file import from_plain
from corank.training.device import keep_freed_memory
from corank.training.plain_config.yaml_reader import read_yaml_file
from corank.training.preparation.packed_data import open_or_pack

Plain = dict[str, Any]
EARLIER: list[Plain] = [
    {"kind": "unexposed", "stage": "prerank", "from": ["retrieved"], "per_request": 10, "weight": 0.5},
    {
        "kind": "distill", "teacher": "rank", "student": "prerank", "form": "pointwise",
        "on": ["exposed", "ranked", "preranked"], "warm_up": 200,
    },
]  # fmt: skip
"""Beside the clicks, what `corank simulate` wrote first."""
LOG = "kuairand"
HARM = 0.005
"""Of the truth's recall that the shipped recipe may lose to clicks alone: an aim."""
FIGURES = {
    "joint_truth_recall": "joint_truth_recall",
    "truth_recall": "truth_recall",
    "joint_click_recall": "joint_click_recall",
    "click_recall": "click_recall",
    "prerank_auc": "first_auc",
    "rank_auc": "last_auc",
}
"""Figure of this benchmark → of a trial."""


def arms_of(value: Plain, further: Mapping[str, Plain], source: str, base: Path) -> list[Arm]:
    """Make the arms of a config: as it is, with clicks alone, with the earlier recipe, and with further ones.

    Args:
        value: the config, plain.
        further: name → `losses` beside the clicks, and keys of `train`.
        source: names the config in errors.
        base: relative paths of the config begin here.
    """
    clicks = [loss for loss in value["losses"] if loss["kind"] == "click"]
    named: dict[str, Plain] = {"clicks": {"losses": []}} | (
        {"earlier": {"losses": EARLIER}} if "level" in value["data"] else {}
    )
    arms = [Arm("shipped", from_plain(value, source, base))]
    for name, arm in (named | dict(further)).items():
        changed = {"losses": clicks + arm["losses"], "train": value["train"] | arm.get("train", {})}
        arms.append(Arm(name, from_plain(value | changed, f"{source}: {name}", base)))
    return arms


def measure_config(
    name: str, base: Path, further: Mapping[str, Plain], trials: Path, seeds: int, report: Report
) -> dict[str, harness.Figure]:
    """Train the arms of a folder's config, and return their figures and the differences of `shipped`."""
    value = read_yaml_file(base / "config.yaml")
    arms = arms_of(value, further, name, base)
    packed = open_or_pack(arms[0].config, base, report)
    store = TrialStore(trials, packed, base)
    progress = TrialProgress(len(arms) * seeds, lambda line: report(f"{name}: {line}"))
    results = {arm.name: train_arm(arm, store, Budget(seeds, (1.0,)), False, progress) for arm in arms}
    figures: dict[str, harness.Figure] = {}
    for arm, result in results.items():
        for figure, of in FIGURES.items():
            if result.held and of in result.held[0]:
                figures[f"{name}.{arm}.{figure}"] = fmean(held[of].value for held in result.held)
        figures[f"{name}.{arm}.seconds"] = fmean(trial.seconds for trial in result.seeds)
    for arm in [arm for arm in results if arm != "shipped"]:
        figures |= _difference(f"{name}.shipped-{arm}", results["shipped"], results[arm])
    return figures


def _difference(key: str, one: ArmResult, other: ArmResult) -> dict[str, harness.Figure]:
    found: dict[str, harness.Figure] = {}
    intervals = differences(list(zip(one.held, other.held, strict=True))) if one.held and other.held else {}
    for figure, of in FIGURES.items():
        if of in intervals:
            value, low, high = intervals[of]
            ends = {"low": low, "high": high}
            found[f"{key}.{figure}"] = value
            found |= {f"{key}.{figure}.{end}": at for end, at in ends.items() if at is not None}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", type=Path, nargs="*", metavar="DIR", help="KuaiRand-Pure")
    parser.add_argument("--worlds", nargs="*", default=list(PRESETS), metavar="PRESET")
    parser.add_argument("--drawings", type=int, nargs="+", default=[0], metavar="SEED", help="of each world")
    parser.add_argument("--requests", type=int, default=10_000, help="of a simulated world")
    parser.add_argument("--candidates", type=int, default=200, help="of a request of a simulated world")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--arms", type=Path, metavar="FILE", help="further recipes, YAML")
    parser.add_argument(
        "--keep", type=Path, help="folder of worlds and finished trainings; a rerun continues there"
    )
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    keep_freed_memory()
    say = Console(stderr=True, soft_wrap=True, highlight=False, markup=False).print
    further = {} if arguments.arms is None else read_yaml_file(arguments.arms)
    figures: dict[str, harness.Figure] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.keep or Path(temporary)
        try:
            for name, base in open_bases(arguments, folder, say).items():
                arms = {} if name == LOG else further
                figures |= measure_config(name, base, arms, folder / "trials", arguments.seeds, say)
        except CorankError as error:
            sys.exit(f"scripts/bench defaults: {error}")
    harmless = [key for key in figures if key.endswith(".shipped-clicks.joint_truth_recall.low")]
    harness.report("defaults", figures, dict.fromkeys(harmless, (">=", -HARM)), arguments.json)


def open_bases(arguments: argparse.Namespace, folder: Path, report: Report) -> dict[str, Path]:
    """Simulate the worlds and import the logs that a folder does not have yet. Returns the folder of each by name."""
    bases = {}
    size = {"requests": arguments.requests, "candidates": arguments.candidates}
    for preset in arguments.worlds:
        for drawing in arguments.drawings:
            name = preset if len(arguments.drawings) == 1 else f"{preset}{drawing}"
            bases[name] = folder / f"{preset}-{size['requests']}x{size['candidates']}-{drawing}"
            if not (bases[name] / "config.yaml").exists():
                simulate_world(bases[name], preset, seed=drawing, **size)
    for source in filter(is_video_log, arguments.folders):
        bases[LOG] = folder / LOG
        if not (bases[LOG] / "config.yaml").exists():
            import_kuairand(source, bases[LOG], report)
    return bases


if __name__ == "__main__":
    main()

"""Which form have the biases of towers? Each side's multiplied by the scale of the product, or added as it is.

  none      no biases
  both      both multiplied: exp(s) · (⟨q', v'⟩ + b_i + b_q) + b
  query     the query's added as it is, the item's multiplied: corank's form
  item      the item's added as it is, the query's multiplied
  neither   both added as they are

"As it is" is within the vectors: √d · b, as the scale begins at 1/√d. All figures are of validation, so that the choice
has seen no test day: in worlds of preset `medium`, with the losses of the simulated config, AUC of the truth of all
candidates and truth recall; on KuaiRand-Pure, if DIR is given, AUC of clicks. Differences from `query` are paired over
seeds.
"""

import argparse
import math
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from unittest.mock import patch

import torch
from torch import Tensor

from benchmarks import harness
from benchmarks.quality.arena import Arena, Figures, kept, spread, world
from benchmarks.quality.prerank_structures import SIDES, imported
from benchmarks.quality.selection_bias_arms import KEEP, TOP
from corank.evaluation.predict import predict_split
from corank.evaluation.predictions import read_truth
from corank.metrics.cascade import recall
from corank.metrics.point import auc, truth_auc
from corank.models.two_tower import Towers
from corank.training.config.config_file import plain
from corank.training.device import keep_freed_memory

FORMS = {"none": None, "both": (False, False), "query": (True, False), "item": (False, True)} | {
    "neither": (True, True)
}
"""Whether the query's and the item's bias is added as it is; None: there are none."""


@contextmanager
def form(as_it_is: tuple[bool, bool] | None) -> Iterator[None]:
    """Let towers have biases of a form."""

    def vectors(towers: Towers, query: Tensor) -> Tensor:
        queries: Tensor = towers.query(query)
        if as_it_is is None:
            return queries
        product, bias = queries[:, :-1], queries[:, -1:]
        of_query, of_item = (math.sqrt(queries.shape[1] + 1) if alone else 1.0 for alone in as_it_is)
        return torch.cat((product, torch.full_like(bias, of_item), of_query * bias), dim=1)

    with patch.object(Towers, "query_vectors", vectors):
        yield


def simulated(folder: Path, seed: int, requests: int) -> dict[str, Figures]:
    """The figures of every form in a simulated world, with the losses of its config."""
    arena = world(folder, "medium", seed, requests, 200)
    config, figures = plain(arena.config), {}
    for name, as_it_is in FORMS.items():
        first = config["stages"][0] | SIDES | {"keep": KEEP, "bias": as_it_is is not None}
        with form(as_it_is):
            stages = [first, *config["stages"][1:]]
            train = config["train"] | {"seed": seed}
            model = arena.trained(name, stages, config["losses"], train)
            rows = predict_split(model, arena.packed, "valid")
        z, requests_of = rows.logits["prerank"]["click"], rows.requests
        truth = read_truth(arena.packed, "valid")["click"]
        best = recall(requests_of, requests_of.ranks(truth), requests_of.ranks(z), TOP, KEEP)
        area = truth_auc(requests_of.user_of(), z, truth)
        figures[name] = {"candidates_auc": float(area.value() or 0), "truth_recall": float(best.value() or 0)}
    return figures


def kuairand(arena: Arena, seed: int) -> dict[str, Figures]:
    """AUC of clicks on the validation day of every form, which learns clicks alone."""
    figures = {}
    train = plain(arena.config)["train"] | {"seed": seed}
    for name, as_it_is in FORMS.items():
        part = {"name": "prerank", "keep": KEEP, "model": "towers", "normalisation": "layer"} | SIDES
        with form(as_it_is):
            stages = [part | {"bias": as_it_is is not None}]
            model = arena.trained(name, stages, [{"kind": "click", "stage": "prerank"}], train)
            rows = predict_split(model, arena.packed, "valid")
        user, z, label = rows.requests.user_of(), rows.logits["prerank"]["click"], rows.labels["click"]
        figures[name] = {"clicks_auc": float(auc(user, z, label).value() or 0)}
    return figures


def summary(found: dict[str, list[dict[str, Figures]]]) -> dict[str, harness.Figure]:
    """Means with intervals, and differences from `query` paired over seeds."""
    figures: dict[str, harness.Figure] = {}
    for place, seeds in found.items():
        for name in FORMS:
            for metric in seeds[0][name]:
                values = [seed[name][metric] for seed in seeds]
                figures |= spread(f"{place}.{name}.{metric}", values)
                if name != "query":
                    paired = [seed[name][metric] - seed["query"][metric] for seed in seeds]
                    figures |= spread(f"{place}.{name}-query.{metric}", paired)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "folder", nargs="?", type=Path, metavar="DIR", help="KuaiRand-Pure, to be a world, too"
    )
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=5_000, help="of a simulated world")
    parser.add_argument(
        "--keep", type=Path, help="folder where finished worlds are kept; a rerun goes on there"
    )
    arguments = parser.parse_args()
    keep_freed_memory()
    by_world: dict[str, list[dict[str, Figures]]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        results = arguments.keep or folder / "results"
        arena = imported(arguments.folder, folder / "kuairand") if arguments.folder else None
        for seed in range(arguments.seeds):
            makes = {"simulated": partial(simulated, folder / "world", seed, arguments.requests)}
            if arena:
                makes["kuairand"] = partial(kuairand, arena, seed)
            for name, make in makes.items():
                path = results / f"bias-{name}-{seed}-{arguments.requests}.json"
                by_world.setdefault(name, []).append(kept(path, make))
                print(f"{name}, seed {seed}: done", file=sys.stderr, flush=True)
    harness.report("bias_forms", summary(by_world), {}, arguments.json)


if __name__ == "__main__":
    main()

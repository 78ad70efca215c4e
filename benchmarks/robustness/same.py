"""Old and new code compared: the same seed must give the same losses, weights, figures and responses.

An earlier commit and the working tree pack, train, evaluate, export and rank each case, on copies of the same tables.
Compared bit by bit are the losses of every step, every weight, the document of `corank evaluate --json` and the
response of the bundle. Then the new code opens the earlier commit's bundle and store: it must give the same response or
refuse them with a remedy.
"""

import argparse
import json
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from benchmarks import harness
from benchmarks.checkout import Checkout, base_checkout

NARROW = ("train.requests=64", "train.epochs=2", "train.average=0.9")
KUAIRAND = ("train.requests=256",)
EXAMPLES = ("features", "three_stages")


@dataclass(frozen=True)
class Result:
    losses: dict[str, np.ndarray[Any, Any]]
    weights: dict[str, np.ndarray[Any, Any]]
    document: dict[str, Any]
    answer: dict[str, Any]


def answer(code: Checkout, bundle: Path, request: Path) -> dict[str, Any]:
    """The answer of a bundle; a candidate's rank by a stage, which was called `place`, under the name of today.

    The id of its items is left out: every export draws another.
    """
    document: dict[str, Any] = json.loads(code.output("rank", bundle, request, "--json"))
    document.pop("items_id", None)
    for candidate in document.get("trace", []):
        for stage in candidate["stages"].values():
            stage["rank"] = stage.pop("place", stage.get("rank"))
    return document


def result(code: Checkout, folder: Path, example: str | None, narrow: Sequence[str]) -> Result:
    """Pack, train, evaluate, export and ask, in a folder that holds the tables.

    The config is the tables' own, or of the checkout's `examples/`: keys may have other names there.
    """
    config = folder / "config.yaml"
    if example is not None:
        shutil.copy(code.root / "examples" / f"{example}.yaml", config)
    run, bundle, request = config.parent / "run", config.parent / "bundle", config.parent / "request.json"
    settings = [part for override in narrow for part in ("--set", override)]
    code.output("pack", config, *settings)
    code.output("train", config, "--run", run, *settings)
    document = json.loads(code.output("evaluate", run, "--json"))
    document.pop("run", None)  # the folder's name, which differs
    for row in document.get("rows", []):
        row.pop("run")
    code.output("export", run, bundle)
    request.write_text(code.output("request", run), encoding="utf-8")
    # commits before artifacts write one file in the place of a folder
    (weights,) = [*run.glob("model.safetensors"), *run.glob("model/*/*.safetensors")]
    return Result(losses(run), load_file(weights), document, answer(code, bundle, request))


def losses(run: Path) -> dict[str, np.ndarray[Any, Any]]:
    """The curves of a run: name → step and value, (points, 2); NaN where a figure has no value."""
    board = EventAccumulator(str(run / "events"), size_guidance={"scalars": 0})
    board.Reload()
    return {
        name: np.array([(event.step, event.value) for event in board.Scalars(name)])
        for name in board.Tags()["scalars"]
        if name != "candidates_per_second"
    }


def differing(old: dict[str, Any], new: dict[str, Any]) -> int:
    """Keys of either whose values are not the same to the last bit."""
    return sum(
        key not in old or key not in new or not np.array_equal(old[key], new[key], equal_nan=True)
        if isinstance(old.get(key), np.ndarray)
        else old.get(key) != new.get(key)
        for key in old.keys() | new.keys()
    )


def opened(base: Checkout, new: Checkout, folder: Path) -> dict[str, harness.Figure]:
    """What the new code makes of the old code's bundle and store: `same`, `refused` with a remedy, or `wrong`."""
    bundle, request, store = folder / "bundle", folder / "request.json", f"lmdb:{folder / 'store'}"
    base.output("publish", bundle, store)
    asks = {"bundle": ("rank", bundle, request, "--json"), "store": ("store", "ls", store, "--json")}
    figures: dict[str, harness.Figure] = {}
    for name, words in asks.items():
        done = new.run(*words)
        if done.returncode:
            figures[name] = "refused" if done.returncode == 1 and " again" in done.stderr else "wrong"
        elif name == "bundle":
            figures[name] = (
                "same" if answer(new, bundle, request) == answer(base, bundle, request) else "wrong"
            )
        else:
            figures[name] = "same" if json.loads(done.stdout) == json.loads(base.output(*words)) else "wrong"
    return figures


def compare(
    base: Checkout, new: Checkout, tables: Path, example: str | None, narrow: Sequence[str]
) -> dict[str, Any]:
    """One case's figures: how many losses, weights, figures and answers differ."""
    folders = [tables.with_name(f"{tables.name}-{side}") for side in ("old", "new")]
    for folder in folders:
        shutil.copytree(tables, folder)
    old, now = (
        result(code, folder, example, narrow) for code, folder in zip((base, new), folders, strict=True)
    )
    if not old.losses:
        raise RuntimeError(f"{tables}: the run has no losses to compare")
    figures = {
        "losses": differing(old.losses, now.losses),
        "weights": differing(old.weights, now.weights),
        "evaluate": differing(old.document, now.document),
        "answer": differing(old.answer, now.answer),
    }
    return figures | opened(base, new, folders[0])


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/bench same", description=__doc__)
    parser.add_argument("base", nargs="?", default="HEAD", help="the earlier commit")
    parser.add_argument("--kuairand", type=Path, metavar="DIR", help="KuaiRand-Pure, to be a case, too")
    parser.add_argument("--only", action="append", metavar="CASE", help="some cases: simulated, features, …")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        base_checkout(Path(folder), arguments.base) as (base, new),
    ):
        figures = measure(base, new, Path(folder), arguments.kuairand, arguments.only)
    harness.report("same", figures, {"same": ("==", 1)}, arguments.json)


def measure(
    base: Checkout, new: Checkout, folder: Path, kuairand: Path | None, only: Sequence[str] | None
) -> dict[str, harness.Figure]:
    """The figures of all cases; `same` is 1 if nothing differs in any."""
    figures: dict[str, harness.Figure] = {}
    for case in ("simulated", *EXAMPLES, *(["kuairand"] if kuairand else [])):
        if only and case not in only:
            continue
        tables = folder / case
        if case == "kuairand":
            base.output("import", "kuairand", kuairand, tables)
        else:
            base.output(
                *("simulate", tables, "--requests", 1500, "--candidates", 40, "--users", 200, "--items", 800)
            )
        narrow = KUAIRAND if case == "kuairand" else NARROW
        comparison = compare(base, new, tables, case if case in EXAMPLES else None, narrow)
        figures |= {f"{case}.{name}": value for name, value in comparison.items()}
    same = all(value in (0, "same", "refused") for value in figures.values())
    return {"same": int(same and bool(figures)), **figures}


if __name__ == "__main__":
    main()

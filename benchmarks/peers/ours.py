"""corank's trials: the imported config with and without trees that teach, trained jointly."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

import corank
from corank.core.files import atomic_file, write_text
from corank.data.packed.dataset import PackedDataset
from corank.data.packing.pack import pack_log
from corank.evaluation.predict import predict_split
from corank.training.config.config_file import plain, read
from corank.training.run import Run

Scores = dict[str, NDArray[Any]]
STAGES = ("rank", "prerank")
LESSON = {"kind": "distill", "teacher": "trees", "student": "rank", "on": ["exposed"]}


def without_priors(imported: Path) -> Path:
    """Write the imported config without its priors next to it. Returns its path."""
    config = read(imported)
    path = imported.with_name("plain.yaml")
    fewer = plain(read(imported, without=[*config.declared.priors()]))
    write_text(path, yaml.safe_dump(fewer | {"name": "plain"}, sort_keys=False))
    return path


def pack(config: Path) -> PackedDataset:
    """Pack the log of a config where its trainings look for it."""
    read_config = read(config)
    base = config.parent
    return pack_log(read_config.data, read_config.declared, base, base / "packed" / read_config.name)


def fit(config: Path, settings: dict[str, Any], seed: int, out: Path) -> None:
    """Train once, and write the scores of both stages, STAGE.SPLIT, to `out`.

    Args:
        config: the imported one.
        settings: `taught`, whether trees teach the ranker; `table`, the learning rate of tables; `lr`, that of layers;
            `dropout`, the ranker's.
    """
    parsed = plain(read(config))
    if settings["taught"]:
        parsed["tree_teachers"] = [{"name": "trees"}]
        parsed["losses"].append(LESSON)
    for stage in parsed["stages"]:
        if stage["name"] == "rank":
            stage["dropout"] = settings["dropout"]
    parsed["train"] |= {stage: {"lr": settings["lr"]} for stage in STAGES}
    parsed["train"] |= {"seed": seed, "table": {"lr": settings["table"]}}
    with tempfile.TemporaryDirectory() as folder:
        path = config.with_name(f"{parsed['name']}-trial.yaml")
        write_text(path, yaml.safe_dump(parsed, sort_keys=False))
        run = corank.train(path, folder=Path(folder) / "run").run
        with atomic_file(out) as unfinished, unfinished.open("wb") as file:
            np.savez(file, **score(run))  # type: ignore[arg-type]


def score(run: Run) -> Scores:
    """Logits of clicks of both stages in validation and test, in the order of the pack."""
    packed = run.packed()
    model, _ = run.model(packed)
    label = next(iter(packed.data.labels))
    predictions = {split: predict_split(model, packed, split) for split in ("valid", "test")}
    return {
        f"{stage}.{split}": rows.logits[stage][label]
        for stage in STAGES
        for split, rows in predictions.items()
    }

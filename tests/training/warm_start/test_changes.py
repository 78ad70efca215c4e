"""Weights carried into a changed model, compared one by one: more rows, features added and removed, other layers."""

from pathlib import Path

import pytest
import torch

import corank
from corank.core.errors import DataError
from corank.features.encoding import FIRST_KNOWN, PLACEMENTS, UNKNOWN
from corank.testing.worlds import trained_run
from corank.training.checkpoints.checkpoint_files import load
from corank.training.run import Run
from corank.training.run_file import CarriedPart, Origin
from corank.training.trainer import Trainer
from tests.support.shared import shared
from tests.support.two_days import begin_from, of_days

pytestmark = pytest.mark.slow

AVERAGED = "train.average=0.9"


def first_day(name: str, *overrides: str) -> Run:
    config, first, _ = of_days()

    def train(folder: Path) -> None:
        # other tests read the first day's packed data meanwhile
        trained_run(config, folder / "run", *first, f"packed={folder / 'packed'}", *overrides)

    return Run.open(shared(f"changes-{name}", train) / "run")


def second_day(folder: Path, *overrides: str) -> Run:
    """A run of the second day that has no checkpoint yet."""
    config, _, second = of_days()
    settings = corank.config.read_config(config, [*second, *overrides])
    return Run(folder, settings, config.parent)


def parts(origin: Origin | None) -> dict[str, CarriedPart]:
    assert origin is not None
    return {f"{part.part} {part.name}".rstrip(): part for part in origin.parts}


@pytest.mark.parametrize("optimiser", ["rowwise_adagrad", "lazy_adam"])
def test_every_row_and_its_states_are_those_of_its_value(optimiser: str, tmp_path: Path) -> None:
    table = f"train.table={{optimiser: {optimiser}, lr: 0.02}}"
    source = first_day(optimiser, AVERAGED, table)
    run = second_day(tmp_path / "run", AVERAGED, table)
    packed, before = run.packed(), source.packed()
    trainer = begin_from(source, run, packed)
    checkpoint, layouts = load(source.latest), (Trainer(source, before).model.layout, trainer.model.layout)
    assert trainer.average is not None
    averaged = trainer.average.state()
    weights, states = trainer.model.state_dict(), trainer.optimisers["table"].state_dict()["state"]
    steps = {"sum"} if optimiser == "rowwise_adagrad" else {"exp_avg", "exp_avg_sq"}
    tables = [name for name, _ in trainer.model.tables.named_parameters()]
    new = 0
    for feature, first in layouts[1].offset.items():
        dim = packed.schema.embedded()[feature].width
        name, number = f"shared.weights.{dim}", tables.index(f"shared.weights.{dim}")
        was = layouts[0].offset[feature]
        for code in range(packed.encoders.sizes[feature]):
            row, known, earlier = first + code, True, code
            if code >= FIRST_KNOWN and feature in packed.schema.columns():
                value = packed.encoders.fitted[feature].decode(code)
                codes = {
                    before.encoders.fitted[feature].decode(n): n
                    for n in range(FIRST_KNOWN, before.encoders.sizes[feature])
                }
                if before.schema.features[feature].kind == "bucket":
                    continue
                earlier, known = codes.get(value, UNKNOWN), value in codes
            new += not known
            then = was + earlier
            assert torch.equal(weights[f"tables.{name}"][row], checkpoint.whole(f"model.tables.{name}")[then])
            assert torch.equal(
                averaged[f"model.tables.{name}"][row], checkpoint.whole(f"average.model.tables.{name}")[then]
            )
            assert averaged[f"seen.{name}"][row] == checkpoint.whole(f"average.seen.{name}")[then]
            for part in steps:
                expected = checkpoint.whole(f"optimiser.table.{number}.{part}")[then]
                assert torch.equal(
                    states[number][part][row], expected if known else torch.zeros_like(expected)
                )
    assert new
    if optimiser == "lazy_adam":
        assert {state["step"] for state in states.values()} == {trainer.progress.step}


def test_a_feature_more_and_one_less(tmp_path: Path) -> None:
    """Columns of the same features keep their weights and moments wherever they lie; others are drawn."""
    source = first_day("less", "features.city=null", AVERAGED)
    fewer = ["features.device=null", "features.tags=null", f"packed={tmp_path / 'packed'}"]
    run = second_day(tmp_path / "run", *fewer, AVERAGED)
    corank.pack(run.base / "config.yaml", _overrides(*fewer))
    packed = run.packed()
    trainer, drawn = begin_from(source, run, packed), Trainer(run, packed)
    earlier, checkpoint = Trainer(source, source.packed()).model.layout, load(source.latest)
    now = trainer.model.layout
    first = "stages.rank.first.weight"
    at, was = 0, 0
    weight, old = trainer.model.state_dict()[first], checkpoint.whole(f"model.{first}")
    optimiser = trainer.optimisers["rank"].state_dict()
    numbers = [name for name, _ in trainer.model.stages["rank"].named_parameters()]
    moment = optimiser["state"][numbers.index("first.weight")]["exp_avg"]
    compared = set()
    for place in PLACEMENTS:
        for name in packed.schema.inputs():
            columns = now.columns(place, [name])
            if not len(columns):
                continue
            there = earlier.columns(place, [name] if name != "city" else [])
            here = torch.from_numpy(columns) + at
            if len(there):
                assert torch.equal(weight[:, here], old[:, torch.from_numpy(there) + was]), name
                assert moment[:, here].abs().sum() > 0
            else:
                assert torch.equal(weight[:, here], drawn.model.state_dict()[first][:, here])
                assert not moment[:, here].any()
            compared.add(name)
        at, was = at + now.width(place), was + earlier.width(place)
    assert {"city", "user_id", "category_clicks"} <= compared and "device" not in compared
    step = optimiser["state"][numbers.index("first.weight")]["step"]
    assert step == trainer.progress.step


def _overrides(*more: str) -> list[str]:
    return [*of_days()[2], *more]


def test_other_layers_losses_and_optimisers_are_named(tmp_path: Path) -> None:
    source = first_day("less", "features.city=null", AVERAGED)
    changed = [
        f"packed={tmp_path / 'packed'}",
        "features.device=null",
        "stages.1.hidden=[16, 12]",
        "stages.0.embeddings=own",
        "train.table={optimiser: lazy_adam, lr: 0.01}",
        "losses=[{kind: click, stage: rank}, {kind: click, stage: prerank}]",
    ]
    lines: list[str] = []
    result = corank.train(
        of_days()[0],
        _overrides(*changed),
        folder=tmp_path / "run",
        continue_from=source.folder,
        report=lines.append,
    )
    carried = parts(result.origin)
    states = {name: part.state for name, part in carried.items()}
    assert states["rows item_id"] == "carried" and states["rows city"] == "fresh"
    assert states["rows device"] == "gone" and states["scale category_clicks"] == "fresh"
    assert (
        states["tables prerank"] == "carried" and carried["tables prerank"].note == "begin as the shared ones"
    )
    assert states["layers rank"] == "in part"
    assert carried["layers rank.first.weight"].note == "new: city; gone: device"
    assert carried["layers rank.hidden.0.weight"].note == "8 x 16 before, 12 x 16 now"
    assert (states["layers rank.hidden.0.weight"], states["layers rank.heads.weight"]) == ("fresh", "fresh")
    assert states["optimiser tables"] == "fresh" and states["average"] == "gone"
    assert any(line.startswith(f"from {source.folder}, after ") for line in lines)
    assert any("rows device" in line and "gone" in line for line in lines)
    assert result.tables["carried"].height == len(carried)
    assert '"from": {' in result.to_json() and Run.open(tmp_path / "run").origin == result.origin


def test_packed_data_that_were_replaced_are_refused(tmp_path: Path) -> None:
    config, first, second = of_days()
    packed = f"packed={tmp_path / 'packed'}"
    source = trained_run(config, tmp_path / "source", first[0], packed)
    corank.pack(config, [second[0], packed])
    with pytest.raises(DataError, match="holds no more the packed data that the run was trained on"):
        corank.train(config, [second[0], packed], folder=tmp_path / "run", continue_from=source.folder)
    assert not (tmp_path / "run" / "run.json").exists()

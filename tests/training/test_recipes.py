"""The recipes of examples/ on a simulated world: each trains, is judged, shipped and ranks, narrowed by overrides."""

import shutil
from pathlib import Path

import pytest

import corank
from corank.analysis.logged_request import logged_request
from corank.bundle.bundle import Bundle
from corank.datasets.feed.simulate import simulate_world
from corank.evaluation.predict import predict_split
from corank.funnel.funnel import Funnel
from corank.funnel.request import Request
from corank.training.run import Run
from tests.support.simulated_runs import Silent

pytestmark = pytest.mark.slow

EXAMPLES = Path(__file__).parents[2] / "examples"
RECIPES = {
    "recipe_distilled": ["rank.click", "prerank.click", "prerank.unexposed", "prerank.distill"],
    "recipe_shared": ["rank.click", "prerank.click"],
    "recipe_taught": ["teacher.click", "rank.click", "prerank.distill"],
    "features": ["rank.click", "prerank.click", "prerank.unexposed", "prerank.in_batch"],
    "three_stages": [
        *("rank.click", "light.click", "prerank.click", "prerank.unexposed"),
        *("prerank.in_batch", "light.distill"),
    ],
}
"""And the losses of each, in the order in which they are first learnt from."""
NARROW = {
    2: ["stages.0.keep=18", "stages.1.keep=6", "stages.1.hidden=[16, 8]"],
    3: ["stages.0.keep=18", "stages.1.keep=12", "stages.2.keep=6", "stages.1.hidden=[8]", "stages.2.hidden=[16, 8]"],
}  # fmt: skip
SMALL = ["stages.0.query=[16, 8]", "stages.0.item=[16, 8]", "train.requests=64"]
SMALLER = [f"stages.0.query_towers.{tower}.widths=[16, 8]" for tower in ("user", "context")]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A simulated world of the shape that the recipes are written for, with the recipes beside its tables."""
    out = tmp_path_factory.mktemp("recipes") / "world"
    simulate_world(out, requests=800, candidates=30, users=40, items=120)
    for recipe in RECIPES:
        shutil.copy(EXAMPLES / f"{recipe}.yaml", out)
    return out


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_trains_evaluates_exports_and_ranks(base: Path, tmp_path: Path, recipe: str) -> None:
    stages = ["prerank", "light", "rank"] if recipe == "three_stages" else ["prerank", "rank"]
    config, callback = base / f"{recipe}.yaml", Silent()
    run = corank.train(
        config,
        [*NARROW[len(stages)], *SMALL, *(SMALLER if recipe == "features" else [])],
        folder=tmp_path / "run",
        report=lambda line: None,
        callbacks=[callback],
    ).run
    learnt: dict[str, list[float]] = {}
    for losses in callback.losses:
        for name, loss in losses.items():
            learnt.setdefault(name, []).append(loss)
    assert list(learnt) == RECIPES[recipe]
    if recipe != "recipe_taught":  # whose ranker trains for one epoch alone
        for name in {"rank.click", "prerank.click"} & {*learnt}:
            assert learnt[name][-1] < learnt[name][0]

    found = corank.evaluate(run.folder)
    assert found["run"]["stages"] == stages
    for stage in stages:
        assert found.row(f"{stage}.exposed.click.auc")["n"] > 0
    # the world is too small to tell recipes apart by it
    assert 0 < found.row(f"{stages[0]}.cut.truth_recall@6@18")["value"] < 1

    bundle = corank.export(run.folder, tmp_path / "bundle").bundle
    own = {"prerank"} if recipe == "recipe_taught" else set()
    assert {stage.tables for stage in bundle.manifest.stages} == {"shared"} | own
    assert {stage.name for stage in bundle.manifest.stages} == {*stages}, "a teacher is not shipped"
    assert Bundle.open(tmp_path / "bundle") == bundle
    funnel, opened = Funnel.open(tmp_path / "bundle"), Run.open(run.folder)
    answer = funnel.rank(Request.parse(logged_request(opened, "test", 0) | {"trace": True}))
    reached = [sum(stage in entry["stages"] for entry in answer["trace"]) for stage in stages]
    assert reached == {2: [30, 18], 3: [30, 18, 12]}[len(stages)]
    assert len(answer["items"]) == 6 and answer["missing"] == answer["unknown"] == []
    # what is served is what was trained: probabilities to 1e-5, by the calibrated score of the last stage
    packed = opened.packed()
    model, calibrators = opened.model(packed)
    predictions = predict_split(model, packed, "test")
    first = slice(*predictions.requests.start[:2].tolist())
    scores = calibrators["rank"]["click"].apply(predictions.logits["rank"]["click"][first].astype(float))
    ids = [c["id"] if isinstance(c, dict) else c for c in logged_request(opened, "test", 0)["candidates"]]
    for item in answer["items"]:
        assert item["score"] == pytest.approx(scores[ids.index(item["id"])], abs=1e-5)

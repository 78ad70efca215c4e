"""Trees as a stage: what they learn of, what serves them, what brings them along, and what is refused."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from safetensors import safe_open
from scipy.special import expit
from torch import Tensor

import corank
from corank.analysis.evaluated_run import predict_run
from corank.analysis.logged_request import logged_request
from corank.core.errors import CheckpointError, ConfigError, DataError
from corank.core.objects import ObjectUrl
from corank.distributed.process_group import join_ranks
from corank.distributed.ranks import Ranks
from corank.evaluation.predict import predict_split
from corank.features.input_layout import Layout
from corank.features.schema import PLACEMENTS, Schema
from corank.metrics.point import auc
from corank.models.pairs import RequestPairs
from corank.models.stage_io import StageInputs
from corank.models.trees import Trees
from corank.serving.funnel.funnel import Funnel
from corank.serving.funnel.request import Request
from corank.training.boosted_trees import fit_stage_trees
from corank.training.checkpoints.checkpoint import load
from corank.training.config.config_file import read
from corank.training.run import Run
from corank.training.train import train_run
from tests.support.boosted_runs import GROWN, LOSSES, PRERANK, RANK, grown_run
from tests.support.configs import TEXT, refused
from tests.support.hostile_runs import write_checkpoint
from tests.support.http_parity import TOLERANCE, parity
from tests.support.interruptions import Interrupting, StoppedError
from tests.support.ranks import fork_ranks
from tests.support.service import running_service
from tests.support.shared import copy_run
from tests.support.simulated_runs import trained_run


@pytest.fixture(scope="module")
def grown() -> Run:
    return grown_run()


def trees_of(run: Run, stage: str = "rank") -> dict[str, Tensor]:
    """Tensors of a stage in the trained model."""
    checkpoint, prefix = run.trained(run.packed()), f"stages.{stage}."
    return {
        name.removeprefix(prefix): checkpoint.whole(name)
        for name in checkpoint.names
        if name.startswith(prefix)
    }


def same(one: Run, other: Run) -> bool:
    ours, theirs = trees_of(one), trees_of(other)
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_they_order_rows_that_they_never_saw(world: Path, tmp_path: Path) -> None:
    run = trained_run(world / "config.yaml", tmp_path / "run", *GROWN)
    predictions = predict_split(run.model(run.packed())[0], run.packed(), "test")
    user = np.repeat(predictions.requests.user, np.diff(predictions.requests.start))
    rows, label = predictions.exposed, predictions.labels["click"]
    assert (auc(user[rows], predictions.logits["rank"]["click"][rows], label[rows]).value() or 0) > 0.6
    kept = int(trees_of(run)["value"].any(2).sum())
    assert 1 <= kept < 40, "validation chose fewer"


@pytest.fixture(scope="module")
def bundle(grown: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("grown") / "bundle"
    corank.export(grown.folder, path)
    return path


def test_a_service_scores_as_the_run_does(grown: Run, bundle: Path, tmp_path: Path) -> None:
    with running_service(str(bundle), tmp_path / "cache") as (url, _):
        agreement = parity(grown, url, 10)
    assert agreement["requests"] == 10 and agreement["scores"] > 100 and agreement["largest"] <= TOLERANCE


def test_a_bundle_scores_as_the_run_does(grown: Run, bundle: Path) -> None:
    funnel, packed = Funnel.open(bundle), grown.packed()
    model, calibrators = grown.model(packed)
    theirs = predict_split(model, packed, "test")
    start = theirs.requests.start
    for n in range(len(start) - 1):
        request = logged_request(grown, "test", n)
        part = theirs.logits["rank"]["click"][start[n] : start[n + 1]]
        np.testing.assert_allclose(funnel.logits(Request.parse(request))["rank"]["click"], part, atol=1e-5)
        score = calibrators["rank"]["click"].apply(part.astype(float))
        ids = [c["id"] if isinstance(c, dict) else c for c in request["candidates"]]
        for item in funnel.rank(Request.parse(request))["items"]:
            assert item["score"] == pytest.approx(score[ids.index(item["id"])], abs=1e-5)


def test_how_a_mean_of_ones_is_rounded_changes_no_score(grown: Run) -> None:
    """A list's averaged ones are 1 but for the last bit, which readers of other languages round otherwise."""
    model = grown.model(grown.packed())[0]
    network, layout = model.network("rank"), model.layout
    assert isinstance(network, Trees)
    averaged = [(n, column) for n, column in enumerate(network.read) if column.averaged]
    inner = network.left[0] != network.right[0]
    assert {n for n, _ in averaged} & set(network.column[0][inner].tolist()), "trees split by some"
    generator = torch.Generator().manual_seed(0)

    def score(one: float) -> Tensor:
        dense = {
            placement: torch.randn(200, layout.width(placement), generator=generator.manual_seed(0))
            for placement in PLACEMENTS
        }
        for _, column in averaged:
            dense[column.placement][:, column.at] = one
        pairs = RequestPairs(200)
        inputs = StageInputs(dense["query"][:1], dense["item"], dense["snapshot"], dense["cross"], pairs)
        return network.forward(inputs).logits["click"]

    assert torch.equal(score(1 - 2**-24), score(1)) and torch.equal(score(1 + 2**-23), score(1))
    assert not torch.equal(score(0), score(1))


def test_it_is_compared_with_a_network(grown: Run, small_world: Path, tmp_path: Path) -> None:
    network = trained_run(small_world / "config.yaml", tmp_path / "network", "train.epochs=1")
    differences = corank.compare(network.folder, grown.folder).tables["differences"]
    assert not differences.filter(pl.col("stage") == "rank", pl.col("metric") == "auc").is_empty()


@pytest.mark.parametrize("mode", ["alternate", "separate"])
def test_what_trains_the_others_changes_no_tree(
    grown: Run, small_world: Path, tmp_path: Path, mode: str
) -> None:
    config = small_world / "config.yaml"
    changes = [f"train.mode={mode}", "train.average=0.9", "train.precision=bf16"]
    run = trained_run(config, tmp_path / "run", *GROWN, *changes)
    assert same(run, grown)


def test_an_interrupted_training_goes_on_with_the_same_trees(
    grown: Run, small_world: Path, tmp_path: Path
) -> None:
    config, folder = small_world / "config.yaml", tmp_path / "run"
    with pytest.raises(StoppedError):
        corank.train(config, [*GROWN, "train.checkpoint_every=2"], folder=folder, callbacks=[Interrupting(1)])
    resumed = trained_run(config, folder, *GROWN, "train.checkpoint_every=2", resume=True)
    assert same(resumed, grown)


def test_a_training_that_goes_on_grows_trees_anew(grown: Run, small_world: Path, tmp_path: Path) -> None:
    config, fewer = small_world / "config.yaml", [*GROWN, "stages.1.min_rows=40"]
    run = trained_run(config, tmp_path / "on", *fewer, continue_from=grown.folder)
    fresh = trained_run(config, tmp_path / "fresh", *fewer)
    assert same(run, fresh) and not same(run, grown)
    checkpoint, packed = run.trained(run.packed()), run.packed()
    codes = checkpoint.whole("tables.rank.weights.16")
    first = run.networks(packed)[0].layout.offset["item_id"]
    assert codes[first : first + packed.encoders.sizes["item_id"], 0].tolist() == list(
        range(packed.encoders.sizes["item_id"])
    )


def test_a_packing_of_other_codes_gives_the_same_scores(small_world: Path, tmp_path: Path) -> None:
    config, plain = small_world / "config.yaml", "features.category_clicks=null"
    test = "test: 2026-03-09..2026-03-11"
    first = f"data.split={{train: 2026-03-01..2026-03-06, valid: 2026-03-06..2026-03-07, {test}}}"
    longer = f"data.split={{train: 2026-03-01..2026-03-08, valid: 2026-03-08..2026-03-09, {test}}}"
    run = trained_run(config, tmp_path / "run", *GROWN, first, plain, f"packed={tmp_path / 'first'}")
    corank.pack(config, [longer, plain, f"packed={tmp_path / 'longer'}"])
    own, judged = predict_run(run, "test"), predict_run(run, "test", on=tmp_path / "longer")
    assert own.packed.codes != judged.packed.codes
    ours, theirs = (prediction.predictions.logits["rank"]["click"] for prediction in (own, judged))
    np.testing.assert_allclose(expit(ours), expit(theirs), atol=1e-6)


def test_a_later_network_may_see_them(small_world: Path, tmp_path: Path) -> None:
    middle = RANK.replace("rank,", "middle,", 1).replace("cuts: [preranked], keep: 6", "keep: 12")
    last = "{name: rank, model: mlp, keep: 6, cuts: [preranked], hidden: [8], from_stages: [middle.score]}"
    losses = LOSSES.replace("}]", "}, {kind: click, stage: rank}]")
    run = trained_run(
        small_world / "config.yaml",
        tmp_path / "run",
        f"stages=[{PRERANK}, {middle}, {last}]",
        losses,
        "train.epochs=1",
        "train.precision=bf16",
    )
    corank.export(run.folder, tmp_path / "bundle")
    funnel, theirs = (
        Funnel.open(tmp_path / "bundle"),
        predict_split(*run.model(run.packed())[:1], run.packed(), "test"),
    )
    logits = funnel.logits(Request.parse(logged_request(run, "test", 0)))
    for stage in ("middle", "rank"):
        part = theirs.logits[stage]["click"][: theirs.requests.start[1]]
        np.testing.assert_allclose(expit(logits[stage]["click"]), expit(part), atol=1e-5)


@pytest.mark.parametrize(
    ("name", "change", "told"),
    [
        (
            "column",
            lambda tensor: tensor.fill_(999),
            r"column: node 0 of tree 0 of label 0 is no node of a tree",
        ),
        ("column", lambda tensor: tensor[0, 3].fill_(-1), r"column: node 0 of tree 3"),
        ("left", lambda tensor: tensor[0, 1, 0].fill_(0), r"left: node 0 of tree 1"),
        ("left", lambda tensor: tensor[0, 1, 0].fill_(7), r"left: node 0 of tree 1"),
        ("right", lambda tensor: tensor[0, 2, 1].fill_(-9), r"right: node 1 of tree 2"),
        ("right", lambda tensor: tensor[0, 2, :2].fill_(5), r"right: node 5 of tree 2"),
        ("threshold", lambda tensor: tensor[0, 0, 0].fill_(float("nan")), r"threshold: holds nan"),
        ("value", lambda tensor: tensor[0, 0, 0].fill_(float("inf")), r"value: holds inf"),
    ],
)
def test_trees_that_lead_nowhere_are_refused(
    grown: Run, tmp_path: Path, name: str, change: Callable[[Tensor], object], told: str
) -> None:
    run = copy_run(grown, tmp_path / "run")
    path = run.folder / "model.safetensors"
    checkpoint = load(path)
    tensors = {key: checkpoint.whole(key).clone() for key in checkpoint.names}
    change(tensors[f"stages.rank.{name}"])
    rewrite(path, tensors)
    with pytest.raises(CheckpointError, match=rf"stages\.rank\.{told}.*train again"):
        run.model(run.packed())
    with pytest.raises(CheckpointError, match=told):
        corank.export(run.folder, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def rewrite(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write other tensors into a checkpoint, whose digest fits."""
    with safe_open(path, "pt") as file:
        facts = file.metadata()["facts"]
    write_checkpoint(path, tensors, facts)


def test_labels_of_one_value_are_named(grown: Run, small_world: Path, tmp_path: Path) -> None:
    world = Path(shutil.copytree(small_world, tmp_path / "world", ignore=shutil.ignore_patterns("packed")))
    for file in (world / "log").glob("*.parquet"):
        pl.read_parquet(file).with_columns(pl.col("is_click") * 0).write_parquet(file)
    by_level = "losses=[{kind: levels, stage: prerank, form: ranknet}]"
    with pytest.raises(
        DataError, match="'rank' cannot be fitted to 'click' of the split 'train': 0 positives and"
    ):
        trained_run(world / "config.yaml", tmp_path / "run", *GROWN, by_level)


SERVED = "stages.1={name: rank, model: trees, cuts: [preranked], keep: 10, labels: [click, order]}"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ([], "losses.0: 'rank' is fitted to the log before training, and a loss ('rank.click')"),
        (["losses.0.stage=prerank"], "losses.2: 'rank' is fitted to the log before training"),
        (
            ["losses=[{kind: click, stage: prerank}, {kind: cascade, form: lcron, positive: [exposed]}]"],
            "losses.1: 'rank' is fitted to the log before training, and a loss ('cascade.lcron')",
        ),
        (
            ["losses=[{kind: click, stage: prerank}]"],
            "train.rank: no optimiser trains 'rank', which is fitted before; drop it",
        ),
        (["stages.1.embeddings=shared"], "stages.1.embeddings"),
        (["stages.1.trees=0"], "stages.1.trees"),
        (
            ["stages.1.dropout=0.1"],
            "stages.1: dropout has no effect on trees, which are fitted whole; drop it",
        ),
        (["stages.1.labels=[buy]"], "stages.1.labels"),
    ],
)
def test_bad_settings_are_refused(tmp_path: Path, changes: list[str], told: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(TEXT, encoding="utf-8")
    assert refused(path, SERVED, *changes).startswith(told)


def test_packed_data_elsewhere_are_refused(grown: Run) -> None:
    packed = grown.packed()
    model = grown.model(packed)[0]
    with pytest.raises(ConfigError, match=r"'rank': s3://shop/packed is no folder of this machine"):
        fit_stage_trees([model], replace(packed, url=ObjectUrl.parse("s3://shop/packed")), 0, Ranks())


def test_features_that_trees_cannot_read_are_named(grown: Run) -> None:
    settings, packed = grown.config.stage("rank"), grown.packed()
    layout = grown.networks(packed)[0].layout
    sizes = dict.fromkeys(layout.sizes, 5001)
    ids = {name: f for name, f in layout.schema.features.items() if f.storage == "id"}
    with pytest.raises(ConfigError, match="'rank' reads numbers, lists, and ids of at most 5,000 values"):
        Trees(settings, Layout(Schema(ids), sizes))  # type: ignore[arg-type]


def train_together(run: Run) -> None:
    """Train as the rank of the environment."""
    torch.set_num_threads(1)
    with join_ranks() as ranks:
        train_run(run, run.packed(), ranks=ranks)


@pytest.mark.thorough
@pytest.mark.parametrize("tables", ["sharded", "replicated"])
def test_ranks_that_train_together_have_the_same_trees(
    grown: Run, small_world: Path, tmp_path: Path, tables: str
) -> None:
    config = small_world / "config.yaml"
    settings = read(config, [*GROWN, f"train.tables={tables}"])
    run = Run.create(tmp_path / "run", settings, config.parent)
    ends = fork_ranks(train_together, 2, run)
    assert [code for code, _ in ends] == [0, 0], "\n".join(text for _, text in ends)
    assert same(run, grown)
    ours, theirs = (
        finished.trained(finished.packed()).whole("tables.rank.weights.16") for finished in (run, grown)
    )
    assert torch.equal(ours, theirs)

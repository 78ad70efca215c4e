"""A log that teaches nothing is refused before training starts, and one that teaches little is warned of."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

import corank
from corank.core.errors import DataError
from corank.datasets.feed.simulate import simulate_world
from corank.losses.settings.levels import LevelsLoss
from corank.training.checks.data_check import TrainingDataCheck
from corank.training.config.config_file import read
from tests.support.command_line import run_corank

CLICKS = "losses=[{kind: click, stage: rank}, {kind: click, stage: prerank}]"
Change = Callable[[pl.DataFrame], pl.DataFrame]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("taught")
    simulate_world(out, requests=300, candidates=20, users=20, items=80)
    return out / "config.yaml"


@pytest.fixture
def changed(world: Path, tmp_path: Path) -> Callable[[Change], list[str]]:
    """Write the world's log, changed, and return the override that names it."""

    def write(change: Change) -> list[str]:
        path = tmp_path / "log.parquet"
        change(pl.read_parquet(world.parent / "log/*.parquet")).write_parquet(path)
        return [f"data.log={path}", "data.truth=null"]

    return write


def data_check(config: Path, *overrides: str) -> TrainingDataCheck:
    return corank.check(config, overrides).data_check


def click(value: object) -> Change:
    return lambda log: log.with_columns(pl.lit(value, pl.Int8).alias("is_click"))


EXPOSED, DAY = pl.col("level") == "exposed", pl.col("time").dt.date().cast(pl.String)


def test_a_good_log_has_neither_faults_nor_unknown_rows(world: Path) -> None:
    report = data_check(world)
    assert report.faults == []
    log = pl.read_parquet(world.parent / "log/*.parquet").filter(EXPOSED, DAY < "2026-03-09")
    label = report.splits["train"].labels["click"]
    assert (label.positives, label.known) == (log["is_click"].sum(), len(log))
    assert (label.null, label.immature, label.excluded) == (0, 0, 0)


def test_packed_data_and_log_give_the_same_counts(world: Path) -> None:
    overrides = [
        "losses.3={kind: levels, stage: prerank, form: softmax, on: [ranked, preranked], per_request: 2}"
    ]
    config = read(world, overrides)
    unpacked, packed = (
        data_check(world, *overrides),
        TrainingDataCheck.of(config, corank.pack(world, overrides).packed),
    )
    for split, counts in packed.splits.items():
        assert counts.labels == unpacked.splits[split].labels
        assert counts.levels == unpacked.splits[split].levels
        assert counts.mixed == unpacked.splits[split].mixed
        assert counts.mixed["click"].requests > 0
        for _, loss in config.total.select(None):
            funnel = config.total.funnel
            assert loss.targets(counts, funnel) == loss.targets(unpacked.splits[split], funnel)


@pytest.mark.parametrize("command", ["train", "study"])
def test_labels_that_are_all_null_are_refused_and_nothing_is_written(
    world: Path, tmp_path: Path, changed: Callable[[Change], list[str]], command: str
) -> None:
    overrides = [*changed(click(None)), f"name=null_{command}"]
    with pytest.raises(DataError) as caught:
        if command == "train":
            corank.train(world, overrides=overrides, folder=tmp_path / "run")
        else:
            corank.study(world, tmp_path / "run", overrides=overrides)
    assert str(caught.value).startswith(
        "losses: stage 'prerank' cannot learn 'click' from the split 'train': its losses "
        "(prerank.click, prerank.unexposed, prerank.in_batch) get no positives"
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("value", "lacks"), [(0, "no positives;"), (1, "no negatives;")])
def test_a_constant_label_is_refused(
    world: Path, changed: Callable[[Change], list[str]], value: int, lacks: str
) -> None:
    report = data_check(world, *changed(click(value)), CLICKS)
    assert len(report.faults) == 2 and all(lacks in fault for fault in report.faults)
    assert f"click: always {value} where it is known in the split 'train'" in report.warnings


def test_clicks_alone_teach_where_negatives_come_from_elsewhere(
    world: Path, changed: Callable[[Change], list[str]]
) -> None:
    negatives = "{kind: unexposed, stage: %s, from: [catalogue], per_request: 3}"
    losses = CLICKS[:-1] + f", {negatives % 'rank'}, {negatives % 'prerank'}]"
    assert data_check(world, *changed(click(1)), losses).faults == []


def test_few_positives_are_warned_of(world: Path, changed: Callable[[Change], list[str]]) -> None:
    few = changed(
        lambda log: log.with_columns(
            pl.when(EXPOSED & (pl.col("is_click") == 1) & (pl.col("is_click").cum_sum() > 7))
            .then(0)
            .otherwise("is_click")
            .alias("is_click")
        )
    )
    report = data_check(world, *few, CLICKS)
    assert report.faults == []
    assert any(line.endswith("positives in the split 'train'") for line in report.warnings)


def test_levels_from_deep_to_shallow_are_refused_and_told_where_the_clicks_are(world: Path) -> None:
    reversed_levels = "data.levels=[exposed, ranked, preranked, retrieved]"
    fault = data_check(world, reversed_levels).faults[0]
    assert "but the column 'is_click' is 1 in" in fault and "rows at 'exposed'" in fault
    assert "data.levels must go from the shallowest level to the exposed one" in fault


def test_packed_levels_from_deep_to_shallow_are_refused_too(world: Path) -> None:
    overrides = ["data.levels=[exposed, ranked, preranked, retrieved]", "name=turned"]
    with pytest.raises(DataError, match="whose last, 'retrieved', must be the exposed one"):
        corank.train(world, overrides=overrides)


def test_levels_that_grow_are_warned_of(world: Path, changed: Callable[[Change], list[str]]) -> None:
    grows = "deeper levels have more candidates"
    assert not any(grows in line for line in data_check(world).warnings)
    thinned = EXPOSED | ((pl.col("level") == "ranked") & (pl.int_range(pl.len()) % 9 == 0))
    sampled = changed(lambda log: log.filter(thinned))
    assert any(grows in line for line in data_check(world, *sampled).warnings)


def test_a_metric_that_validation_cannot_give_is_no_reason_to_stop(
    world: Path, changed: Callable[[Change], list[str]]
) -> None:
    none = changed(
        lambda log: log.with_columns(
            pl.when(DAY == "2026-03-09").then(0).otherwise("is_click").alias("is_click")
        )
    )
    for metric in ("auc", "gauc"):
        fault = data_check(world, *none, f"train.early_stop.metric=rank.click.{metric}").faults
        assert len(fault) == 1
        assert fault[0].startswith(
            f"train.early_stop.metric: 'rank.click.{metric}' has no value in the split"
        )
    assert data_check(world, *none, "train.early_stop.metric=rank.click.logloss").faults == []


def test_immature_and_excluded_rows_are_counted_apart(
    world: Path, changed: Callable[[Change], list[str]]
) -> None:
    ordered = changed(
        lambda log: log.with_columns(
            pl.when(pl.col("is_click") == 1).then(pl.int_range(pl.len()) % 2).alias("is_order")
        )
    )
    labels = (
        "data.labels={click: {column: is_click}, order: {column: is_order, given: click, matures_after: 2d}}"
    )
    report = data_check(world, *ordered, labels)
    packed = TrainingDataCheck.of(
        read(world, [*ordered, labels, "name=ordered"]),
        corank.pack(world, [*ordered, labels, "name=ordered"]).packed,
    )
    order, click = (report.splits["train"].labels[name] for name in ("order", "click"))
    assert order.excluded == click.negatives and order.immature > 0
    assert order.exposed == click.exposed and order.known + order.immature == click.positives
    for split in ("train", "valid"):
        known = report.splits[split].labels["order"]
        assert packed.splits[split].labels["order"][:2] == known[:2]


def test_a_loss_of_an_empty_level_is_warned_of(world: Path, changed: Callable[[Change], list[str]]) -> None:
    shallow = changed(lambda log: log.filter(pl.col("level") != "preranked"))
    negatives = "{kind: unexposed, stage: prerank, from: [preranked]}"
    taught = CLICKS[:-1] + f", {negatives}]"
    assert any(
        line.startswith("prerank.unexposed: no candidate of the split 'train'")
        for line in data_check(world, *shallow, taught).warnings
    )


def test_ordered_levels_need_two_that_are_filled(world: Path, changed: Callable[[Change], list[str]]) -> None:
    exposed_only = changed(lambda log: log.filter(EXPOSED))
    losses = "losses=[{kind: click, stage: rank}, {kind: levels, stage: prerank, form: ranknet}]"
    config = read(world, [losses])
    assert isinstance(config.losses[1], LevelsLoss)
    fault = data_check(world, *exposed_only, losses).faults
    assert len(fault) == 1 and "stage 'prerank' cannot learn 'click'" in fault[0]


def test_check_prints_the_counts_and_refuses(
    world: Path, changed: Callable[[Change], list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    sets = [part for override in changed(click(None)) for part in ("--set", override)]
    code, out, err = run_corank(capsys, "check", world, *sets)
    assert code == 1
    assert "exposed rows by what is known of each label" in out
    assert err.startswith("error: losses: stage 'prerank' cannot learn 'click'")


LISTS = "losses=[{kind: listwise, stage: rank}, {kind: pairwise, stage: prerank}]"


def test_a_stage_may_learn_order_alone(world: Path) -> None:
    report = data_check(world, LISTS)
    assert report.faults == []
    log = pl.read_parquet(world.parent / "log/*.parquet").filter(EXPOSED, DAY < "2026-03-09")
    clicks = log.group_by("request_id").agg(pl.col("is_click").sum().alias("clicked"), pl.len())
    mixed = clicks.filter(pl.col("clicked").is_between(1, pl.col("len") - 1))
    found_mixed = report.splits["train"].mixed["click"]
    assert found_mixed == (len(mixed), mixed["clicked"].sum(), (mixed["len"] - mixed["clicked"]).sum())


def test_order_cannot_be_learnt_from_requests_of_one_candidate(
    world: Path, changed: Callable[[Change], list[str]]
) -> None:
    single = changed(lambda log: log.filter(EXPOSED).unique("request_id", keep="first", maintain_order=True))
    faults = data_check(world, *single, LISTS).faults
    assert len(faults) == 2 and all("requests holds both, and losses over lists compare" in f for f in faults)
    beside = CLICKS[:-1] + ", {kind: listwise, stage: rank}]"
    report = data_check(world, *single, beside)
    assert report.faults == []
    assert any(
        line.startswith("rank.listwise: no candidate of the split 'train'") for line in report.warnings
    )
    stop = "train.early_stop.metric=rank.click.request_auc"
    (fault,) = data_check(world, *single, CLICKS, stop).faults
    assert "has no value in the split 'valid': 0 of" in fault and "none more than 1 candidates" in fault


def test_a_request_must_show_more_than_the_k_of_a_hit(world: Path) -> None:
    (fault,) = data_check(world, CLICKS, "train.early_stop.metric=rank.click.hit@5").faults
    assert "show a 1 and a 0, none more than 4 candidates; change data.split" in fault
    assert data_check(world, CLICKS, "train.early_stop.metric=rank.click.ndcg@10").faults == []


def test_draws_that_a_stage_knows_by_what_is_missing_are_warned_of(world: Path) -> None:
    drawn = CLICKS[:-1] + ", {kind: unexposed, stage: %s, from: [catalogue], per_request: 2}]"
    cross = "features.category_clicks={side: cross, kind: bucket, buckets: 4}"
    (line,) = (w for w in data_check(world, drawn % "rank", cross).warnings if "drawn beyond" in w)
    assert line.startswith(
        "rank.unexposed: candidates drawn beyond the log (catalogue) have no category_clicks"
    )
    for overrides in (
        [drawn % "rank"],
        [drawn % "prerank", cross],
    ):  # a number is at its mean; towers read no pair
        assert not any("drawn beyond" in w for w in data_check(world, *overrides).warnings)


def test_an_average_that_is_longer_than_the_training_is_warned_of(world: Path) -> None:
    """By the stage where each trains by itself, and not where the weights are those of an earlier run."""

    def warned(*overrides: str) -> list[str]:
        return [w for w in data_check(world, *overrides).warnings if w.startswith("train.average")]

    requests = data_check(world).splits["train"].requests
    size = f"train.requests={-(-requests // 10)}"
    (line,) = warned(size, "train.epochs=2", "train.average=0.96")
    assert "training lasts for about 20 steps, and an average of 0.96 reaches back over 25: 44% of" in line
    assert "write 0.75 or less, or drop it" in line
    assert warned(size, "train.epochs=3", "train.average=0.96") == [] == warned(size)
    apart = (size, "train.mode=separate", "stages.0.embeddings=own", "train.average=0.96")
    (line,) = warned(*apart, "train.epochs=3", "train.rank={epochs: 1}")
    assert line.startswith("train.average: 'rank' trains for about 10 steps") and line.endswith("; drop it")
    report = corank.check(world, [size, "train.average=0.96"]).data_check
    assert replace(report, continues=True).warnings == [
        w for w in report.warnings if not w.startswith("train")
    ]


def test_a_training_of_few_steps_is_warned_of(world: Path) -> None:
    """By the stage where each trains by itself, and not where the weights are those of an earlier run."""

    def warned(*overrides: str) -> list[str]:
        return [w for w in data_check(world, *overrides).warnings if w.startswith("train: ")]

    requests = data_check(world).splits["train"].requests
    size = f"train.requests={-(-requests // 10)}"
    (line,) = warned(size, "train.epochs=4")
    assert line.startswith("train: training lasts for 40 steps at most") and "epochs: auto" in line
    assert warned(size, "train.epochs=5") == [] == warned("train.epochs=auto", "train.requests=auto")
    apart = (size, "train.mode=separate", "stages.0.embeddings=own", "train.epochs=5")
    (line,) = warned(*apart, "train.rank={epochs: 1}")
    assert line.startswith("train: 'rank' trains for 10 steps at most")
    report = corank.check(world, [size]).data_check
    assert replace(report, continues=True).warnings == [
        w for w in report.warnings if not w.startswith("train")
    ]


def test_in_batch_that_outweighs_the_clicks_is_warned_of(world: Path) -> None:
    def losses(weight: float) -> str:
        return CLICKS[:-1] + f", {{kind: in_batch, stage: prerank, weight: {weight}}}]"

    def warned(weight: float) -> list[str]:
        return [
            w for w in data_check(world, losses(weight)).warnings if w.startswith("prerank.in_batch: begins")
        ]

    (line,) = warned(1.0)
    assert "times as large as the click losses of 'prerank'" in line
    parity = float(line.partition("a weight below ")[2].split()[0])
    assert warned(parity * 0.95) == [] and len(warned(parity * 1.05)) == 1
    nce = CLICKS[:-1] + ", {kind: info_nce, stage: prerank, per_request: 10, weight: %s}]"
    (line,) = (w for w in data_check(world, nce % 20).warnings if w.startswith("prerank.info_nce: begins"))
    assert "so that the stage learns it rather than to order what is shown" in line
    assert not any("begins" in line for line in data_check(world, nce % 0.3).warnings)
    alone = "losses=[{kind: click, stage: rank}, {kind: in_batch, stage: prerank}]"
    assert not any("begins" in line for line in data_check(world, alone).warnings)

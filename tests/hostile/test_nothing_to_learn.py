"""A log that teaches nothing is refused before training starts, and one that teaches little is warned of."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

import corank
from corank.core.errors import DataError
from corank.datasets.feed.simulate import simulate_world
from corank.training.checks.judgements import judge
from corank.training.checks.log_profile import profile_packed
from corank.training.checks.profile import Profile
from corank.training.config.config_file import read
from tests.support.command_line import run_corank

CLICKS = "losses=[{kind: click, stage: rank}, {kind: click, stage: prerank}]"
Change = Callable[[pl.DataFrame], pl.DataFrame]
Changed = Callable[[Change], list[str]]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("taught")
    simulate_world(out, requests=300, candidates=20, users=20, items=80)
    return out / "config.yaml"


@pytest.fixture
def changed(world: Path, tmp_path: Path) -> Changed:
    """Write the world's log, changed, and return the override that names it."""

    def write(change: Change) -> list[str]:
        path = tmp_path / "log.parquet"
        change(pl.read_parquet(world.parent / "log/*.parquet")).write_parquet(path)
        return [f"data.log={path}", "data.truth=null"]

    return write


def profile(config: Path, *overrides: str) -> Profile:
    return corank.check(config, overrides).profile


def lines(profile: Profile, severity: str) -> list[str]:
    return [str(finding) for finding in judge(profile) if finding.severity == severity]


def click(value: object) -> Change:
    return lambda log: log.with_columns(pl.lit(value, pl.Int8).alias("is_click"))


def no_click_if(condition: pl.Expr) -> Change:
    return lambda log: log.with_columns(pl.when(condition).then(0).otherwise("is_click").alias("is_click"))


def only(condition: pl.Expr) -> Change:
    return lambda log: log.filter(condition)


def clicks_and(*losses: str) -> str:
    return f"{CLICKS[:-1]}, {', '.join(losses)}]"


def stop(metric: str) -> str:
    return f"train.early_stop.metric=rank.click.{metric}"


EXPOSED, DAY = pl.col("level") == "exposed", pl.col("time").dt.date().cast(pl.String)
FROM_8TH = EXPOSED & (pl.col("is_click") == 1) & (pl.col("is_click").cum_sum() > 7)
THINNED = EXPOSED | ((pl.col("level") == "ranked") & (pl.int_range(pl.len()) % 9 == 0))
SINGLE = EXPOSED & (pl.int_range(pl.len()).over("request_id", "level") == 0)
UNCLICKED = no_click_if(DAY == "2026-03-09")
ON_9TH = EXPOSED & (pl.col("is_click") == 1) & (DAY == "2026-03-09")
FEW_VALID = no_click_if(ON_9TH & (ON_9TH.cum_sum() > 3))
LISTS = "losses=[{kind: listwise, stage: rank}, {kind: pairwise, stage: prerank}]"
RANKNET = "losses=[{kind: click, stage: rank}, {kind: levels, stage: prerank, form: ranknet}]"
DRAWN = "{kind: unexposed, stage: %s, from: [catalogue], per_request: 3}"
CROSS = "features.category_clicks={side: cross, kind: bucket, buckets: 4}"
REVERSED = "data.levels=[exposed, ranked, preranked, retrieved]"

FAULTS: dict[str, tuple[Change | None, list[str], list[str]]] = {
    "no click": (click(0), [CLICKS], ["stage 'rank' ", "stage 'prerank' ", "no positives;"]),
    "clicks alone": (click(1), [CLICKS], ["stage 'rank' ", "stage 'prerank' ", "no negatives;"]),
    "levels": (None, [REVERSED], ["the column 'is_click' is 1 in", "at 'exposed'", "levels must go from"]),
    "auc": (
        UNCLICKED,
        [stop("auc")],
        ["early_stop.metric: 'rank.click.auc' has no value in the split", "write data.split: {valid: 0.1, "],
    ),
    "gauc": (UNCLICKED, [stop("gauc")], ["early_stop.metric: 'rank.click.gauc' has no value in the split"]),
    "one level": (only(EXPOSED), [RANKNET], ["stage 'prerank' cannot learn 'click'"]),
    "order of one": (only(SINGLE), [LISTS], ["requests holds both, and losses over lists compare"]),
    "auc of one": (only(SINGLE), [CLICKS, stop("request_auc")], ["0 of", "none more than 1 candidates"]),
    "few clicks": (
        FEW_VALID,
        [CLICKS, stop("auc")],
        [
            "'rank.click.auc' rests on too little",
            "3 positives and",
            "data.split: {valid: 0.1, test: 0.1}",
        ],
    ),
    "few requests": (
        FEW_VALID,
        [CLICKS, stop("ndcg@5")],
        ["requests show a 1 and a 0", "needed: write data.split"],
    ),
    "few at all": (
        lambda log: FEW_VALID(no_click_if(FROM_8TH & (DAY != "2026-03-09"))(log)),
        [CLICKS, stop("auc")],
        ["the log is too small to stop by; write train.epochs: 10"],
    ),
    "hit": (None, [CLICKS, stop("hit@5")], ["none more than 4 candidates; change data.split"]),
}
"""Change of the log, overrides, words of the faults."""


@pytest.mark.parametrize("name", FAULTS)
def test_what_teaches_nothing_is_refused(world: Path, changed: Changed, name: str) -> None:
    change, overrides, words = FAULTS[name]
    checked = profile(world, *(changed(change) if change else []), *overrides)
    faults = " ".join(lines(checked, "error"))
    assert [part for part in words if part not in faults] == []


WARNED: dict[str, tuple[Change | None, list[str], str]] = {
    "few": (no_click_if(FROM_8TH), [CLICKS], "positives in the split 'train'"),
    "small": (None, [CLICKS], "a small log: boosted trees may order as well or better"),
    "grow": (only(THINNED), [], "deeper levels have more candidates"),
    "empty level": (
        only(pl.col("level") != "preranked"),
        [clicks_and("{kind: unexposed, stage: prerank, from: [preranked]}")],
        "prerank.unexposed: no candidate of the split 'train'",
    ),
    "lists": (
        only(SINGLE),
        [clicks_and("{kind: listwise, stage: rank}")],
        "rank.listwise: no candidate of the split 'train'",
    ),
    "pair": (
        None,
        [clicks_and(DRAWN % "rank"), CROSS],
        "rank.unexposed: candidates drawn beyond the log (catalogue) have no category_clicks",
    ),
}
"""Change of the log, overrides, words of a warning."""


@pytest.mark.parametrize("name", WARNED)
def test_what_teaches_little_is_warned_of(world: Path, changed: Changed, name: str) -> None:
    change, overrides, words = WARNED[name]
    report = profile(world, *(changed(change) if change else []), *overrides)
    assert lines(report, "error") == [] and any(words in line for line in lines(report, "warning"))


def test_what_teaches_is_neither(world: Path, changed: Changed) -> None:
    log, unclicked = changed(click(1)), ["data.truth=null", stop("logloss")]
    assert lines(profile(world, *log, clicks_and(DRAWN % "rank", DRAWN % "prerank")), "error") == []
    assert lines(profile(world, *changed(UNCLICKED), *unclicked), "error") == []
    for overrides in ([], [LISTS], [clicks_and(DRAWN % "rank")], [clicks_and(DRAWN % "prerank"), CROSS]):
        report = profile(world, *overrides, stop("ndcg@10"))
        said = " ".join(lines(report, "warning"))
        assert lines(report, "error") == [] and "drawn beyond" not in said and "deeper levels" not in said


def test_a_run_that_goes_on_may_stop_by_few(world: Path, changed: Changed) -> None:
    """As in a loop of minutes, at night; and so may one that stops by a figure that one kind of rows suffices for."""
    few = [*changed(FEW_VALID), CLICKS]
    report = profile(world, *few, stop("auc"))
    assert len(lines(report, "error")) == 1 and lines(replace(report, continues=True), "error") == []
    assert lines(profile(world, *few, stop("logloss")), "error") == []


def test_rows_and_requests_are_counted_as_in_the_log(world: Path) -> None:
    train = profile(world, LISTS).splits["train"]
    log = pl.read_parquet(world.parent / "log/*.parquet").filter(EXPOSED, DAY < "2026-03-09")
    label, clicks = train.labels["click"], pl.col("clicked")
    assert (label.positives, label.known) == (log["is_click"].sum(), len(log))
    mixed = log.group_by("request_id").agg(pl.col("is_click").sum().alias("clicked"), pl.len())
    mixed = mixed.filter(clicks.is_between(1, pl.col("len") - 1))
    shown = len(mixed), mixed["clicked"].sum(), (mixed["len"] - mixed["clicked"]).sum()
    assert train.mixed["click"] == shown


def test_packed_data_and_log_give_the_same_counts(world: Path) -> None:
    overrides = [
        "losses.3={kind: levels, stage: prerank, form: softmax, on: [ranked, preranked], per_request: 2}"
    ]
    config = read(world, overrides)
    unpacked, packed = (
        profile(world, *overrides),
        profile_packed(config, corank.pack(world, overrides).packed),
    )
    for split, counts in packed.splits.items():
        assert counts.labels == unpacked.splits[split].labels
        assert counts.levels == unpacked.splits[split].levels
        assert counts.mixed == unpacked.splits[split].mixed
        assert counts.mixed["click"].requests > 0
        for _, loss in config.total.select(None):
            funnel = config.total.funnel
            assert loss.targets(counts, funnel) == loss.targets(unpacked.splits[split], funnel)


def test_nothing_is_written_when_it_is_refused(
    world: Path, tmp_path: Path, changed: Changed, capsys: pytest.CaptureFixture[str]
) -> None:
    unknown, run = changed(click(None)), tmp_path / "run"
    faults = "\n".join(lines(profile(world, *unknown), "error"))
    for act in (
        lambda: corank.train(world, overrides=[*unknown, "name=null_train"], folder=run),
        lambda: corank.experiment(world, "structures", run, overrides=[*unknown, "name=null_study"]),
    ):
        with pytest.raises(DataError) as caught:
            act()
        assert "losses: stage 'prerank' cannot learn 'click' from the split 'train'" in str(caught.value)
        assert str(caught.value) == faults
        losses = "(prerank.click, prerank.unexposed, prerank.in_batch)"
        assert f"its losses {losses} get no positives" in str(caught.value) and not run.exists()
    sets = [part for override in unknown for part in ("--set", override)]
    code, out, err = run_corank(capsys, "check", world, *sets)
    assert code == 1 and "What there is to learn from" in out
    assert err == f"error: {faults}\n" and "cannot learn" not in out
    found = json.loads(run_corank(capsys, "check", world, *sets, "--json")[1])["findings"]
    assert "\n".join(one["finding"] for one in found if one["severity"] == "error") == faults
    with pytest.raises(DataError) as caught:
        corank.train(world, overrides=[REVERSED, "name=turned"])
    assert str(caught.value) == "\n".join(lines(profile(world, REVERSED), "error"))


def test_immature_and_excluded_rows_are_counted_apart(world: Path, changed: Changed) -> None:
    ordered = changed(
        lambda log: log.with_columns(
            pl.when(pl.col("is_click") == 1).then(pl.int_range(pl.len()) % 2).alias("is_order")
        )
    )
    labels = (
        "data.labels={click: {column: is_click}, order: {column: is_order, given: click, matures_after: 2d}}"
    )
    report = profile(world, *ordered, labels)
    packed = profile_packed(
        read(world, [*ordered, labels, "name=ordered"]),
        corank.pack(world, [*ordered, labels, "name=ordered"]).packed,
    )
    order, click = (report.splits["train"].labels[name] for name in ("order", "click"))
    assert order.excluded == click.negatives and order.immature > 0
    assert order.exposed == click.exposed and order.known + order.immature == click.positives
    for split in ("train", "valid"):
        known = report.splits[split].labels["order"]
        assert packed.splits[split].labels["order"][:2] == known[:2]


def test_a_training_of_few_steps_is_warned_of(world: Path) -> None:
    """By the stage where each trains by itself, and not where the weights are those of an earlier run."""

    def warned(*overrides: str) -> list[str]:
        said = lines(profile(world, *overrides), "warning")
        return [line for line in said if line.startswith("train: ")]

    size = f"train.requests={-(-profile(world).splits['train'].requests // 10)}"
    apart = (size, "train.mode=separate", "stages.0.embeddings=own", "train.rank={epochs: 1}")
    (line,) = warned(size, "train.epochs=4")
    assert line.startswith("train: training lasts for 40 steps at most") and "epochs: auto" in line
    assert warned(size, "train.epochs=5") == [] == warned("train.epochs=auto", "train.requests=auto")
    (line,) = warned(*apart, "train.epochs=5")
    assert line.startswith("train: 'rank' trains for 10 steps at most")
    report = profile(world, size)
    kept = [finding for finding in judge(report) if finding.where != "train"]
    assert judge(replace(report, continues=True)) == kept != judge(report)


def test_in_batch_that_outweighs_the_clicks_is_warned_of(world: Path) -> None:
    def warned(losses: str) -> list[str]:
        return [line for line in lines(profile(world, losses), "warning") if ": begins" in line]

    in_batch = clicks_and("{kind: in_batch, stage: prerank, weight: %s}")
    nce = clicks_and("{kind: info_nce, stage: prerank, per_request: 10, weight: %s}")
    (line,) = warned(in_batch % 1.0)
    assert line.startswith("prerank.in_batch") and "times as large as the click losses of 'prerank'" in line
    parity = float(line.partition("a weight below ")[2].split()[0])
    assert warned(in_batch % (parity * 0.95)) == [] and len(warned(in_batch % (parity * 1.05))) == 1
    (line,) = warned(nce % 20)
    assert line.startswith("prerank.info_nce")
    assert "so that the stage learns it rather than to order what is shown" in line
    assert warned(nce % 0.3) == []
    assert warned("losses=[{kind: click, stage: rank}, {kind: in_batch, stage: prerank}]") == []

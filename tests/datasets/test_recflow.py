"""The RecFlow importer, on a simulated world and on files written by hand."""

import re
from datetime import UTC, date, datetime
from pathlib import Path
from string import Template

import polars as pl
import pytest

import corank
from corank.core.time import to_ms
from corank.datasets import recflow as importer
from corank.datasets.recflow import import_recflow
from corank.features.split import TimeSplit
from corank.training.checks.summary import check_config
from corank.training.config.config_file import read
from tests.support.command_line import run_corank
from tests.support.recflow import DAYS, candidate, log_of, release, write
from tests.support.simulated_runs import trained_run


def test_the_first_of_each_level_are_taken_in_the_order_of_the_file(tmp_path: Path) -> None:
    days = release()
    days["2024-01-13"] = [
        *(candidate(1, video, rank_pos=1) for video in (30, 5, 20, 10)),
        *(candidate(2, video, rank_neg=1) for video in (9, 8, 7)),
        *(candidate(1, video, coarse_neg=1) for video in (6, 4)),
        candidate(1, 99, prerank_neg=1),
        candidate(1, 98, rerank_neg=1),  # has none of the four flags
        candidate(1, 97),
    ]
    summary = import_recflow(write(tmp_path / "in", days), tmp_path / "out", per_level=3)
    log = log_of(tmp_path / "out").filter(pl.col("request_id") <= 2).sort("request_id", maintain_order=True)
    assert log.select("request_id", "video_id", "level").rows() == [
        (1, 30, "rank_pos"),
        (1, 5, "rank_pos"),
        (1, 20, "rank_pos"),
        (1, 6, "coarse_neg"),
        (1, 4, "coarse_neg"),
        (1, 99, "prerank_neg"),
        (2, 9, "rank_neg"),
        (2, 8, "rank_neg"),
        (2, 7, "rank_neg"),
    ]
    # Request 2 has one level alone; of the other days' requests each has one candidate a level.
    assert summary.candidates == {"prerank_neg": 3, "coarse_neg": 4, "rank_neg": 5, "rank_pos": 5}
    assert (summary.requests, summary.short, summary.repeats) == (4, 4, 0)


def test_a_candidate_counts_once_at_its_deepest_level(tmp_path: Path) -> None:
    days = release()
    days["2024-01-13"] = [
        candidate(1, 3, coarse_neg=1),
        candidate(1, 4, rank_neg=1, rank_pos=1),
        candidate(1, 3, rank_pos=1, age=41),
        candidate(1, 3, rank_pos=1, age=42),
        candidate(2, 3, prerank_neg=1),
    ]
    summary = import_recflow(write(tmp_path / "in", days), tmp_path / "out")
    log = log_of(tmp_path / "out").filter(pl.col("request_id") <= 2).sort("request_id", maintain_order=True)
    assert log.select("request_id", "video_id", "level", "age").rows() == [
        (1, 4, "rank_pos", 0),
        (1, 3, "rank_pos", 41),
        (2, 3, "prerank_neg", 0),
    ]
    assert summary.repeats == 2


def test_times_are_utc_their_parts_chinas_and_labels_known_where_shown(tmp_path: Path) -> None:
    days = release()
    days["2024-01-13"] += [
        candidate(13, 50, rank_pos=1, realshow=1, effective_view=1, like=1),
        candidate(13, 51, rank_pos=1, effective_view=1),
    ]
    import_recflow(write(tmp_path / "in", days), tmp_path / "out")
    log = log_of(tmp_path / "out")
    shown, unseen = log.filter(video_id=50).row(0, named=True), log.filter(video_id=51).row(0, named=True)
    assert shown["time"] == datetime(2024, 1, 13, 4, 34, tzinfo=UTC)
    assert (shown["weekday"], shown["hour"], shown["minute"]) == (6, 12, 34)  # a Saturday
    assert (shown["effective_view"], shown["long_view"], shown["like"]) == (1, 0, 1)
    assert (unseen["effective_view"], unseen["like"]) == (None, None)
    items = pl.read_parquet(tmp_path / "out/items.parquet")
    assert items["video_id"].to_list() == [0, 1, 2, 3, 50, 51]
    video = items.row(0, named=True)
    assert (video["upload_weekday"], video["upload_hour"], video["upload_minute"]) == (1, 23, 59)  # a Monday


def test_a_videos_features_are_those_of_the_first_day_that_takes_it(tmp_path: Path) -> None:
    days = release()
    for day, author in (("2024-01-14", 77), ("2024-01-15", 78)):
        days[day].append(candidate(int(day[-2:]), 60, int(day[-2:]), rank_pos=1, author_id=author))
    import_recflow(write(tmp_path / "in", days), tmp_path / "out")
    items = pl.read_parquet(tmp_path / "out/items.parquet")
    assert items.filter(video_id=60)["author_id"].to_list() == [77]


def test_a_column_with_a_space_in_front_is_read(tmp_path: Path) -> None:
    days = release()
    days["2024-01-14"] = [row | {"category_level_two": 5} for row in days["2024-01-14"]]
    for row in days["2024-01-14"]:
        row[" category_level_two"] = row.pop("category_level_two")
        row["video_id"] += 100
    folder = write(tmp_path / "in", days)
    assert " category_level_two" in pl.read_ipc_schema(folder / "all_stage/2024-01-14.feather")
    import_recflow(folder, tmp_path / "out")
    items = pl.read_parquet(tmp_path / "out/items.parquet")
    assert items["category_level_two"].to_list() == [0, 0, 0, 0, 5, 5, 5, 5]


def test_in_full_every_level_counts(tmp_path: Path) -> None:
    days = release()
    days["2024-01-13"] = [
        candidate(1, 1, rank_pos=1, rerank_neg=1),
        candidate(1, 2, rank_neg=1, rerank_pos=1),
        candidate(1, 3, rank_pos=1, rerank_pos=1, realshow=1),
        candidate(1, 4, rerank_neg=1),
        *(candidate(1, video, prerank_neg=1) for video in range(10, 25)),
    ]
    summary = import_recflow(write(tmp_path / "in", days), tmp_path / "out", full=True)
    log = log_of(tmp_path / "out").filter(request_id=1)
    by_video = dict(log.select("video_id", "level").rows())
    assert [by_video[n] for n in (1, 2, 3, 4)] == ["rank_pos", "rerank_pos", "realshow", "rank_neg"]
    assert summary.candidates["prerank_neg"] == 15 + 2
    config = read(tmp_path / "out/config.yaml")
    assert config.data.levels == list(importer.EVERY)
    assert config.data.labels["click"].column == "effective_view"


def test_parts_of_a_day_hold_whole_requests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recflow_world: Path
) -> None:
    whole = import_recflow(recflow_world, tmp_path / "whole")
    monkeypatch.setattr(importer, "_PART", 500)
    parted = import_recflow(recflow_world, tmp_path / "parted")
    assert parted == whole
    key = ["request_id", "video_id"]
    assert log_of(tmp_path / "parted").sort(key).equals(log_of(tmp_path / "whole").sort(key))
    assert len(list((tmp_path / "parted/log").iterdir())) > 20
    items = [pl.read_parquet(tmp_path / name / "items.parquet") for name in ("whole", "parted")]
    assert items[0].equals(items[1])
    of_parts = [set(pl.read_parquet(file)["request_id"]) for file in (tmp_path / "parted/log").iterdir()]
    assert sum(map(len, of_parts)) == 400


def test_only_the_days_asked_for_are_read(tmp_path: Path, recflow_world: Path) -> None:
    summary = import_recflow(recflow_world, tmp_path / "out", date(2024, 1, 15), date(2024, 1, 18))
    assert summary.days == tuple(DAYS[2:6])
    split = read(tmp_path / "out/config.yaml").data.split
    assert isinstance(split, TimeSplit)
    assert (split.valid, split.test) == (date(2024, 1, 17), date(2024, 1, 18))
    assert len(list((tmp_path / "out/truth").iterdir())) == 4


def test_the_protocol_has_forty_candidates_a_request(imported: Path) -> None:
    log = log_of(imported)
    counts = log.group_by("request_id", "level").len()
    assert counts.height == 400 * 4 and (counts["len"] == 10).all()
    # production showed 6 of the 20 it kept, so some 3 of the first ten: their views alone are known
    known = log.filter(pl.col("effective_view").is_not_null())
    assert known["level"].unique().to_list() == ["rank_pos"]
    assert 2.5 < known.height / 400 < 3.5


def test_import_twice_writes_the_same(imported: Path, recflow_world: Path, tmp_path: Path) -> None:
    import_recflow(recflow_world, tmp_path / "again")
    files = sorted(path.relative_to(imported) for path in imported.rglob("*") if path.is_file())
    assert {file.parts[0] for file in files} >= {"log", "items.parquet", "truth", "config.yaml"}
    for file in files:
        if file.parts[0] not in ("packed", "runs"):
            assert (tmp_path / "again" / file).read_bytes() == (imported / file).read_bytes()


@pytest.mark.thorough
@pytest.mark.slow
@pytest.mark.parametrize("full", [False, True])
def test_train_and_judge(recflow_world: Path, tmp_path: Path, full: bool) -> None:
    import_recflow(recflow_world, tmp_path / "out", full=full)
    config = tmp_path / "out/config.yaml"
    assert check_config(read(config), config.parent).rows["log"] == 400 * (50 if full else 40)
    corank.pack(config)
    narrow = ["stages.0.query=[16, 8]", "stages.0.item=[16, 8]", "stages.1.hidden=[16, 8]"]
    quotas = ["stages.0.keep=30", "stages.1.keep=20"]
    run = trained_run(config, tmp_path / "run", *narrow, *quotas, "train.requests=32", "train.epochs=3")
    document = corank.evaluate(run.folder, bootstrap=False)
    test = log_of(tmp_path / "out").filter(pl.col("time") >= datetime(2024, 1, 21, 16, tzinfo=UTC))
    assert document["requests"] == test["request_id"].n_unique()
    assert document["candidates"] == test.height
    cascade = document["cascade"]
    assert cascade["truth_recall@20@30"] > cascade["random"]["truth_recall@20@30"]
    assert cascade["joint_kept_recall@20"] > cascade["random"]["joint_kept_recall@20"]
    assert cascade["eligible"]["joint_kept_recall@20"] == document["requests"]


def test_the_example_is_what_is_imported(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    template = (root / "corank/datasets/recflow.yaml").read_text(encoding="utf-8")
    written = Template(template).substitute(valid="2024-02-03", test="2024-02-04", truth="")
    assert (root / "examples/recflow.yaml").read_text(encoding="utf-8") == written


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    world, out = tmp_path / "world", tmp_path / "out"
    sizes = ["--requests", 60, "--candidates", 50, "--users", 10, "--items", 100]
    code, _, said = run_corank(capsys, "simulate", world, "--format", "recflow", *sizes)
    assert code == 0 and f"next: corank import recflow {world} OUT" in said
    code, _, said = run_corank(
        capsys, "import", "recflow", world, out, "--from", "2024-01-14", "--per-level", 2
    )
    assert code == 0 and "120 rank_pos" not in said and f"next: corank train {out}/config.yaml" in said
    assert log_of(out).group_by("request_id", "level").len()["len"].max() == 2
    assert not list((out / "log").glob("2024-01-13*"))
    code, _, said = run_corank(capsys, "import", "recflow", tmp_path / "none", tmp_path / "b")
    assert code == 1 and said.startswith("error: ") and "no Feather files" in said
    code, _, said = run_corank(capsys, "simulate", tmp_path / "c", "--format", "recfow")
    assert code == 1 and "did you mean 'recflow'" in said


def test_the_losses_of_the_documented_table_are_accepted() -> None:
    root = Path(__file__).parents[2]
    table = (root / "docs/guides/recflow.md").read_text(encoding="utf-8")
    examples = re.findall(r"^\|.*`(\[\{.*\}\])` \|$", table, re.MULTILINE)
    assert len(examples) == 9
    for losses in examples:
        config = read(root / "examples/recflow.yaml", [f"losses={losses}"])
        assert set(config.total.population()) == {0, 1, 2, 3}
    data = read(root / "examples/recflow.yaml", ["data.split.valid=2024-02-03T23:00:00"]).data
    assert isinstance(data.split, TimeSplit) and data.split.test is not None
    assert to_ms(data.instant(data.split.test)) - data.training_end() == 3_600_000

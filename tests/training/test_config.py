"""The config: a mistake is reported with the key's path before anything is read or trained."""

import json
from datetime import timedelta
from pathlib import Path

import pytest

from corank.core.errors import ConfigError
from corank.features.kinds.ids import IdsFeature
from corank.training.config.config_file import plain, read
from corank.training.config.settings import DenseOptimiser, TableOptimiser
from tests.support.configs import refused, shop


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return shop(tmp_path)


def test_a_config_is_read_as_it_is_written(path: Path) -> None:
    config = read(path)
    assert [stage.name for stage in config.stages] == ["prerank", "rank"]
    assert config.stage("rank").labels == ["click", "order"]
    assert config.stage("prerank").labels == ["click"]
    assert config.train.stages == {"rank": DenseOptimiser(lr=0.01)}
    assert config.train.table == TableOptimiser(lr=0.1)
    history = config.features["history"]
    assert isinstance(history, IdsFeature) and history.every == timedelta(days=1)
    assert [name for name, _ in config.total.select(None)] == [
        "rank.click",
        "prerank.unexposed",
        "prerank.distill",
    ]


def test_on_is_a_key_and_true_is_a_value(path: Path) -> None:
    """YAML 1.1 reads `on` as true, which would lose a key of `distill`."""
    assert plain(read(path))["losses"][2]["on"] == ["exposed", "ranked"]
    assert "train.early_stop" in refused(path, "train.early_stop=true")
    assert read(path, ["name=yes"]).name == "yes"


# what the user overrides → the message
WRONG = {
    "trian=1": "(top level): unknown key 'trian'; did you mean 'train'?",
    "train.early_stop.metric=rank.click.acu": "train.early_stop.metric: unknown metric 'rank.click.acu'; "
    "expected STAGE.LABEL.METRIC of prerank.click, rank.click, rank.order and auc, gauc, gauc_user_day, ",
    "features.tab.kind=text": "features.tab: for text write kind: ids with separator: ' ' for its words",
    "features.tab.kind=colour": "features.tab: unknown kind 'colour'; known kinds: age, bucket, ",
    "stages.1.model=tree": "stages.1: unknown model 'tree'; did you mean 'trees'?",
    "data.timezone=Mars": "data: timezone: expected a name such as Asia/Shanghai; received 'Mars'",
    "data.log=[]": "data.log: names no file; write one, a glob, a URL, or a list of them; received []",
    "data.items=['']": "data.items: names no file; write one, a glob, a URL, or a list of them; received ['']",
    "data.log={files: [], list: x}": "data.log.files: names no file; ",
    "data.events={old: {table: []}}": "data.events.old.table: names no file; ",
    "data.split.valid=2026-05-01": "data: split: valid (2026-05-01) must begin before test (2026-04-30)",
    "stages.0.query_features=[tab, brand_seen]": "stages.prerank.query_features: 'brand_seen' is a cross feature "
    "and cannot enter the query tower: at serving time the query tower runs once a request and does not know the "
    "item; leave it to a ranker stage",
    "stages.0.query_features=[nobody]": "stages.prerank.query_features: no feature 'nobody' is declared",
    "stages.0.query=[16, 4]": "stages.0: the towers of 'prerank' meet, so their last widths must "
    "be equal; received query 4 and item 8",
    "stages.1.value=click / 0": "stages.rank.value: 'click / 0' divides by 0 (labels of the stage, and data.col",
    "stages.1.value=click * 9**9**9**9": "stages.rank.value: '9 ** 9 ** 9' has the exponent 3.8742e+08; ",
    "stages.1.keep=200": "stages.1.keep: 'rank' would keep 200 of the 100 that 'prerank' leaves it",
    "stages.1.name=prerank": "stages.1.name: two stages are called 'prerank'",
    "stages.1.labels=[click, share]": "stages.1.labels: no label 'share'; data.labels are click, order",
    "losses.0.stage=rerank": "losses.0.stage: no stage 'rerank'; stages are prerank, rank",
    "losses.0.label=share": "losses.0.stage: stage 'rank' does not predict the label 'share'; it predicts click",
    "losses.2.teacher=reranker": "losses.2.teacher: no stage and no logged score (data.scores) is called "
    "'reranker'; there are prerank, rank",
    "features.history.of=tab": "features.history.of: must name an item id feature (item_id, brand); received 'tab'",
    "stages.0.name=table": "stages.0.name: 'table' means something else; take another name",
    "losses=[{kind: click, stage: rank}]": "stages.0: no loss trains 'prerank'; add one, such as "
    "{kind: click, stage: prerank}, or drop the stage",
    "data.level=null": "losses.1.from: the log has no levels (data.level is not given), so nobody knows what was "
    "retrieved and not shown; write batch or catalogue for negatives beyond the log",
    "train.mode=separate": "stages.0.embeddings: 'prerank' trains after 'rank' and would change its tables; "
    "write embeddings: own, or table_gradient: false",
}  # fmt: skip


@pytest.mark.parametrize("override", WRONG)
def test_what_is_wrong_is_said_where_it_is(path: Path, override: str) -> None:
    assert refused(path, override).startswith(WRONG[override])


@pytest.mark.parametrize("override", ["stages.0.keep", "=3", "name.x=1", "stages.9.keep=1"])
def test_an_override_of_nonsense_is_named(path: Path, override: str) -> None:
    message = refused(path, override)
    assert message.startswith(f"--set {override}: "), message
    assert "expected a.b=value" in message or "the config has no such place" in message


def test_features_without_an_embedding_are_refused(path: Path) -> None:
    numbers = {side: {"side": side, "kind": "number"} for side in ("user", "item")}
    assert refused(path, f"features={json.dumps(numbers)}").startswith("features: all are numbers or vectors")


def test_a_config_that_is_not_there(tmp_path: Path) -> None:
    assert refused(tmp_path / "absent.yaml") == "no such file"
    assert refused(tmp_path).startswith("cannot be read: ")


def test_a_config_of_nothing_names_what_is_required(path: Path) -> None:
    path.write_text("name: x", encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        read(path)
    missing = [line.split(": ")[1] for line in str(caught.value).splitlines()]
    assert missing == ["data", "features", "stages", "losses"]

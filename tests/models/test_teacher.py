"""A teacher sees logged scores, learns, teaches and is never shipped."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import corank
from corank.core.errors import ConfigError
from corank.models.joint import JointModel
from corank.models.mlp import Teacher
from corank.models.settings.mlp import MlpSettings, TeacherSettings
from corank.models.settings.two_tower import TowersSettings
from corank.testing.batches import LAYOUT, random_batch
from corank.testing.worlds import trained_run
from corank.training.checkpoints.manifest import exists
from corank.training.config.config_file import read
from corank.training.run import Run
from tests.support.interruptions import Interrupting, interrupt
from tests.support.simulated_runs import Silent

pytestmark = pytest.mark.slow

STAGES: list[TowersSettings | MlpSettings] = [
    TowersSettings(name="prerank", model="towers", value="click", keep=5, query=[8, 4], item=[8, 4]),
    MlpSettings(name="rank", model="mlp", keep=2, hidden=[8]),
]
TEACHER = TeacherSettings(name="teacher", scores=["served", "older"], hidden=[8])
SCORES = ["data.scores={production: {column: score_rank}}", "name=taught"]
TAUGHT = [
    *SCORES,
    "teachers=[{name: teacher, scores: [production], hidden: [8]}]",
    "losses=[{kind: click, stage: rank}, {kind: click, stage: teacher}, "
    "{kind: distill, teacher: teacher, student: prerank, on: [retrieved, exposed], per_request: 5}]",
    "train.epochs=2",
]


def teacher(built: JointModel) -> Teacher:
    """The model's teacher."""
    network = built.teachers["teacher"]
    assert isinstance(network, Teacher)
    return network


def model() -> JointModel:
    torch.manual_seed(0)
    return JointModel(STAGES, LAYOUT, [TEACHER])


def test_only_the_teacher_sees_the_scores() -> None:
    built, (batch, _) = model(), random_batch(1)
    torch.nn.init.normal_(teacher(built).scored.weight)
    batch.scores.update(served=torch.randn(len(batch)), older=torch.randn(len(batch)))
    before = built.outputs(batch, ["prerank", "rank", "teacher"])
    batch.scores["served"][3] += 1
    after = built.outputs(batch, ["prerank", "rank", "teacher"])
    for stage in ("prerank", "rank"):
        assert torch.equal(before[stage].logits["click"], after[stage].logits["click"])
    changed = before["teacher"].logits["click"] != after["teacher"].logits["click"]
    assert changed.nonzero().tolist() == [[3]]


def test_a_missing_score_counts_as_zero_and_is_marked() -> None:
    built, (batch, _) = model(), random_batch(1)
    weight = teacher(built).scored.weight
    batch.scores.update(served=torch.zeros(len(batch)), older=torch.zeros(len(batch)))
    torch.nn.init.zeros_(weight)
    plain = built.outputs(batch, ["teacher"])["teacher"].logits["click"]
    torch.nn.init.ones_(weight)
    assert torch.allclose(built.outputs(batch, ["teacher"])["teacher"].logits["click"], plain)
    batch.scores["older"][2] = torch.nan
    marked = built.outputs(batch, ["teacher"])["teacher"].logits["click"]
    assert not torch.allclose(marked[2], plain[2])
    assert torch.allclose(marked[:2], plain[:2]) and torch.allclose(marked[3:], plain[3:])


@pytest.fixture(scope="module")
def world(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the world, since packing other settings writes next to it."""
    return Path(shutil.copytree(world, tmp_path_factory.mktemp("copy") / "world"))


@pytest.fixture(scope="module")
def taught(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run with a teacher; its packing, which has the scores, lies next to the world's."""
    corank.pack(world / "config.yaml", TAUGHT)
    return trained_run(world / "config.yaml", tmp_path_factory.mktemp("taught") / "run", *TAUGHT)


def test_a_teacher_is_trained_validated_and_neither_judged_nor_shipped(taught: Run, tmp_path: Path) -> None:
    packed = taught.packed()
    figures = taught.trained(packed).facts["figures"][-1]
    assert figures["teacher.click.auc"] > 0.5
    found = corank.evaluate(taught.folder, bootstrap=False)
    assert set(found.frame()["stage"]) == {"", "prerank", "rank"}
    bundle = corank.export(taught.folder, tmp_path / "bundle").bundle
    assert [stage.name for stage in bundle.manifest.stages] == ["prerank", "rank"]
    assert not [name for name in bundle.manifest.files if "teacher" in name]


@pytest.mark.thorough
@pytest.mark.parametrize("mode", ["joint", "alternate", "separate"])
def test_a_run_with_a_teacher_goes_on_as_if_it_had_not_stopped(
    world: Path, taught: Run, tmp_path: Path, mode: str
) -> None:
    apart = [
        "stages.0.embeddings=own",
        "stages.1.embeddings=own",
        "train.average=0.9",
        "train.checkpoint_every=5",
    ]
    settings = [*TAUGHT, f"train.mode={mode}", *apart]
    whole = trained_run(world / "config.yaml", tmp_path / "whole", *settings)
    interrupt(Interrupting(1), world / "config.yaml", settings, folder=tmp_path / "broken")
    assert exists(tmp_path / "broken" / "latest")
    broken = trained_run(world / "config.yaml", tmp_path / "broken", *settings, resume=True)
    packed = whole.packed()
    expected, resumed = whole.trained(packed).tensors, broken.trained(packed).tensors
    assert expected.keys() == resumed.keys()
    assert all(torch.equal(expected[name], resumed[name]) for name in expected)


def test_apart_the_teacher_is_first_and_no_longer_changes(world: Path, taught: Run, tmp_path: Path) -> None:
    settings = [*TAUGHT, "train.mode=separate", "stages.0.embeddings=own", "stages.1.embeddings=own"]
    watcher = Silent()
    corank.train(world / "config.yaml", settings, folder=tmp_path / "run", callbacks=[watcher])
    learning = [{name.partition(".")[0] for name in figures} for figures in watcher.figures]
    assert learning == [{"teacher"}] * 2 + [{"rank"}] * 2 + [{"prerank"}] * 2
    run = Run.open(tmp_path / "run")
    figures = run.trained(run.packed()).facts["figures"]
    assert np.ptp([f["teacher.click.auc"] for f in figures[1:]]) == 0


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("teachers.0.scores=[produktion]", "teachers.0.scores: unknown key 'produktion'; did you mean 'production'"),
        ("teachers.0.name=rank", "teachers.0.name: another is called 'rank', too"),
        ("losses.2.teacher=rank", "teachers.0: nobody learns from 'teacher'"),
        ("losses.1.stage=rank", "teachers.0: no loss trains 'teacher'"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_teacher_is_said(world: Path, override: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        read(world / "config.yaml", [*TAUGHT, override])
    assert message in str(error.value)

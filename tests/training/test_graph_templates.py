"""Templates of graphs: the same files with one as without, of any weights, and none that is damaged or another's."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import patch

import onnx
import pytest
import torch

from corank.core.artifact_cache import CACHE
from corank.core.calibration import Platt
from corank.core.kept_files import NOWHERE, KeptFiles
from corank.evaluation.predictions import Calibrators
from corank.models.joint import JointModel
from corank.models.mlp import Mlp
from corank.training import onnx_graphs
from corank.training.graph_templates import FOLDER, Templates
from corank.training.onnx_graphs import write_graphs
from corank.training.run import Run
from tests.support.boosted_runs import grown_run
from tests.support.cases import Case, random_model
from tests.support.random_worlds import RICH
from tests.support.shared import shared_case

KEY = "ab" * 32


class OtherMlp(Mlp):
    """A network whose code is not corank's."""


@pytest.fixture(scope="module")
def case() -> Case:
    return shared_case(RICH)


@pytest.fixture
def cache(case: Case, tmp_path: Path) -> Iterator[KeptFiles]:
    """A cache that has the template of the case, which its export kept in that of the session."""
    assert (case.base / "bundle").exists()
    key = key_of(case)
    assert key is not None
    template = KeptFiles.of_user(FOLDER).read(key)
    assert template is not None
    with using(tmp_path / "cache"):
        KeptFiles.of_user(FOLDER).keep(key, template)
        yield KeptFiles.of_user(FOLDER)


@contextmanager
def using(cache: Path) -> Iterator[None]:
    with patch.dict(os.environ, {CACHE: str(cache)}):
        yield


@contextmanager
def exports() -> Iterator[SimpleNamespace]:
    """Count how often torch exports a model."""
    with patch("torch.onnx.export", wraps=torch.onnx.export) as export:
        counted = SimpleNamespace(count=0)
        yield counted
        counted.count = export.call_count


def written(
    case: Case, model: JointModel, calibrators: Calibrators, folder: Path, templates: Templates | None = None
) -> dict[str, bytes]:
    """The files of the graphs of a model."""
    folder.mkdir()
    write_graphs(folder, case.config, model, calibrators, templates or Templates())
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# The same files


def other_weights(case: Case) -> tuple[JointModel, Calibrators]:
    """A model and calibrators of other numbers, some of them equal, which an optimiser could take for one."""
    model = random_model(case.config, case.packed, seed=77)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith("bias"):
                weight.zero_()
    calibrators = {s: {n: Platt(0.25, -3.5) for n in labels} for s, labels in case.calibrators.items()}
    return model, calibrators


def test_files_are_those_of_an_export_of_the_same_weights(
    case: Case, cache: KeptFiles, tmp_path: Path
) -> None:
    """Which is made in place of a template that does not compute what the model does."""
    model, calibrators = other_weights(case)
    with exports() as exported:
        by_template = written(case, model, calibrators, tmp_path / "by_template")
    assert exported.count == 0
    key = key_of(case)
    assert key is not None
    template = cache.read(key)
    of_another_function(cache, key)
    with exports() as exported:
        by_export = written(case, model, calibrators, tmp_path / "by_export")
    assert exported.count == 1
    assert by_template == by_export
    assert cache.read(key) == template
    assert by_template != written(case, case.model, case.calibrators, tmp_path / "first")


def test_a_file_holds_what_its_graph_needs_and_no_place_of_this_machine(
    case: Case, cache: KeptFiles, tmp_path: Path
) -> None:
    files = written(case, case.model, case.calibrators, tmp_path / "graphs")
    assert sorted(files) == [
        "prerank.item.onnx",
        "prerank.query.onnx",
        "prerank.value.onnx",
        "rank.item.onnx",
        "rank.value.onnx",
    ]
    for name, raw in files.items():
        model = onnx.load_from_string(raw)
        onnx.checker.check_model(model, full_check=True)
        read = {given for node in model.graph.node for given in node.input}
        assert {tensor.name for tensor in model.graph.initializer} <= read, name
        assert str(Path(onnx_graphs.__file__).parent).encode() not in raw
    query = {tensor.name for tensor in onnx.load_from_string(files["prerank.query.onnx"]).graph.initializer}
    assert not any(".item." in name for name in query) and any(
        n.startswith("networks.0.query.") for n in query
    )


# Beside runs


def first_run(cache: KeptFiles, folder: Path) -> Path:
    """A run that has the templates of a cache."""
    assert cache.folder is not None
    shutil.copytree(cache.folder, folder / FOLDER)
    return folder


def test_without_a_cache_a_run_has_the_template_of_the_run_that_it_continues(
    case: Case, cache: KeptFiles, tmp_path: Path
) -> None:
    first, second, third = first_run(cache, tmp_path / "first"), tmp_path / "second", tmp_path / "third"
    model, calibrators = other_weights(case)
    expected = written(case, model, calibrators, tmp_path / "expected")
    (tmp_path / "file").touch()
    with using(tmp_path / "file"), exports() as exported:
        for n, templates in enumerate((Templates.of_run(second, first), Templates.of_run(third, second))):
            assert written(case, model, calibrators, tmp_path / f"{n}", templates) == expected
    assert exported.count == 0
    kept = [[path.name for path in (run / FOLDER).iterdir()] for run in (first, second, third)]
    assert kept[0] == kept[1] == kept[2] == [key_of(case)]


# Templates that are not to be used


def of_another_function(cache: KeptFiles, key: str) -> None:
    """As if a stage's activation had not been hashed."""
    template = cache.read(key)
    assert template is not None and b"Relu" in template
    cache.keep(key, template.replace(b"Relu", b"Tanh"))


def place(cache: KeptFiles, key: str) -> Path:
    assert cache.folder is not None
    return cache.folder / key


def test_a_damaged_template_is_none_and_is_kept_anew(tmp_path: Path) -> None:
    cache, file, other = KeptFiles(tmp_path), tmp_path / KEY, tmp_path / KEY.replace("a", "c")
    cache.keep(KEY, bytes(60))
    sound = file.read_bytes()
    for damaged in (b"", sound[:-1], sound[:-40] + bytes([sound[-40] ^ 1]) + sound[-39:]):
        file.write_bytes(damaged)
        assert cache.read(KEY) is None
    cache.keep(other.name, bytes(60))
    other.replace(file)  # which holds its name
    assert cache.read(KEY) is None
    other.write_bytes(sound)
    file.unlink()
    file.symlink_to(other)
    assert cache.read(KEY) is None
    cache.keep(KEY, bytes(60))
    assert cache.read(KEY) == bytes(60)


# Keys


def key_of(case: Case, model: JointModel | None = None, **changes: Any) -> str | None:
    """The key of the case, of which the second stage has changes."""
    first, last = case.config.stages
    config = case.config.model_copy(update={"stages": [first, last.model_copy(update=changes)]})
    program = onnx_graphs._program(config, model or case.model, case.calibrators)
    return onnx_graphs._template_key(config, program)


def test_a_key_is_of_settings_widths_and_versions_and_not_of_weights(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = key_of(case)
    assert key is not None
    assert key_of(case, other_weights(case)[0]) == key
    assert key_of(case, keep=1, min_score=0.5) == key
    assert key_of(case, activation="gelu") != key
    wider = deepcopy(case.model)
    cast(torch.nn.ModuleList, wider.network("rank").hidden)[0] = torch.nn.Linear(8, 7)
    assert key_of(case, wider) != key
    monkeypatch.setattr(onnx_graphs, "version", lambda name: "9.9")
    assert key_of(case) != key


def test_what_others_wrote_has_no_key(case: Case) -> None:
    other = deepcopy(case.model)
    other.network("rank").__class__ = OtherMlp
    assert key_of(case, other) is None


@pytest.mark.thorough
def test_a_template_holds_no_trees_and_serves_any(tmp_path: Path) -> None:
    run, kept = grown_run(), KeptFiles(tmp_path / "kept")
    model, calibrators = run.model(run.packed())
    files = []
    for name, expected in (("first", 1), ("second", 0)):
        (tmp_path / name).mkdir()
        with exports() as exported:
            write_graphs(tmp_path / name, run.config, model, calibrators, Templates(kept, NOWHERE, NOWHERE))
        assert exported.count == expected
        files.append({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()})
    assert files[0] == files[1] and b"nodes_treeids" in files[0]["rank.value.onnx"]
    (template,) = (tmp_path / "kept").iterdir()
    assert b"nodes_treeids" not in template.read_bytes()


# The cache


def test_a_full_cache_forgets_what_was_not_used_for_longest(tmp_path: Path) -> None:
    cache = KeptFiles(tmp_path / "made", bound=300)
    names = [f"{n}" * 64 for n in range(4)]
    for n, name in enumerate(names[:3]):
        cache.keep(name, bytes(60))
        os.utime(tmp_path / "made" / name, (n, n))
    assert cache.read(names[0]) == bytes(60)  # used now
    cache.keep(names[3], bytes(60))
    assert [cache.read(name) is not None for name in names] == [True, False, True, True]
    cache.keep(names[1], bytes(400))
    assert cache.read(names[1]) is None and cache.read(names[0]) is not None
    assert NOWHERE.read(KEY) is None
    NOWHERE.keep(KEY, b"x")


def test_the_cache_lies_where_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    places = [
        ({CACHE: "/own", "XDG_CACHE_HOME": "/xdg"}, "/own/templates"),
        ({CACHE: "", "XDG_CACHE_HOME": "/xdg"}, "/xdg/corank/templates"),
        ({CACHE: "", "XDG_CACHE_HOME": "xdg", "HOME": "/home/me"}, "/home/me/.cache/corank/templates"),
    ]
    for variables, folder in places:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        assert KeptFiles.of_user(FOLDER).folder == Path(folder)


@pytest.mark.slow
def test_where_a_template_serves_an_export_loads_no_exporter(
    trained: Run, trained_bundle: Path, tmp_path: Path
) -> None:
    program = (
        "import sys, json, corank\n"
        "corank.export(sys.argv[1], sys.argv[2])\n"
        "EXPORTER = 'torch.onnx', 'torch.export._trace', 'torch._dynamo', 'onnxscript', 'onnx_ir', 'sympy'\n"
        "print(json.dumps([name for name in EXPORTER if name in sys.modules]))"
    )
    command = [sys.executable, "-W", "error", "-c", program, str(trained.folder), str(tmp_path / "bundle")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []
    first, second = (
        {path.name: path.read_bytes() for path in bundle.glob("*/*.onnx")}
        for bundle in (trained_bundle, tmp_path / "bundle")
    )
    assert first == second and first

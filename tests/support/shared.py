"""What the tests of one session share: made once, by the first worker that needs it."""

import fcntl
import json
import shutil
from collections.abc import Callable
from functools import cache
from hashlib import blake2b
from pathlib import Path
from tempfile import mkdtemp

import pytest

import corank
from corank.core.artifact_cache import CACHE
from corank.data.packing import pack
from corank.testing.worlds import make_world, trained_run
from corank.training.run import Run
from tests.support.cases import Case, bare_funnel
from tests.support.random_worlds import DERIVED, Drawn

_folder: Path | None = None


def use_folder(folder: Path) -> None:
    """Share what is made with every worker that uses the same folder."""
    global _folder
    _folder = folder


def cache_of(folder: Path) -> Path:
    """The cache of the workers that share a folder, which has the templates of exported graphs."""
    return folder / "cache"


def shared(name: str, make: Callable[[Path], object]) -> Path:
    """The folder that `make` fills, on the first call of all workers."""
    global _folder
    if _folder is None:
        _folder = Path(mkdtemp())
    folder, done = _folder / name, _folder / f"{name}.done"
    with (_folder / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            folder.mkdir()
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv(CACHE, str(cache_of(_folder)))  # not that of a test: its exports serve all
                make(folder)
            done.touch()
    return folder


def simulated_world() -> Path:
    """A folder with config.yaml, log/, truth/, items.parquet, users.parquet and packed/."""
    return shared("world", lambda folder: make_world(folder / "world")) / "world"


def small_world() -> Path:
    """A world as `simulated_world` makes it, of a third of the requests: for what holds whatever a model learns."""
    return shared("small_world", lambda folder: make_world(folder / "world", requests=400)) / "world"


def finished_run() -> Run:
    """A finished run of `simulated_world`; it lies outside the world's folder."""
    config = simulated_world() / "config.yaml"
    return Run.open(shared("trained", lambda folder: trained_run(config, folder / "run")) / "run")


def copy_run(run: Run, folder: Path) -> Run:
    """A copy of a run, which a test may write to, in a new folder."""
    shutil.copytree(run.folder, folder)
    # a run names its world relative to itself
    beside = Run.create(folder.with_name(f"{folder.name}.empty"), run.config, run.base)
    shutil.copy(beside.folder / "run.json", folder / "run.json")
    return Run.open(folder)


def finished_bundle() -> Path:
    """The bundle of `finished_run`."""
    run = finished_run()
    return shared("bundle", lambda folder: corank.export(run.folder, folder / "bundle")) / "bundle"


def shared_case(drawn: Drawn) -> Case:
    """The case of a random world, with its bundle exported; tests read it and write elsewhere."""
    return _case(json.dumps(drawn, sort_keys=True))


def bare_case(drawn: Drawn) -> Case:
    """As `shared_case`, but its bundle has no stages and is quickly made: for what needs no model."""
    return _case(json.dumps(drawn, sort_keys=True), bare=True)


def case_in_parts() -> Case:
    """The case of `derived` without a bundle, packed in several parts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pack, "PARTITION", 25)
        return Case.open(shared("parts", lambda folder: Case.of(folder, DERIVED)), DERIVED)


@cache
def _case(text: str, bare: bool = False) -> Case:
    drawn = json.loads(text)

    def make(folder: Path) -> None:
        case = Case.of(folder, drawn)
        if bare:
            bare_funnel(case.packed, folder / "bundle")
        else:
            assert case.funnel

    name = f"{'bare' if bare else 'case'}-{blake2b(text.encode(), digest_size=8).hexdigest()}"
    return Case.open(shared(name, make), drawn)


def derived() -> Case:
    """The shared case that has something of every kind."""
    return shared_case(DERIVED)

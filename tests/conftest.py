"""A small world, a finished run of it and its bundle, made once a session; tests read them and write elsewhere."""

import fcntl
import gc
import os
import re
from collections import Counter
from collections.abc import Generator, Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from corank.core.registry import PLUGINS
from tests.documented.summary import print_summary
from tests.support.object_store import ObjectStore, make_store, s3_server, use_store

if TYPE_CHECKING:  # what takes seconds to load is imported by processes that run tests
    from corank.training.run import Run

pytest.register_assert_rewrite("corank.testing", "corank_serve.testing")

THOROUGH = [
    line
    for line in Path(__file__).with_name("thorough.txt").read_text().split("\n")
    if line[:1] not in ("", "#")
]

_MAKERS = re.compile(
    r"^from (corank\.testing\.worlds|tests\.support\."
    r"(boosted_runs|cases|daily_world|four_days|packing|served_worlds|service|shared|simulated_runs|two_days))\b",
    re.MULTILINE,
)

# what is imported lives on: collections that visited it took a tenth of the CPU time
gc.set_threshold(50_000, 20, 20)


@pytest.hookimpl(wrapper=True)
def pytest_collection(session: pytest.Session) -> Generator[None, object, object]:
    """One worker of a fresh checkout compiles the modules, the others wait and read what it compiled."""
    if session.config.pluginmanager.hasplugin("dsession"):  # this process runs no test: its workers do
        return (yield)
    _prepare_process(thorough="not thorough" not in session.config.option.markexpr)
    here = Path(__file__)
    with here.open() as lock:
        if not any((here.parent / "__pycache__").glob("test_*.pyc")):
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                fcntl.flock(lock, fcntl.LOCK_SH)
        result = yield
    gc.collect()
    gc.freeze()
    return result


def _prepare_process(thorough: bool) -> None:
    import torch
    from hypothesis import HealthCheck, settings

    torch.set_num_threads(1)
    # a loaded machine may be slow at any example, and at drawing it
    slow, examples = [HealthCheck.too_slow], 100 if thorough else 40
    settings.register_profile("corank", deadline=None, suppress_health_check=slow, max_examples=examples)
    settings.load_profile("corank")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave files unread of which every test would be deselected: half of all imports of the default tests."""
    marks = config.option.markexpr
    ignored = ("not thorough" in marks and _is_thorough(collection_path)) or (
        "not slow" in marks and _is_slow(collection_path)
    )
    return ignored or None


@pytest.hookimpl(tryfirst=True)  # before tests are selected by their marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        needs = {*getattr(item, "fixturenames", ())}
        if _is_thorough(item.path) or "s3_endpoint" in needs:
            item.add_marker("thorough")
        if _is_slow(item.path) or needs & {"world", "small_world", "trained", "trained_bundle"}:
            item.add_marker("slow")


def _is_thorough(path: Path) -> bool:
    place = path.relative_to(Path(__file__).parent)
    return any(place.is_relative_to(name) for name in THOROUGH)


@cache
def _is_slow(path: Path) -> bool:
    """Whether a file imports what makes a world, a run, a bundle or a service."""
    return path.suffix == ".py" and _MAKERS.search(path.read_text(encoding="utf-8")) is not None


@pytest.fixture(scope="session", autouse=True)
def shared_folder(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> None:
    """Let the workers of one session share what they make, and the templates of exported graphs."""
    from corank.core.artifact_cache import CACHE
    from tests.support import shared

    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / "shared"
    folder.mkdir(exist_ok=True)
    shared.use_folder(folder)
    os.environ[CACHE] = str(shared.cache_of(folder))  # of processes that tests start, too


@pytest.fixture(autouse=True)
def plugins_of_the_environment() -> Iterator[None]:
    """Take back the plug-ins that a command, run in this process, named for the processes that it starts."""
    before = os.environ.get(PLUGINS)
    yield
    if before is None:
        os.environ.pop(PLUGINS, None)
    else:
        os.environ[PLUGINS] = before


@pytest.fixture(scope="session")
def world() -> Path:
    """A folder with config.yaml, log/, truth/, items.parquet, users.parquet and packed/."""
    from tests.support import shared

    return shared.simulated_world()


@pytest.fixture(scope="session")
def small_world() -> Path:
    """As `world`, of a third of the requests: for what holds whatever a model learns."""
    from tests.support import shared

    return shared.small_world()


@pytest.fixture(scope="session")
def trained() -> "Run":
    """A finished run of `world`."""
    from tests.support import shared

    return shared.finished_run()


@pytest.fixture(scope="session")
def trained_bundle() -> Path:
    """The bundle of `trained`."""
    from tests.support import shared

    return shared.finished_bundle()


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """The address of a server that speaks S3's protocol."""
    with s3_server() as endpoint:
        yield endpoint


@pytest.fixture
def object_store(s3_endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ObjectStore:
    """A bucket of its own, which the environment leads to, with an empty cache."""
    store = make_store(s3_endpoint, f"bucket-{uuid4().hex}")
    use_store(store, tmp_path / "cache", monkeypatch)
    return store


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say which blocks of the documentation ran, and which did not."""
    print_summary(terminalreporter)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Say on the last line what this machine could not test."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    skipped = reporter.stats.get("skipped", []) if reporter else []
    reasons = Counter(str(report.longrepr[2]).removeprefix("Skipped: ") for report in skipped)
    if reasons:
        print("not tested here: " + "; ".join(f"{reason} ({n})" for reason, n in reasons.items()))

"""A version is written, or removed, by one process at a time, and a killed one stands in nobody's way."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from corank.core.errors import BusyError, StoreError
from corank_serve.store import claims
from corank_serve.store.base import Store
from corank_serve.store.claims import check_claim, claim_version
from corank_serve.store.live_version import StoreState
from corank_serve.store.publish import publish_bundle
from corank_serve.store.retention import remove_versions
from tests.support.waiting import PATIENCE, eventually

VERSION = f"{'0' * 16}-1-{'0' * 8}"

HOLDER = """
import sys, time
from corank_serve.store.base import open_store
from corank_serve.store.claims import claim_version
with claim_version(open_store(sys.argv[1]), sys.argv[2], "publish"):
    print("held", flush=True)
    time.sleep(600)
"""


def hold(store: Store, version: str = VERSION) -> subprocess.Popen[str]:
    """Another process that holds a claim."""
    command = [sys.executable, "-c", HOLDER, store.address, version]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout and process.stdout.readline() == "held\n"
    return process


def held(store: Store) -> dict[str, Any]:
    return dict(StoreState.read(store)[1].claims)


def test_a_claim_is_held_within_its_block(local: Store) -> None:
    before = local.head()
    with claim_version(local, VERSION, "publish") as token:
        _, state = StoreState.read(local)
        check_claim(local, state, VERSION, token)
        claim = state.claims[VERSION]
        assert claim.holder.startswith(f"corank publish (process {os.getpid()} on ")
        with pytest.raises(StoreError, match="was taken over by corank publish"):
            check_claim(local, state, VERSION, "f" * 16)
    assert held(local) == {}
    with pytest.raises(StoreError, match="was taken over meanwhile; try again"):
        check_claim(local, StoreState.read(local)[1], VERSION, token)
    assert before is None


@pytest.mark.slow
def test_a_claim_of_a_killed_process_is_taken_over_at_once(
    local: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = hold(local)
    process.kill()  # and not waited for: it is a zombie
    eventually(lambda: psutil.Process(process.pid).status() == psutil.STATUS_ZOMBIE)

    def wait(seconds: float) -> None:
        raise AssertionError("it waits")

    monkeypatch.setattr(claims, "time", SimpleNamespace(monotonic=time.monotonic, sleep=wait))
    with claim_version(local, VERSION, "publish"):
        pass
    process.communicate()


@pytest.mark.slow
def test_who_is_at_work_is_waited_for_and_named(local: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "STALE_SECONDS", PATIENCE)
    process, said = hold(local), list[str]()

    def claim() -> None:
        with claim_version(local, VERSION, "publish", said.append):
            said.append("done")

    waiting = Thread(target=claim)
    waiting.start()
    with (
        pytest.raises(BusyError, match=rf"is held by corank publish \(process {process.pid} on .*, since "),
        claim_version(local, VERSION, "store prune", wait=False),
    ):
        raise AssertionError
    assert waiting.is_alive()
    process.terminate()
    process.communicate()
    waiting.join(PATIENCE)
    assert said[0].startswith(f"waiting for corank publish (process {process.pid} on ") and said[1] == "done"


@pytest.mark.slow
def test_a_claim_whose_beat_stands_still_is_taken_over(local: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of another machine, whose processes cannot be seen. The holder that comes to again has lost its claim."""
    monkeypatch.setattr(claims, "STALE_SECONDS", 1.0)
    monkeypatch.setattr(claims, "_is_dead", lambda claim: False)
    process = hold(local)
    process.send_signal(signal.SIGSTOP)
    lost = held(local)[VERSION].token
    with claim_version(local, VERSION, "publish"):
        process.send_signal(signal.SIGCONT)
        eventually(lambda: held(local)[VERSION].beat > 1)
        _, state = StoreState.read(local)
        assert state.claims[VERSION].token != lost
        with pytest.raises(StoreError, match="was taken over by corank publish"):
            check_claim(local, state, VERSION, lost)
    process.kill()
    process.communicate()


@pytest.mark.slow
def test_what_is_being_published_is_not_removed(
    first: Path, second: Path, local: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "STALE_SECONDS", PATIENCE)
    version = publish_bundle(first, local)
    other = publish_bundle(second, local)
    process, said = hold(local, version), list[str]()
    assert remove_versions(local, 0, said.append) == []
    assert [line.partition(": ")[0] for line in said] == [f"{version} stays"]
    assert f"process {process.pid}" in said[0]
    process.kill()
    process.communicate()
    assert remove_versions(local, keep=0) == [version]
    _, state = StoreState.read(local)
    assert (state.live, list(state.versions), state.claims) == (other, [other], {})

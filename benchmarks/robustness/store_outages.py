"""Outages for store_faults.py: a service continues while its store is away or full; the live version is unchanged."""

import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Protocol

from benchmarks.load import free_port, serving
from corank.core.errors import StoreError
from corank_serve.store.base import Store, open_store
from corank_serve.store.fetch import fetch_bundle
from corank_serve.store.live_version import StoreState
from corank_serve.store.publish import publish_bundle
from tests.support.service import ANY_TIME

CORANK = [sys.executable, "-c", "from corank.cli.main import main; main()"]
REQUESTS = 200
PATIENCE = 30
"""Seconds in which a server must see what happened."""
ROOM = 1.5
"""Of what a version takes: enough for one, too little for two."""


class Server(Protocol):
    """The server of a store."""

    @property
    def url(self) -> str:
        """The address of the store."""
        ...

    def start(self) -> None: ...

    def stop(self) -> None: ...


def serve_command(url: str, cache: Path, port: int) -> list[object]:
    """A service that follows a store, and looks ten times a second."""
    return [*CORANK, "serve", url, "--cache", cache, "--port", port, "--every", 0.1, *ANY_TIME]


def away(
    redis: Server, folder: Path, bundles: Sequence[Path], asked: Sequence[dict[str, Any]]
) -> dict[str, int]:
    """Requests while a service's store is away, how many of them failed, and whether all that it says is true.

    Half of them give no more of their user than an id, which would be looked up.
    """
    port = free_port()
    asked = [*asked, *(body | {"user": {"id": body["user"]["id"]}} for body in asked)]
    with closing(open_store(redis.url)) as store:
        first = publish_bundle(bundles[0], store)
    with serving([*serve_command(redis.url, folder, port), "--workers", 1], port):
        before = [_rank(port, body) for body in asked]
        redis.stop()
        failed = sum(_rank(port, asked[n % len(asked)]) != before[n % len(asked)] for n in range(REQUESTS))
        reported = _until(lambda: not _get(port, "/status")[1]["source_up"])
        redis.start()
        recovered = _until(lambda: bool(_get(port, "/status")[1]["source_up"]))
        with closing(open_store(redis.url)) as store:
            assert StoreState.read(store)[1].live == first
            publish_bundle(bundles[1], store)
        renewed = _until(lambda: _rank(port, asked[0]) != before[0])
    return {
        "away_requests": REQUESTS,
        "away_failed": failed,
        "away_told": int(reported),
        "away_recovered": int(recovered and renewed),
    }


def _rank(port: int, body: dict[str, Any]) -> tuple[int, Any]:
    """Status and answer of a request, without its user."""
    status, answer = _get(port, "/rank", json.dumps(body).encode())
    return status, {name: value for name, value in answer.items() if name != "user"}


def _get(port: int, path: str, body: bytes | None = None) -> tuple[int, Any]:
    headers = {"Content-Type": "application/json"} if body is not None else {}
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", body, headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def _until(true: Callable[[], bool]) -> bool:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if true():
            return True
        time.sleep(0.02)
    return False


def outgrown(
    store: Store, bundles: Sequence[Path], cache: Path, why: str, enlarge: Callable[[], Store]
) -> bool:
    """Whether a store without room for a second version says so, keeps the first, and takes both with more room."""
    version, said = publish_bundle(bundles[0], store), ""
    try:
        publish_bundle(bundles[1], store)
    except StoreError as error:
        said = str(error)
    with closing(enlarge()) as larger:
        intact = StoreState.read(larger)[1].live == version
        fetch_bundle(larger, version, cache)  # every part and record is proven
        later = publish_bundle(bundles[1], larger)
        return why in said and intact and StoreState.read(larger)[1].live == later


def full_map(folder: Path, bundles: Sequence[Path]) -> bool:
    """An LMDB map that is too small, and opened larger."""
    url, gib = f"lmdb:{folder / 'small'}", ROOM * _bytes(folder, bundles[0]) / 2**30
    with closing(open_store(f"{url}?gib={gib:.6f}", create=True)) as store:
        why = "is full; open the store with a larger one"
        return outgrown(store, bundles, folder / "cache", why, lambda: open_store(url))


def full_disk(folder: Path, bundles: Sequence[Path]) -> int | str:
    """A disk that is too small, and made larger: a mount of this process's own."""
    (folder / "disk").mkdir()
    size = round(ROOM * _bytes(folder, bundles[0]))
    program = [
        sys.executable,
        "-c",
        "from benchmarks.robustness.store_outages import on_small_disk; on_small_disk()",
    ]
    words = [*program, folder / "disk", folder / "cache", *bundles[:2]]
    mount = f'mount -t tmpfs -o size={size} tmpfs "$1" || exit 77; shift; exec "$@"'
    script = ["unshare", "--map-root-user", "--mount", "sh", "-c", mount, "sh", folder / "disk", *words]
    done = subprocess.run(
        [*map(str, script)], stdout=subprocess.PIPE, text=True, check=False, cwd=Path(__file__).parents[2]
    )
    return int(done.stdout == "True\n") if done.returncode != 77 else "nothing can be mounted here"


def _bytes(folder: Path, bundle: Path) -> int:
    """Size of a version in a store."""
    path = folder / "measured"
    with closing(open_store(f"lmdb:{path}", create=True)) as store:
        publish_bundle(bundle, store)
    return (path / "data.mdb").stat().st_size


def on_small_disk() -> None:
    """What the command line says: a mounted folder, which is made larger on the way, a cache, two bundles."""
    disk, cache, *bundles = map(Path, sys.argv[1:])

    def enlarge() -> Store:
        subprocess.run(["mount", "-o", "remount,size=1g", disk], check=True)
        return open_store(url)

    url = f"lmdb:{disk / 'store'}"
    with closing(open_store(url, create=True)) as store:
        print(outgrown(store, bundles, cache, "is its disk full?", enlarge))

"""Reads stores one after the other, as a service that starts does, and prints what each has: damage may kill it.

    python -m tests.support.damaged_store_reader CACHE URL...

A line a store: the hash of what it answers, or the error that it is.
"""

import hashlib
import json
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

from corank.core.errors import CorankError
from corank_serve.store.base import Store, open_store
from corank_serve.store.users import UserStore
from tests.support.stores import answers, served

USERS = 200
"""Users 0, 1, … that a store has."""


def read(store: Store, cache: Path) -> list[Any]:
    """The answers of the live version, and the columns of all users."""
    users = UserStore(store)
    return [*answers(served(store, cache))[:5], [users.find(n) for n in range(USERS)]]


def main(cache: Path, urls: list[str]) -> None:
    """Read stores, each into a cache of its own."""
    for n, url in enumerate(urls):
        try:
            with closing(open_store(url)) as store:
                text = json.dumps(read(store, cache / f"{n}-{Path(url).name}"), sort_keys=True)
                print(hashlib.sha256(text.encode()).hexdigest(), flush=True)
        except CorankError as error:
            print(f"error: {error}", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])

"""The protocol of a store of bytes, and the registry of stores by URL scheme.

A new store is one class that has what `Store` declares, registered under its scheme:

    @STORES.register("folder")
    class FolderStore:
        url_form = "folder:PATH"

        def __init__(self, url: str, create: bool) -> None: ...

`corank_serve/testing.py` tests whether a store keeps the contract.
"""

import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol

from corank.core.errors import PluginError, StoreError
from corank.core.objects import is_object_url
from corank.core.registry import Registry

Pairs = Sequence[tuple[bytes, bytes]]
"""Keys and values; the last pair of a key counts."""
Entries = Mapping[str, Pairs]
"""Pairs by table."""
BULK = ("items", "parts", "users")
"""Kinds of tables, the first part of their names, that grow with a catalogue: a store of several servers spreads them.

It then writes them table by table, in the order of the entries, before all other tables and before the head, so that a
write that fails may leave a part of them; and it reads several keys at several moments. All callers allow for that.
"""


def is_bulk(table: str) -> bool:
    """Whether a store may spread a table over servers."""
    return table.partition("/")[0] in BULK


class Store(Protocol):
    """Tables of bytes by key, and one head: a value that names the live version and is swapped atomically.

    A table exists while it holds a key. Its name is text without NUL, a key is 1 byte or more, a value may be empty.
    Threads may share a store; processes may open the same URL. Every method raises StoreError if the store cannot be
    reached, read or written. If the reply to a write was lost, the error says that the write may have been made. A
    store of several servers may take several steps for the tables of `BULK`.

    A store may also have `read_clock()`, which returns the time of its own clock in ms UTC, and `await_replicas()`,
    which waits until all that was written is on a replica of each server, where one is connected.
    """

    url_form: ClassVar[str]
    """The form of its URLs, for messages: `lmdb:PATH`, `redis://HOST:PORT`."""
    address: str
    """The URL without user name and password, for messages."""

    def __init__(self, url: str, create: bool) -> None:
        """Open the store at `url`; `create` makes it if it is missing. Raises StoreError."""

    def head(self) -> bytes | None:
        """Return the head, None before the first swap."""

    def swap(
        self,
        before: bytes | None,
        after: bytes,
        entries: Mapping[str, Pairs] = {},
        gone: Mapping[str, Sequence[bytes]] = {},
    ) -> bool:
        """Set the head to `after` if it is `before`, and delete the keys of `gone`, then put `entries`, atomically.

        Returns:
            False, with nothing written, if the head is not `before`.
        """

    def put(self, entries: Entries) -> None:
        """Write all entries or none."""

    def get(self, table: str, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return the values in the order of `keys`, None for an absent key, all from one moment."""

    def scan(self, table: str) -> Iterator[list[tuple[bytes, bytes]]]:
        """Iterate over a table in batches, in any order.

        A key that is present throughout comes at least once; a key that is put or deleted meanwhile may be left out.
        """

    def count(self, table: str) -> int:
        """Return the number of keys of a table, 0 if it does not exist."""

    def drop(self, table: str) -> None:
        """Remove a table if it exists."""

    def tables(self) -> list[str]:
        """Return the names of all tables, sorted."""

    def close(self) -> None:
        """Release the store; a second call does nothing."""


_METHODS = sorted(name for name, member in vars(Store).items() if callable(member) and name[0] != "_")


def _check_store(what: str, part: Any) -> None:
    """Raise PluginError if a class lacks a member of `Store`."""
    if not inspect.isclass(part):
        raise PluginError(f"{what}: expected a class; received {part!r}")
    if not isinstance(getattr(part, "url_form", None), str):
        raise PluginError(
            f"{what}: {part.__name__} lacks `url_form`, the form of its URLs, such as 'folder:PATH'"
        )
    lacking = [name for name in _METHODS if not callable(getattr(part, name, None))]
    if lacking:
        raise PluginError(
            f"{what}: {part.__name__} lacks {', '.join(f'{name}()' for name in lacking)} of Store"
        )
    try:
        inspect.signature(part).bind("url", True)
    except TypeError:
        raise PluginError(f"{what}: {part.__name__} is opened as {part.__name__}(url, create)") from None


STORES = Registry[type[Store]]("store", "corank.stores", "corank_serve.store.backends", _check_store)
"""Store classes by URL scheme."""


def open_store(url: str, create: bool = False) -> Store:
    """Open the store at a URL; close it after use.

    Args:
        url: `lmdb:PATH[?gib=NUMBER]`; or `redis://[USER:PASSWORD@]HOST[:PORT][/DB][?prefix=NAME]`, `rediss://` and
            `unix://` alike, with further options as redis-py takes them; or `redis+cluster://` and `rediss+cluster://`,
            with several `HOST:PORT` and no database; or a URL whose scheme a plug-in registered.
        create: make the store if it is missing; a Redis server needs no making.

    Raises StoreError if there is no store, or it cannot be opened or reached.

    Example:
        with closing(open_store("lmdb:store", create=True)) as store:
            store.put({"items": [(b"key", b"value")]})
    """
    store = find_store_class(url)
    if store is None:
        forms = list(dict.fromkeys(STORES[scheme].url_form for scheme in STORES))
        raise StoreError(
            f"expected {' or '.join(forms)}; received {hide_password(url)!r}; a plug-in's store needs --plugin MODULE"
        )
    return store(url, create)


def find_store_class(url: str) -> type[Store] | None:
    """Return the class for a URL, by its scheme; None if no registered form fits."""
    scheme, colon, _ = url.partition(":")
    if not colon or scheme not in STORES:
        return None
    store = STORES[scheme]
    return store if "://" in url or "://" not in store.url_form else None


def is_store(url: str) -> bool:
    """Whether something is the URL of a store, rather than a path: its scheme is registered, or no such path exists."""
    if find_store_class(url) is not None:
        return True
    if is_object_url(url) or url.startswith("file://"):
        return False
    return re.match(r"[a-z][a-z0-9_+]*:", url) is not None and not Path(url).exists()


def hide_password(url: str) -> str:
    """Remove user name and password from a URL."""
    # up to the last @: a password that is not percent-encoded may hold any character
    bare = re.sub(r"^([\w+]+://)?.*@", r"\1", url, flags=re.DOTALL)
    return re.sub(r"(password=)[^&]*", r"\1…", bare)


CACHE = Path.home() / ".cache" / "corank"
"""Folder into which bundles of stores are fetched, unless a user names another."""

"""Bundles, and stores of them, mutated by what they are made of: names, sizes, JSON, arrays, tables, graphs, links.

Half of the mutations carry checksums that fit, so that what lies behind the checksums is reached, too.
"""

import hashlib
import io
import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from corank.core.artifact import digest
from corank.funnel.funnel import Funnel
from corank.funnel.request import Request
from corank_serve.store.base import open_store
from corank_serve.store.publish import publish_bundle
from corank_serve.store.source import StoreSource
from corank_serve.store.version_parts import MANIFEST
from tests.support.hostile_cases import VALUES, HostileFolder
from tests.support.hostile_input import mutate

NAMES = [
    *("../../../canary/file", "/canary", "..", ".", "", "encoders/../../x", "encoders//x", "encoders/./x"),
    *("encoders/x\x00y", "encoders\\x", "encoders/" + "x" * 300, "items/.hidden", "other/x.npy", "x.onnx/y"),
    *("tables/shared/-1.npy", "items/ids.npy/", "retrieval/../x", "encoders/\ud800"),
]


class HostileBundles(HostileFolder):
    """Writes and opens mutations of one bundle."""

    def __init__(self, bundle: Path, request: dict[str, Any], folder: Path) -> None:
        """
        Args:
            bundle: a sound one.
            request: that it can rank.
            folder: for the cases, next to files that none may touch.
        """
        self.plain = json.loads((bundle / "manifest.json").read_bytes())
        content = bundle / self.plain["content"]
        self.parts = {name: (content / name).read_bytes() for name in self.plain["files"]}
        super().__init__(folder, "bundle")
        self.request = request

    def open(self) -> None:
        """Open the case, and rank a request."""
        Funnel.open(self.case).rank(Request.parse(self.request))

    def write(self, random_: random.Random) -> None:
        """Write the sound bundle with a mutation or two."""
        plain, parts = json.loads(json.dumps(self.plain)), dict(self.parts)
        for _ in range(random_.choice([1, 1, 1, 2])):
            if random_.random() < 0.35:
                plain = mutate_manifest(random_, plain)
            else:
                name = random_.choice([*parts])
                parts[name] = mutate_part(random_, name, parts[name], [*parts.values()])
        if random_.random() < 0.75:
            for name, raw in parts.items():
                if name in _files(plain):
                    plain["files"][name] = {"bytes": len(raw), "sha256": hashlib.sha256(raw).hexdigest()}
        if isinstance(plain, dict) and random_.random() < 0.9:
            plain["digest"] = digest(plain)
        shutil.rmtree(self.case.parent, ignore_errors=True)
        content = self.case / self.plain["content"]
        for name, raw in parts.items():
            (content / name).parent.mkdir(parents=True, exist_ok=True)
            (content / name).write_bytes(raw)
        text = json.dumps(plain).encode()
        if random_.random() < 0.05:
            text = mutate_bytes(random_, text)
        (self.case / "manifest.json").write_bytes(text)
        if random_.random() < 0.05:
            places = [
                content / random_.choice([*parts]),
                content / "items",
                content,
                self.case / "manifest.json",
            ]
            self.put_link(random_, random_.choice(places))


class HostileStore(HostileFolder):
    """Follows mutations of one store."""

    def __init__(self, bundle: Path, request: dict[str, Any], folder: Path) -> None:
        """
        Args:
            bundle: a sound one, which is published.
            request: that it can rank.
            folder: for the store and the cache, next to files that none may touch.
        """
        super().__init__(folder, "store")
        self.case.parent.mkdir()
        self.request, self.store = request, open_store(f"lmdb:{self.case}", create=True)
        self.version = publish_bundle(bundle, self.store)
        self.head = self.store.head() or b""
        (self.manifest,) = self.store.get(f"parts/{self.version}", [MANIFEST])

    def open(self) -> None:
        """Load what is live, and rank a request."""
        funnel = StoreSource(self.store, self.case.parent / "cache").load_newer(None)
        assert funnel is not None
        funnel.rank(Request.parse(self.request))

    def write(self, random_: random.Random) -> None:
        """Write head and manifest, one of them mutated; the head's digest of the manifest fits in most cases."""
        shutil.rmtree(self.case.parent / "cache", ignore_errors=True)
        head, manifest = json.loads(self.head), self.manifest or b""
        if random_.random() < 0.5:
            manifest = json.dumps(mutate_manifest(random_, json.loads(manifest))).encode()
            if random_.random() < 0.9:
                head["versions"][self.version]["manifest"] = hashlib.sha256(manifest).hexdigest()
        else:
            hostile = ["../../canary", "/canary/file", "..", "", *VALUES]
            head = mutate(random_, head, random_.choice(hostile))
            if random_.random() < 0.2 and isinstance(head, dict):
                name = random_.choice(["../../canary/x", "/canary", "a/../b", "\x00", "x" * 3000])
                facts = json.loads(self.head)["versions"][self.version]
                head |= {"live": name, "versions": {name: facts}}
        raw = json.dumps(head).encode()
        raw = mutate_bytes(random_, raw) if random_.random() < 0.1 else raw
        assert self.store.swap(self.store.head(), raw, {f"parts/{self.version}": [(MANIFEST, manifest)]})


def mutate_manifest(random_: random.Random, plain: Any) -> Any:
    """Change a value, a name of a part, or the content."""
    how = random_.random()
    if how < 0.6 or not (files := _files(plain)):
        return mutate(random_, plain, random_.choice(VALUES))
    if how < 0.8:
        name = random_.choice([*files])
        others = {n: file for n, file in files.items() if n != name}
        return plain | {"files": others | {random_.choice(NAMES): files[name]}}
    if how < 0.9:
        return plain | {"content": random_.choice(["../other", "/tmp", "", ".", "..", "a/b", "\x00", 7])}
    name = random_.choice([*files])
    return plain | {"files": files | {name: mutate(random_, files[name], random_.choice(VALUES))}}


def _files(plain: Any) -> dict[str, Any]:
    """The files of a manifest, of which nothing may be left."""
    files = plain.get("files") if isinstance(plain, dict) else None
    return files if isinstance(files, dict) else {}


def mutate_part(random_: random.Random, name: str, raw: bytes, others: list[bytes]) -> bytes:
    """Change a part by what it is, or its bytes, or take another's."""
    if random_.random() < 0.1:
        return random_.choice(others)
    if random_.random() < 0.3:
        return mutate_bytes(random_, raw)
    if name.endswith(".npy"):
        return mutate_array(random_, raw)
    if name.endswith(".json"):
        return json.dumps(mutate(random_, json.loads(raw), random_.choice(VALUES))).encode()
    return mutate_bytes(random_, raw)


def mutate_bytes(random_: random.Random, raw: bytes) -> bytes:
    """Flip, cut, repeat or insert bytes."""
    at, how = random_.randrange(len(raw) + 1), random_.randrange(5)
    some = random_.randbytes(random_.choice([1, 2, 4, 8]))
    if how == 0:
        return raw[:at]
    if how == 1:
        return raw[:at] + some + raw[at:]
    if how == 2:
        return raw + raw[at:]
    if how == 3:
        return raw[:at] + b"\xff" * len(some) + raw[at + len(some) :]
    return raw[:at] + some + raw[at + len(some) :]


def mutate_array(random_: random.Random, raw: bytes) -> bytes:
    """Change type, shape or a value of an array."""
    try:
        array: Any = np.load(io.BytesIO(raw), allow_pickle=False)
    except (ValueError, EOFError, OSError):
        return mutate_bytes(random_, raw)
    how = random_.randrange(6)
    with np.errstate(all="ignore"):
        if how == 0:
            array = array.astype(random_.choice(["f4", "f8", "i1", "i4", "i8", "u8", "S3", ">i4", "c8", "O"]))
        elif how == 1:
            array = array[: random_.randrange(len(array) + 1)] if array.ndim and len(array) else array[None]
        elif how == 2:
            array = np.concatenate((array, array)) if array.ndim else array[None]
        elif how == 3:
            array = array.reshape(-1) if array.ndim > 1 else array[..., None]
        elif how == 4:
            array = array[::-1]
        elif array.size:
            array = np.array(array)
            bad = (
                [-1, 2**31 - 1, -(2**31), 0, 7]
                if array.dtype.kind in "iu"
                else [np.nan, np.inf, -np.inf, 1e30]
            )
            array.reshape(-1)[random_.randrange(array.size)] = np.array(random_.choice(bad)).astype(
                array.dtype
            )
    out = io.BytesIO()
    np.save(out, array, allow_pickle=True)
    return out.getvalue()

"""Bundles mutated by what they are made of: names, sizes, checksums, JSON, arrays, tables, graphs, links.

Half of the mutations carry checksums that fit, so that what lies behind the checksums is reached, too.
"""

import hashlib
import io
import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

from corank.bundle.manifest import digest
from corank.core.errors import CorankError
from corank.serving.funnel.funnel import Funnel
from corank.serving.funnel.request import Request
from tests.support.hostile_input import mutate
from tests.support.waiting import PATIENCE

VALUES: list[Any] = [
    *(None, True, 0, -1, 1, 2**31, 2**63, -(2**63), 10**30, 0.5, -0.0, 1e308, float("nan"), float("inf")),
    *("", "x", "\x00", "../../canary", "/etc/passwd", "a" * 5000, [], {}, [[]], [None], {"": {}}),
]
NAMES = [
    *("../../../canary/file", "/canary", "..", ".", "", "encoders/../../x", "encoders//x", "encoders/./x"),
    *("encoders/x\x00y", "encoders\\x", "encoders/" + "x" * 300, "items/.hidden", "other/x.npy", "x.onnx/y"),
    *("tables/shared/-1.npy", "items/ids.npy/", "retrieval/../x", "encoders/\ud800"),
]


@dataclass
class Outcome:
    """Counts of cases."""

    cases: int = 0
    accepted: int = 0
    """Those in which the mutation did no harm."""
    failed: int = 0
    """Those that raised what is no error of the user's."""
    hung: int = 0
    escaped: int = 0
    """Those that touched a file outside of the case's folder."""
    first: str = ""
    """The first failure, in words."""
    slowest: float = 0.0
    """Seconds of the slowest case."""

    def add(self, other: "Outcome") -> None:
        """Add the counts of other cases."""
        self.cases, self.accepted = self.cases + other.cases, self.accepted + other.accepted
        self.failed, self.hung = self.failed + other.failed, self.hung + other.hung
        self.escaped, self.slowest = self.escaped + other.escaped, max(self.slowest, other.slowest)
        self.note(other.first)

    def note(self, what: str) -> None:
        """Keep the first failure."""
        self.first = self.first or what[:1500]


class FileWatch:
    """Sees, by an audit hook, which files below a folder are touched while it is armed."""

    def __init__(self) -> None:
        self.canary, self.allowed, self.touched = "", "", list[str]()
        sys.addaudithook(self._hook)

    @contextmanager
    def armed(self, canary: Path, allowed: Path) -> Iterator[list[str]]:
        """Collect what is opened below `canary`, or written outside of `allowed`."""
        self.touched = []
        self.canary, self.allowed = str(canary), str(allowed)
        try:
            yield self.touched
        finally:
            self.canary = self.allowed = ""

    def _hook(self, event: str, given: tuple[Any, ...]) -> None:
        if not self.allowed or event not in EVENTS:
            return
        for path in (os.fsdecode(part) for part in given[:2] if isinstance(part, str | bytes | os.PathLike)):
            absolute = os.path.normpath(os.path.join(self.allowed, path)) if path else ""  # noqa: PTH118
            writes = event != "open" or (len(given) > 2 and isinstance(given[2], int) and given[2] & WRITES)
            if absolute.startswith(self.canary) or (
                writes and path.startswith("/") and self._outside(absolute)
            ):
                self.touched.append(f"{event} {path}")

    def _outside(self, path: str) -> bool:
        if path.startswith((self.allowed, "/proc/")):
            return False
        # folders of tests may lie in /dev/shm
        tests = os.environ.get("PYTEST_DEBUG_TEMPROOT")
        return not path.startswith("/dev/") or (tests is not None and path.startswith(f"{tests}/"))


EVENTS = {"open", "os.rename", "os.remove", "os.symlink", "os.link", "os.mkdir", "os.rmdir", "os.truncate"}
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


class HostileBundles:
    """Writes and opens mutations of one bundle."""

    def __init__(self, bundle: Path, request: dict[str, Any], folder: Path) -> None:
        """
        Args:
            bundle: a sound one.
            request: that it can rank.
            folder: for the cases; beside them lie files that none may touch.
        """
        self.plain = json.loads((bundle / "manifest.json").read_bytes())
        content = bundle / self.plain["content"]
        self.parts = {name: (content / name).read_bytes() for name in self.plain["parts"]}
        self.request, self.canary, self.case = request, folder / "canary", folder / "case" / "bundle"
        self.canary.mkdir(parents=True)
        (self.canary / "file").write_text("untouched")

    def run(self, cases: int, seed: int, watch: FileWatch) -> Outcome:
        """Open mutated bundles; rank by those that open."""
        found, random_ = Outcome(), random.Random(seed)
        for _ in range(cases):
            self.write(random_)
            found.cases += 1
            with watch.armed(self.canary, self.case.parent) as touched:
                attempt(found, lambda: self.open(), f"case {found.cases} of seed {seed}")
            if touched or (self.canary / "file").read_text() != "untouched":
                found.escaped += 1
                found.note(f"touched {touched}")
        return found

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
                if (
                    isinstance(plain, dict)
                    and isinstance(plain.get("parts"), dict)
                    and name in plain["parts"]
                ):
                    plain["parts"][name] = {"bytes": len(raw), "sha256": hashlib.sha256(raw).hexdigest()}
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
            self._link(random_, content, [*parts])

    def _link(self, random_: random.Random, content: Path, names: list[str]) -> None:
        """Put a link or a pipe in the place of a part, a folder or the manifest."""
        chosen = random_.choice(
            [content / random_.choice(names), content / "items", content, self.case / "manifest.json"]
        )
        shutil.rmtree(chosen) if chosen.is_dir() else chosen.unlink()
        if random_.random() < 0.2:
            os.mkfifo(chosen)
        else:
            chosen.symlink_to(self.canary / random_.choice(["file", ""]))


def attempt(found: Outcome, act: Any, what: str) -> None:
    """Run a case: it succeeds, or raises an error of the user's, in time."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise TimeoutError

    signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, PATIENCE)
    began = time.perf_counter()
    try:
        act()
        found.accepted += 1
    except CorankError:
        pass
    except TimeoutError:
        found.hung += 1
        found.note(f"{what}: hung")
    except BaseException as error:
        found.failed += 1
        found.note(f"{what}: {error!r}")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        found.slowest = max(found.slowest, time.perf_counter() - began)


def mutate_manifest(random_: random.Random, plain: Any) -> Any:
    """Change a value, a name of a part, or the content."""
    how = random_.random()
    if (
        how < 0.6
        or not isinstance(plain, dict)
        or not isinstance(plain.get("parts"), dict)
        or not plain["parts"]
    ):
        return mutate(random_, plain, random_.choice(VALUES))
    if how < 0.8:
        name = random_.choice([*plain["parts"]])
        parts = {n: p for n, p in plain["parts"].items() if n != name}
        return plain | {"parts": parts | {random_.choice(NAMES): plain["parts"][name]}}
    if how < 0.9:
        return plain | {"content": random_.choice(["../other", "/tmp", "", ".", "..", "a/b", "\x00", 7])}
    name = random_.choice([*plain["parts"]])
    part = mutate(random_, plain["parts"][name], random_.choice(VALUES))
    return plain | {"parts": plain["parts"] | {name: part}}


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

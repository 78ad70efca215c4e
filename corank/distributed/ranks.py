"""The processes that train together: what they send and report to each other.

Letters: W ranks · N rows.
"""

import json
import os
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import PrefixStore, Store  # type: ignore[attr-defined]

from corank.core.errors import CorankError, DistributedError, OtherRankError

REFUSED = "refused"
"""Mark of a mistake of the user, which a restart would only repeat."""
LAST_WORD = 2.0
"""Seconds for which the ranks that have nothing to say let the reporting one go first."""
POLL = 0.05
"""Seconds between two looks at the store."""


class CollectiveLog:
    """The current collective and step of this rank.

    Each collective runs in `with log.of(name)`. If it fails, the rank posts to the launch's store where it was. A rank
    that posts nothing has died or hangs: the lowest rank that did post reports it by a DistributedError, and the others
    raise OtherRankError.
    """

    def __init__(
        self,
        launch: Store | None = None,
        group: str = "",
        rank: int = 0,
        world: int = 1,
        timeout: float = 0,
    ) -> None:
        """Begin a log.

        Args:
            launch: the launcher's store, which outlives a restart; None for a process that trains alone.
            group: names this group of processes, and none that met in the store before.
            timeout: seconds that a collective may take.
        """
        self.what, self.number, self.step = "", 0, 0
        self.launch = launch
        # the agent's store still has what processes that died have left: their addresses, too
        self.store = None if launch is None else PrefixStore(group, launch)
        self.rank, self._world, self._timeout = rank, world, timeout
        self._began = self._entered = 0.0
        self.waited = Counter[str]()
        """Seconds that this rank spent in collectives, by name."""

    def of(self, what: str) -> Self:
        """Begin a collective; a context manager."""
        self.number += 1
        return self.wait_for(what, time.monotonic())

    def wait_for(self, what: str, began: float) -> Self:
        """Wait for a collective that began earlier, at a time of the monotonic clock; a context manager."""
        self.what, self._began = what, began
        return self

    def __enter__(self) -> None:
        self._entered = time.monotonic()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.waited[self.what] += time.monotonic() - self._entered  # type: ignore[assignment]
        # gloo and NCCL raise RuntimeError, or an error derived from it
        if isinstance(error, RuntimeError):
            raise self._diagnose(error) from None

    def remember(self, mark: str) -> None:
        """Leave a mark for later restarts of this launch."""
        if self.launch is not None:
            self.launch.set(f"corank/{mark}", "")

    def remembers(self, mark: str) -> bool:
        """Whether this start of the launch, or one before, has left a mark."""
        return self.launch is not None and bool(self.launch.check([f"corank/{mark}"]))

    def announce(self) -> None:
        """Announce this rank to the others, by process and machine."""
        self._post("here", {"pid": os.getpid(), "parent": os.getppid(), "host": socket.gethostname()})

    def absent(self) -> list[int]:
        """The ranks that have not announced themselves."""
        return [rank for rank in range(self._world) if self._read("here", rank) is None]

    def report(self, error: BaseException) -> None:
        """Report an error to the others, so that they end. Raises OtherRankError if a lower rank reports one."""
        said = str(error) if isinstance(error, CorankError) else f"rank {self.rank}: {error!r}"
        self._post("failed", self._position() | {"error": said})
        deadline = time.monotonic() + LAST_WORD / 2
        while time.monotonic() < deadline and self.rank:
            lower = [self._read("failed", rank) for rank in range(self.rank)]
            for post in lower:
                if post and "error" in post:
                    raise OtherRankError(post["error"]) from None
            if all(lower):
                break
            time.sleep(POLL)

    def raise_reported(self) -> None:
        """Raise OtherRankError if another rank has reported an error."""
        for rank in range(self._world):
            if (post := self._read("failed", rank)) and "error" in post:
                raise OtherRankError(post["error"]) from None

    def lead(self, function: Callable[[], Any], what: str) -> Any:
        """Run a function while the other ranks follow it. Returns its value, of JSON types."""
        with self.of(what), self._heartbeat():
            value = function()
            self._post("done", {"value": value})
            return value

    def follow(self, what: str) -> Any:
        """Wait for the value of rank 0's function, however long it takes, as long as that process is alive."""
        with self.of(what):
            beat, seen, pause = None, time.monotonic(), 0.001
            while (done := self._read("done", 0)) is None:
                self._raise_if_failed()
                now = self._read("beat", 0)
                if now != beat:
                    beat, seen = now, time.monotonic()
                elif time.monotonic() - seen > self._timeout:
                    raise RuntimeError("no sign of life")
                time.sleep(pause)
                pause = min(POLL, 2 * pause)
            return done["value"]

    @contextmanager
    def _heartbeat(self) -> Iterator[None]:
        ended, beats = threading.Event(), 0

        def beat() -> None:
            nonlocal beats
            while not ended.is_set():
                beats += 1
                with suppress(RuntimeError):
                    self._post("beat", {"beats": beats})
                ended.wait(self._timeout / 4)

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def _raise_if_failed(self) -> None:
        self.raise_reported()
        for rank in range(self._world):
            if self._read("failed", rank):
                raise RuntimeError(f"rank {rank} has given up")

    def _diagnose(self, error: RuntimeError) -> CorankError:
        """Post where this rank was, and find the ranks that do not."""
        late = time.monotonic() - self._began > self._timeout * 0.9
        try:
            self._post("failed", self._position())
            if dist.is_initialized():
                dist.destroy_process_group()  # which wakes the ranks that wait for this one
            posts = self._collect(min(max(LAST_WORD, self._timeout / 4), 30.0))
        except RuntimeError:
            return DistributedError(
                f"step {self.step}: rank {self.rank} lost the launch's store in the collective '{self.what}', so its "
                f"host or its launcher has ended ({_first_line(error)}); start again with --resume"
            )
        for _, post in sorted(posts.items()):
            if "error" in post:
                return OtherRankError(post["error"])
        missing = [rank for rank in range(self._world) if rank not in posts]
        if self.rank != min(posts):
            return OtherRankError(f"rank {min(posts)} reports the failure of {name_ranks(missing)}")
        for rank in missing:
            self._end_hanging(rank)
        return DistributedError(self._message(missing, posts, error, late))

    def _message(
        self, missing: list[int], posts: dict[int, dict[str, Any]], error: RuntimeError, late: bool
    ) -> str:
        where = f"step {self.step}, collective '{self.what}'"
        if not missing:
            cause = f"the connections between ranks broke ({_first_line(error)}); look at the network"
        elif late:
            cause = f"{name_ranks(missing)} did not arrive within {self._timeout:g} s"
        else:
            cause = f"{name_ranks(missing)} ended"
        elsewhere = [
            f"rank {rank} was at step {post['step']}, '{post['what']}'"
            for rank, post in sorted(posts.items())
            if post["number"] != self.number
        ]
        also = f" ({'; '.join(elsewhere[:4])})" if elsewhere else ""
        return (
            f"{where}: {cause}{also}; look at its output and its machine. --max-restarts goes on by itself from the "
            "last checkpoint, --resume by hand"
        )

    def _position(self) -> dict[str, Any]:
        return {"what": self.what, "number": self.number, "step": self.step}

    def _collect(self, seconds: float) -> dict[int, dict[str, Any]]:
        """Read the posts of failed ranks until all have posted or the time is over."""
        deadline = time.monotonic() + seconds
        while True:
            posts = {
                rank: post for rank in range(self._world) if (post := self._read("failed", rank)) is not None
            }
            if len(posts) == self._world or time.monotonic() > deadline:
                return posts
            time.sleep(POLL)

    def _end_hanging(self, rank: int) -> None:
        """Kill a rank of this machine that hangs, for which its agent would wait forever."""
        post = self._read("here", rank) or {}
        pid, parent = post.get("pid"), os.getppid()
        # the store's data is checked: only a process of the same agent is ended
        if (
            post.get("host") == socket.gethostname()
            and isinstance(pid, int)
            and parent > 1
            and _parent(pid) == parent
        ):
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)

    def _key(self, kind: str, rank: int) -> str:
        return f"{kind}/{self.number if kind in ('done', 'beat') else 0}/{rank}"

    def _post(self, kind: str, content: dict[str, Any]) -> None:
        if self.store is not None:
            self.store.set(self._key(kind, self.rank), json.dumps(content))

    def _read(self, kind: str, rank: int) -> dict[str, Any] | None:
        key = self._key(kind, rank)
        if self.store is None or not self.store.check([key]):
            return None
        entry: dict[str, Any] = json.loads(self.store.get(key))
        return entry


def name_ranks(ranks: list[int]) -> str:
    """Name some ranks for a message.

    Example:
        >>> name_ranks([1, 3])
        'ranks 1, 3'
    """
    named = ", ".join(map(str, ranks[:8])) + (f" and {len(ranks) - 8} more" if len(ranks) > 8 else "")
    return f"rank{'s' if len(ranks) > 1 else ''} {named}"


def _parent(pid: int) -> int | None:
    """The parent of a process; None where the system does not report it."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
        return int(stat.rpartition(")")[2].split()[1])
    except (OSError, ValueError, IndexError):
        return None


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0][:200]


T = TypeVar("T")


@dataclass(frozen=True)
class Pending:
    """A collective under way."""

    tensor: Tensor
    """What the ranks send, in place, or what arrives; not to be read or changed before `wait`."""
    work: dist.Work | None = None
    """None if this process is alone."""
    log: CollectiveLog = field(default_factory=CollectiveLog)
    what: str = ""
    began: float = 0.0

    def wait(self) -> Tensor:
        """Wait for the other ranks. Returns the tensor; also if it is called again."""
        if self.work is not None:
            with self.log.wait_for(self.what, self.began):
                self.work.wait()
        return self.tensor


@dataclass(frozen=True)
class Ranks:
    """This process among W that train one model; alone, all that it would send stays here.

    Every method with a `what` is a collective: all ranks call it, in the same order. `what` names it in errors and in
    `sent`. What `start_…` returns may be waited for in any order.

    Example:
        ranks = Ranks()
        ranks.sum(torch.ones(3), "example")
    """

    rank: int = 0
    world: int = 1
    sent: Counter[str] = field(default_factory=Counter, compare=False)
    """Bytes that this rank sent to others, by collective."""
    log: CollectiveLog = field(default_factory=CollectiveLog, compare=False)
    """Where this rank is, for the message if a rank does not arrive."""
    restarts: int = 0
    """How often the launcher has started all ranks again."""

    @property
    def alone(self) -> bool:
        """Whether this process trains alone."""
        return self.world == 1

    @property
    def first(self) -> bool:
        """Whether this rank is the one that writes and reports."""
        return self.rank == 0

    def sum(self, tensor: Tensor, what: str) -> Tensor:
        """Sum a tensor over all ranks, in place; the sum is the same, bit for bit, on all of them."""
        return self.start_sum(tensor, what).wait()

    def start_sum(self, tensor: Tensor, what: str) -> Pending:
        """Begin a `sum`."""
        if self.alone:
            return Pending(tensor)
        self.sent[what] += 2 * tensor.nbytes * (self.world - 1) // self.world
        return self._start(tensor, lambda: dist.all_reduce(tensor, async_op=True), what)

    def exchange(self, rows: Tensor, counts: Sequence[int], received: Sequence[int], what: str) -> Tensor:
        """Send rows to each rank, the first `counts[0]` to rank 0 and so on. Returns those received, in rank order."""
        return self.start_exchange(rows, counts, received, what).wait()

    def start_exchange(
        self, rows: Tensor, counts: Sequence[int], received: Sequence[int], what: str
    ) -> Pending:
        """Begin an `exchange`."""
        if self.alone:
            return Pending(rows)
        out, rows = rows.new_empty(sum(received), *rows.shape[1:]), rows.contiguous()
        self.sent[what] += rows.nbytes // max(1, len(rows)) * (len(rows) - counts[self.rank])
        return self._start(
            out,
            lambda: dist.all_to_all_single(out, rows, list(received), list(counts), async_op=True),
            what,
        )

    def _start(self, tensor: Tensor, start: Callable[[], dist.Work | None], what: str) -> Pending:
        began = time.monotonic()
        with self.log.of(what):
            return Pending(tensor, start(), self.log, what, began)

    def gather(self, rows: Tensor, what: str, counts: Sequence[int] | None = None) -> list[Tensor]:
        """Gather N rows of every rank, each its own number, in rank order: on all ranks.

        Args:
            rows: of this rank.
            what: names the collective.
            counts: N of each rank, if it is known; else they are gathered first.
        """
        if self.alone:
            return [rows]
        counts = self._lengths(rows, what) if counts is None else counts
        padded = _pad(rows, max(counts))
        parts = [torch.empty_like(padded) for _ in range(self.world)]
        with self.log.of(what):
            dist.all_gather(parts, padded)
        self.sent[what] += padded.nbytes * (self.world - 1)
        return [part[:n] for part, n in zip(parts, counts, strict=True)]

    def gather_first(self, content: bytes, what: str) -> list[bytes]:
        """Send bytes to the first rank. Returns those of all ranks there, in rank order; nothing elsewhere."""
        if self.alone:
            return [content]
        rows = torch.frombuffer(bytearray(content), dtype=torch.uint8) if content else torch.empty(0).byte()
        counts = self._lengths(rows, what)
        padded = _pad(rows, max(counts))
        parts = [torch.empty_like(padded) for _ in range(self.world)] if self.first else None
        with self.log.of(what):
            dist.gather(padded, parts)
        self.sent[what] += 0 if self.first else padded.nbytes
        return [part[:n].numpy().tobytes() for part, n in zip(parts or (), counts, strict=False)]

    def _lengths(self, rows: Tensor, what: str) -> list[int]:
        counts = [torch.empty(1, dtype=torch.long) for _ in range(self.world)]
        with self.log.of(what):
            dist.all_gather(counts, torch.tensor([len(rows)]))
        return [int(n) for n in counts]

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """The same ranks: a copy of a model is of the same process."""
        return self

    def share(self, value: Any, what: str) -> Any:
        """Give every rank the first one's value, of JSON types."""
        if self.alone:
            return value
        content = torch.frombuffer(bytearray(json.dumps(value), "utf-8"), dtype=torch.uint8)
        length = torch.tensor([len(content)])
        with self.log.of(what):
            dist.broadcast(length, src=0)
        if not self.first:
            content = content.new_empty(int(length))
        with self.log.of(what):
            dist.broadcast(content, src=0)
        return json.loads(content.numpy().tobytes())

    def first_does(self, function: Callable[[], T], what: str) -> T:
        """Call a function on the first rank, however long it takes; the others wait.

        Returns its value, of JSON types, on all ranks. If it raises, all ranks end, and the first reports the error.
        """
        if self.alone:
            return function()
        value: T = self.log.lead(function, what) if self.first else self.log.follow(what)
        return value

    def wait(self, what: str) -> None:
        """Wait until all ranks are here."""
        if not self.alone:
            with self.log.of(what):
                dist.barrier()


ALONE = Ranks()
"""A process that trains alone."""


def _pad(rows: Tensor, length: int) -> Tensor:
    padded = rows.new_zeros(length, *rows.shape[1:])
    padded[: len(rows)] = rows
    return padded

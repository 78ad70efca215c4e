"""Checks after each round of writers_rounds.py, by what was seen and what was acknowledged."""

import json
import re
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch

from benchmarks.robustness.writers_work import NEW_ITEM, Job, Targets
from corank.bundle.bundle import Bundle
from corank.core.errors import CorankError
from corank.data.packed.dataset import PackedDataset
from corank.funnel.funnel import Funnel
from corank.training.checkpoints.checkpoint_files import load
from corank.training.checkpoints.manifest import exists
from corank.training.run import Run
from corank_serve.store.base import open_store
from corank_serve.store.fetch import fetch_bundle, load_latest
from corank_serve.store.live_version import StoreState
from tests.support.stores import worths

NAMED = re.compile(r"\(process \d+ on .*\)|meanwhile|while this command ran|publish it again")
"""A refusal's message: who holds the target, or what came between."""


@dataclass
class BundleWatch:
    """Every state of a bundle's pointer, in order."""

    targets: Targets
    states: list[dict[str, Any]] = field(default_factory=list)
    _seen: tuple[int, int] | None = None

    def look(self) -> None:
        """Note the state if it is a new one."""
        path = self.targets.bundle / "manifest.json"
        stat = path.stat()
        if (stat.st_ino, stat.st_mtime_ns) != self._seen:
            manifest = json.loads(path.read_bytes())
            if not self.states or self.states[-1]["content"] != manifest["content"]:
                self.states.append(manifest)
            self._seen = stat.st_ino, stat.st_mtime_ns


@dataclass
class WritersWitness:
    """Looks at all targets between rounds. `broken` and `lost` are what should not have been found."""

    targets: Targets
    watch: BundleWatch
    upserted: set[int] = field(default_factory=set)
    refusals: Counter[str] = field(default_factory=Counter)

    def broken(self) -> Iterator[str]:
        """Targets that cannot be used."""
        try:
            Funnel(Bundle.open(self.targets.bundle))
            if self._packed() not in self._packs():
                yield "the packed data are of neither pack"
            self._open_run()
        except (CorankError, OSError) as error:
            yield repr(error)

    def _packed(self) -> str:
        return PackedDataset.open(self.targets.packed).manifest.fingerprint

    def _packs(self) -> list[str]:
        return [self.targets.fingerprint(variant) for variant in (0, 1)]

    def _open_run(self) -> None:
        """Raise CheckpointError unless the run is finished, can be resumed, or begins anew."""
        run = Run.open(self.targets.run)
        packed = run.packed()
        if run.finished:
            run.model(packed)
        elif run.has_state:
            if load(run.latest).facts["progress"]["epoch"]:
                load(run.best)
        elif exists(run.best):
            load(run.best)

    def lost(self, jobs: Sequence[Job]) -> Iterator[str]:
        """Acknowledged changes that are not there, and changes that came from nowhere."""
        self.upserted |= {job.number for job in jobs if job.command == "upsert" and job.acknowledged}
        yield from self._lost_bundles(jobs)
        try:
            yield from self._lost_folders(jobs)
            yield from self._lost_items(jobs)
        except (CorankError, OSError) as error:
            yield repr(error)

    def _lost_bundles(self, jobs: Sequence[Job]) -> Iterator[str]:
        writers = [job for job in jobs if job.command in ("export", "refresh")]
        states = self.watch.states
        pairs = [(state["model_version"], state["items_seq"]) for state in states]
        for (model, seq), (newer, next_seq) in pairwise(pairs):
            if next_seq != (seq + 1 if newer == model else 1):
                yield f"bundle: {newer} {next_seq} followed {model} {seq}"
        acknowledged = [change for job in writers if job.acknowledged for change in _written(job.said())]
        for pair in (Counter(acknowledged) - Counter(pairs[1:])).elements():
            yield f"bundle: {pair} was acknowledged, and never was"
        if len(pairs) - 1 > len(acknowledged) + sum(job.killed for job in writers):
            yield f"bundle: {len(pairs) - 1} changes by {len(acknowledged)} commands"
        self.watch.states = states[-1:]

    def _lost_folders(self, jobs: Sequence[Job]) -> Iterator[str]:
        """Packed data and runs that were acknowledged, and that no process that was killed can have replaced."""
        packs, trains = ([job for job in jobs if job.command == name] for name in ("pack", "train"))
        acknowledged = {self._packs()[job.variant] for job in packs if job.acknowledged}
        if acknowledged and self._packed() not in acknowledged and not any(job.killed for job in packs):
            yield "the packed data are none that were acknowledged"
        trained = any(job.acknowledged for job in trains) and not any(job.killed for job in trains)
        if trained and not Run.open(self.targets.run).finished:
            yield "a training was acknowledged, and the run is not finished"

    def _lost_items(self, jobs: Sequence[Job]) -> Iterator[str]:
        shutil.rmtree(self.targets.folder / "look", ignore_errors=True)
        with closing(open_store(self.targets.store)) as store:
            _, state = StoreState.read(store)
            live = state.require_live(store)
            funnel = Funnel(fetch_bundle(store, live, self.targets.folder / "look"))
            worth_by_id = worths(load_latest(store, live, funnel))
        for number in self.upserted:
            if worth_by_id.get(NEW_ITEM + number) != number:
                yield f"store: item {NEW_ITEM + number} was upserted, and is {worth_by_id.get(NEW_ITEM + number)}"
        publishers = [job for job in jobs if job.command == "publish"]
        acknowledged = {job.said().rpartition("live: ")[2].strip() for job in publishers if job.acknowledged}
        if acknowledged and live not in acknowledged and not any(job.killed for job in publishers):
            yield f"store: {live} is live; {', '.join(acknowledged)} went live"

    def unnamed(self, jobs: Sequence[Job]) -> Iterator[str]:
        """Refusals that do not name who holds the target, or what came between."""
        for job in jobs:
            if job.killed or job.acknowledged:
                continue
            lines = [line for line in job.said().splitlines() if line.strip()]
            message = lines[-1] if lines else ""
            if "Traceback" in job.said() or not message.startswith("error: ") or not NAMED.search(message):
                yield f"{job.command}: {job.said()}"
            self.refusals[f"{job.command}: {re.sub(r'[0-9a-f]{8,}|[0-9]+', '#', message)}"] += 1

    def wrong_run(self, reference: Run, resumed: Run) -> Iterator[str]:
        """A resumed run that has other weights than one that nobody disturbed."""
        packed = reference.packed()
        ours, theirs = (run.trained(packed).tensors for run in (resumed, reference))
        if ours.keys() != theirs.keys() or not all(torch.equal(ours[n], theirs[n]) for n in ours):
            yield "the resumed run has other weights than one that nobody disturbed"


def _written(said: str) -> list[tuple[str, int]]:
    """Model version and items_seq, as export and refresh print them."""
    matches = re.findall(r"model ([0-9a-f]{16})\s+items (\d+)", said)
    return [(model, int(seq)) for model, seq in matches]

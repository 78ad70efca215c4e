"""Expected content of a store whichever process was killed, by its own journal and by the confirmed writes.

The head names versions that are complete: every part as it was published, every record intact, of that version and
with its mark. The journal has every change, each upsert in full or not at all, and all confirmed ones. The
changed items of each version are those of the journal.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.robustness.store_work import AT_ONCE, UPSERTS, number_of
from corank.core.errors import StoreError
from corank.funnel.funnel import Funnel
from corank_serve.store.base import Store
from corank_serve.store.journal import Change, read_journal
from corank_serve.store.live_version import StoreState
from corank_serve.store.record_codec import RecordFormat
from corank_serve.store.upsert import changed_records
from corank_serve.store.version_parts import is_stored_part, read_chunks, read_stored_manifest


@dataclass
class Witness:
    """Expected content of a store, by its own journal and by confirmed writes."""

    store: Store
    bundles: dict[int, Path]
    confirmed: dict[int, int] = field(default_factory=dict)
    """By change, the number of an upsert."""
    folded: dict[str, tuple[int, dict[bytes, bytes]]] = field(default_factory=dict)
    """By version, up to a change, the records on top of it."""
    funnels: dict[int, Funnel] = field(default_factory=dict)

    def wrong(self) -> Iterator[str]:
        _, head = StoreState.read(self.store)
        try:
            changes = dict(read_journal(self.store, 0, head.seq + 2 * UPSERTS))
            yield from self._journal(head, changes)
            for version in head.versions:
                yield from self._version(head, version, changes)
        except (StoreError, KeyError) as error:
            yield repr(error)

    def _journal(self, head: StoreState, changes: dict[int, Change]) -> Iterator[str]:
        if sorted(changes) != list(range(head.journal_from, head.seq + 1)):
            yield f"the journal of changes {head.journal_from} to {head.seq} has {sorted(changes)}"
        live = None
        for seq, change in changes.items():
            if change.items and live is not None and change.version != live:
                yield f"change {seq} is of {change.version} while {live} is live"
            live = change.version
            marks = {row["worth"] for row in change.items}
            if change.items and (len(change.items) != AT_ONCE or len(marks) != 1):
                yield f"upsert {seq} is not whole"
            if len(change.records) not in (
                0,
                len(change.items),
            ):  # none: who put them in served another version
                yield f"upsert {seq} has {len(change.records)} records of {len(change.items)} items"
        if live != head.live:
            yield f"{head.live} is live, by the journal {live}"
        for seq, number in self.confirmed.items():
            if seq not in changes or [row["worth"] for row in changes[seq].items] != [number] * AT_ONCE:
                yield f"upsert {number} was confirmed as change {seq}, which is another"

    def _version(self, head: StoreState, version: str, changes: dict[int, Change]) -> Iterator[str]:
        manifest, _ = read_stored_manifest(self.store, version)
        form, number = RecordFormat.from_manifest(manifest), number_of(manifest.model_version)
        for part in filter(is_stored_part, manifest.files):
            for _ in read_chunks(self.store, version, part, manifest.files[part]):
                pass
        records = self._table(f"items/{version}")
        if not all(form.is_intact(*pair) for pair in records.items()):
            yield f"{version}: a record is not sound"
            return
        layer, funnel = form.decode(records), self._funnel(number)
        ids = funnel.request_encoder.items.layers[0].records.ids.values
        if layer.records.ids.values.to_list() != ids.to_list():
            yield f"{version}: has {len(records)} items of {len(ids)}"
        if (layer.records.columns["worth"] != number).any():
            yield f"{version}: has items of another version"
        if self._table(f"changed/{version}") != self._on_top(head, version, changes, funnel):
            yield f"{version}: what is on top of it is not what the journal tells"

    def _table(self, table: str) -> dict[bytes, bytes]:
        return {key: record for pairs in self.store.scan(table) for key, record in pairs}

    def _funnel(self, number: int) -> Funnel:
        if number not in self.funnels:
            self.funnels[number] = Funnel.open(self.bundles[number])
        return self.funnels[number]

    def _on_top(
        self, head: StoreState, version: str, changes: dict[int, Change], funnel: Funnel
    ) -> dict[bytes, bytes]:
        done, records = self.folded.get(version, (head.versions[version].base or 0, {}))
        until, _ = head.applied_until(version)
        for seq in range(done + 1, until + 1):
            if seq in changes:
                records = records | changed_records(funnel, version, changes[seq])
        self.folded[version] = until, records
        return records

    def wrong_seen(self, lines: list[dict[str, Any]]) -> Iterator[str]:
        """States that a reader saw but that never existed."""
        _, head = StoreState.read(self.store)
        changes = dict(read_journal(self.store, 0, head.seq))
        for line in lines:
            if "wrong" in line:
                yield f"the reader: {line['wrong']}"
            elif "seq" in line:
                worths: dict[str, float] = {}
                for seq in range(1, line["seq"] + 1):
                    if seq in changes:
                        worths |= {str(row["id"]): row["worth"] for row in changes[seq].items}
                if line["worths"] != worths:
                    yield f"the reader saw another state of {line['version']} after change {line['seq']}"

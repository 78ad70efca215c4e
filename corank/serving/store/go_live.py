"""Make a complete version of a store live, with all items that were upserted since its bundle was read."""

from collections.abc import Sequence

from corank.bundle.signatures import SigningKeys
from corank.core.errors import RequestError, StoreError
from corank.core.time import format_time, now_ms
from corank.core.types import Report
from corank.serving.funnel.funnel import Funnel
from corank.serving.store.base import Store
from corank.serving.store.live_version import Change, StoreState, VersionFacts, journal_entry, read_journal
from corank.serving.store.upsert import encode_records


def make_live(
    store: Store,
    version: str,
    funnel: Funnel,
    facts: VersionFacts,
    report: Report,
    damaged: Sequence[bytes] = (),
    sign: SigningKeys | None = None,
) -> int:
    """Swap the head to a complete version, with all changes of items applied.

    Args:
        store: the store.
        version: its name.
        funnel: of the version's bundle; it encodes items that came under another version.
        facts: of the version.
        report: receives what is applied, and what is missing.
        damaged: keys of damaged records among the version's changed items: they are removed, and come from the journal.
        sign: keys that sign what is live.

    Returns:
        The number of the change.

    Raises StoreError.
    """
    applied, items = 0 if damaged else facts.applied, 0
    records: dict[bytes, bytes] = {}
    while True:
        raw, state = StoreState.read(store)
        if facts.seq and version not in state.versions:
            raise StoreError(f"{store.address}: {version} was removed meanwhile; publish it again")
        for _, change in read_journal(store, max(applied, state.journal_from - 1), state.seq):
            changed = changed_records(funnel, version, facts, change, report)
            records |= changed
            items += len(changed)
        applied = state.seq
        after = state.with_live(version, facts)
        if sign is not None:
            after = after.with_statement(sign, state.statement)
        entries = {f"changed/{version}": list(records.items())}
        entries |= journal_entry(after.seq, Change(version, now_ms()))
        if store.swap(raw, after.to_bytes(), entries, {f"changed/{version}": damaged}):
            break
    if items:
        report(f"{items:,} items came since {version} was read: put on top")
    if not state.journal_covers(facts) and facts.applied < state.journal_from - 1:
        report(
            f"{version} was read at {format_time(facts.items_at)}, and items that came up to "
            f"{format_time(state.journal_at)} are in the journal no more: those that it lacks must be put in again"
        )
    return after.seq


def changed_records(
    funnel: Funnel, version: str, facts: VersionFacts, change: Change, report: Report = lambda line: None
) -> dict[bytes, bytes]:
    """Return, by key, the records that a change adds to a version or replaces in it."""
    if change.version == version:
        return dict(change.records)
    return _encode_again(funnel, change, report) if change.at >= facts.items_at else {}


def _encode_again(funnel: Funnel, change: Change, report: Report) -> dict[bytes, bytes]:
    """Encode items that came under another version; those that this one refuses are reported and left out."""
    known = {*funnel.request_encoder.item_columns, "id"}
    rows = [{name: value for name, value in row.items() if name in known} for row in change.items]
    try:
        return dict(encode_records(funnel, rows)) if rows else {}
    except RequestError:
        pairs: list[tuple[bytes, bytes]] = []
        for row in rows:
            try:
                pairs += encode_records(funnel, [row])
            except RequestError as error:
                report(f"item {row['id']!r} is left out: {error}")
        return dict(pairs)

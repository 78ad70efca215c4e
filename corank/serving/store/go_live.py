"""Make a complete version of a store live, with all items that were upserted since its table of items was read."""

from collections.abc import Iterable, Sequence
from typing import Any

from corank.bundle.signatures import SigningKeys
from corank.core.errors import RequestError, StoreError
from corank.core.types import Report
from corank.serving.funnel.funnel import Funnel
from corank.serving.store.base import Pairs, Store, store_time
from corank.serving.store.changes.journal import Change, local_operator, read_journal, record_change
from corank.serving.store.changes.merged_items import MergedItems, find_base, list_merged
from corank.serving.store.claims import check_claim
from corank.serving.store.live_version import StoreState, VersionFacts
from corank.serving.store.upsert import count_new, encode_records


def make_live(
    store: Store,
    version: str,
    funnel: Funnel,
    facts: VersionFacts,
    claim: str,
    what: str,
    report: Report,
    damaged: Sequence[bytes] | None = None,
    sign: SigningKeys | None = None,
) -> MergedItems:
    """Swap the head to a complete version, with all changes of items applied.

    Args:
        store: the store.
        version: its name.
        funnel: of the version's bundle; it encodes items that came under another version.
        facts: of the version; `seq` is 0 if it is new.
        claim: token of the claim of the version, which ends.
        what: is done, for the log: `publish` or `roll back`.
        report: receives what became of items that were upserted before.
        damaged: keys of damaged records among the version's changed items: they are removed, and all changed items
            come from the journal again; None if none is damaged or missing.
        sign: keys that sign what is live.

    Returns:
        What became of the items that were upserted before.

    Raises StoreError.
    """
    _, state = StoreState.read(store)
    if not facts.seq:
        facts = facts.model_copy(
            update={"base": find_base(store, state, funnel.manifest.items_as_of, report)}
        )
    first = applied = facts.applied if facts.seq and damaged is None else facts.base or 0
    records: dict[bytes, bytes] = {}
    while True:
        raw, state = StoreState.read(store)
        check_claim(store, state, version, claim)
        if facts.seq and version not in state.versions:
            raise StoreError(f"{store.address}: {version} was removed meanwhile; publish it again")
        for _, change in read_journal(store, max(applied, state.journal_from - 1), state.seq):
            records |= changed_records(funnel, version, change, report)
        applied = state.seq
        if _swap(store, raw, state, version, facts, what, records, damaged or (), sign):
            break
    if first < state.journal_from - 1:
        report(
            f"items that came by the changes {first + 1:,} to {state.journal_from - 1:,} are in the journal no more: "
            f"those that {version} lacks must be put in again"
        )
    merged = list_merged(store, state, version, funnel, facts, records)
    for line in merged.lines():
        report(line)
    return merged


def _swap(
    store: Store,
    raw: bytes | None,
    state: StoreState,
    version: str,
    facts: VersionFacts,
    what: str,
    records: dict[bytes, bytes],
    damaged: Sequence[bytes],
    sign: SigningKeys | None,
) -> bool:
    """Swap the head, if it has not changed."""
    table = f"changed/{version}"
    now = {"changed": store.count(table) + count_new(store, table, records, damaged)}
    if not facts.seq:
        # what the journal has no more is not on top, whatever the table contains
        now["base"] = max(facts.base or 0, state.journal_from - 1)
    change = Change(version, store_time(store), before=state.id)
    live = facts.model_copy(update=now)
    after = state.without_claim(version).with_live(version, live).with_change(change.id)
    if sign is not None:
        after = after.with_statement(sign, state.statement)
    changes = record_change(after.seq, change, what, local_operator())
    entries: dict[str, Pairs] = {table: [*records.items()]} | changes
    return store.swap(raw, after.to_bytes(), entries, {table: damaged})


def changed_records(
    funnel: Funnel, version: str, change: Change, report: Report = lambda line: None
) -> dict[bytes, bytes]:
    """Return, by key, the records that a change adds to a version or replaces in it."""
    return dict(change.records) if change.version == version else _encode_again(funnel, change, report)


def _encode_again(funnel: Funnel, change: Change, report: Report) -> dict[bytes, bytes]:
    """Encode items that came under another version; those that this one refuses are reported and left out."""
    known = {*funnel.request_encoder.item_columns, "id"}
    rows = [{name: value for name, value in row.items() if name in known} for row in change.items]
    try:
        return dict(encode_records(funnel, rows)) if rows else {}
    except RequestError:
        return dict(pair for row in rows for pair in _encode_alone(funnel, row, report))


def _encode_alone(funnel: Funnel, row: dict[str, Any], report: Report) -> Iterable[tuple[bytes, bytes]]:
    """Encode one item; none if it is refused, which is reported."""
    try:
        return encode_records(funnel, [row])
    except RequestError as error:
        report(f"item {row.get('id')!r} is left out: {error}")
        return []

"""Enter a complete version into a store's head, live or staged, with all items that came since its table was read."""

from collections.abc import Iterable, Sequence
from typing import Any

from corank.bundle.signatures import SigningKeys
from corank.core.errors import RequestError, StoreError
from corank.core.types import Report
from corank.serving.funnel.funnel import Funnel
from corank.serving.store.base import Pairs, Store
from corank.serving.store.changes.journal import (
    Change,
    LoggedChange,
    local_operator,
    log_entry,
    read_journal,
    record_change,
)
from corank.serving.store.changes.merged_items import MergedItems, find_base, list_merged
from corank.serving.store.claims import check_claim
from corank.serving.store.live_version import StoreState, VersionFacts
from corank.serving.store.store_clock import store_time
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
    stage: bool = False,
) -> MergedItems:
    """Swap the head to a complete version, with all changes of items applied.

    Args:
        store: the store.
        version: its name.
        funnel: of the version's bundle; it encodes items that came under another version.
        facts: of the version.
        claim: token of the claim of the version, which ends.
        what: is done, for the log: `publish`, `stage`, `promote` or `roll back`.
        report: receives what became of items that were upserted before.
        damaged: keys of damaged records among the version's changed items: they are removed, and all changed items
            come from the journal again; None if none is damaged or missing.
        sign: keys that sign what is live.
        stage: whether what is live stays so; the version can be promoted later.

    Returns:
        What became of the items that were upserted before.

    Raises StoreError.
    """
    _, state = StoreState.read(store)
    if new := version not in state.versions:
        facts = facts.model_copy(
            update={"base": find_base(store, state, funnel.manifest.items_as_of, report)}
        )
    first = applied = facts.applied if not new and damaged is None else facts.base or 0
    records: dict[bytes, bytes] = {}
    while True:
        raw, state = StoreState.read(store)
        check_claim(store, state, version, claim)
        if not new and version not in state.versions:
            raise StoreError(f"{store.address}: {version} was removed meanwhile; publish it again")
        for _, change in read_journal(store, max(applied, state.journal_from - 1), state.seq):
            records |= changed_records(funnel, version, change, report)
        applied = state.seq
        entered = _enter(store, state, version, facts, records, damaged or (), new)
        if _swap(store, raw, state, version, entered, what, records, damaged or (), sign, stage):
            break
    if first < state.journal_from - 1:
        report(
            f"items that came by the changes {first + 1:,} to {state.journal_from - 1:,} are in the journal no more: "
            f"those that {version} lacks must be put in again"
        )
    merged = list_merged(store, state, version, funnel, facts, records, new)
    for line in merged.lines():
        report(line)
    return merged


def _enter(
    store: Store,
    state: StoreState,
    version: str,
    facts: VersionFacts,
    records: dict[bytes, bytes],
    damaged: Sequence[bytes],
    new: bool,
) -> VersionFacts:
    """The facts of a version with the records that come on top of it."""
    table = f"changed/{version}"
    now = {"changed": store.count(table) + count_new(store, table, records, damaged)}
    if new:
        # what the journal has no more is not on top, whatever the table contains
        now["base"] = max(facts.base, state.journal_from - 1)
    return facts.model_copy(update=now)


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
    stage: bool,
) -> bool:
    """Swap the head, if it has not changed."""
    now, by, after = store_time(store), local_operator(), state.without_claim(version)
    if stage:
        line = LoggedChange(what, by, now, state.seq, state.id, state.id, state.live or "", beside=version)
        after, logged = after.with_complete(version, facts), log_entry(line)
    else:
        change = Change(version=version, at=now, before=state.id)
        after = after.with_live(version, facts).with_change(change.id)
        if what == "roll back" and state.live is not None:
            after = after.with_withdrawn(state.live)
        if sign is not None:
            after = after.with_statement(sign, state.statement)
        logged = record_change(after.seq, change, what, by)
    table = f"changed/{version}"
    entries: dict[str, Pairs] = {table: [*records.items()]} | logged
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

"""The versions of a store: list them, promote one, roll back to an older one, prune those that are not needed."""

import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from corank.bundle.manifest import signed_content
from corank.bundle.signatures import SigningKeys, is_content_name
from corank.core.errors import BusyError, CorankError, StoreError
from corank.core.reports import Report
from corank.funnel.funnel import Funnel
from corank_serve.store.base import Store
from corank_serve.store.claims import LEASES, claim_version, read_leases
from corank_serve.store.fetch import fetch_bundle
from corank_serve.store.journal import JOURNAL, LOG, journal_key, old_log_keys, record_unchanged
from corank_serve.store.live_version import StoreState, VersionFacts
from corank_serve.store.publish import make_live
from corank_serve.store.version_parts import read_stored_manifest


@dataclass(frozen=True)
class StoredVersion:
    """A version in a store, complete or not."""

    version: str
    live: bool
    facts: VersionFacts | None
    """None if it was never written completely."""
    records: int
    """Number of records of the bundle's items."""
    changed: int
    """Number of records of items that were added or changed since."""
    unreadable: str | None
    """Why this release of corank cannot read it, though it is complete; None if it can."""


def list_versions(store: Store) -> list[StoredVersion]:
    """List all versions in the order of publishing, incomplete ones last. Raises StoreError."""
    _, state = StoreState.read(store)
    names = list(state.versions) + [name for name in _find_names(store) if name not in state.versions]
    return [
        StoredVersion(
            name,
            name == state.live,
            state.versions.get(name),
            store.count(f"items/{name}"),
            store.count(f"changed/{name}"),
            _why_unreadable(store, name) if name in state.versions else None,
        )
        for name in names
    ]


def _why_unreadable(store: Store, version: str) -> str | None:
    """Why the manifest of a version cannot be read, such as one of another format; None if it can."""
    try:
        read_stored_manifest(store, version)
    except CorankError as error:
        return str(error)
    return None


def _find_names(store: Store) -> list[str]:
    """The versions that the store has any table of."""
    tables = (table.partition("/") for table in store.tables())
    return sorted({name for kind, _, name in tables if kind in ("parts", "items", "changed")})


def roll_back_store(
    store: Store,
    version: str | None = None,
    report: Report = lambda line: None,
    sign: SigningKeys | None = None,
) -> str:
    """Make an older version live again, with all items that were upserted since.

    All that went live after it is withdrawn.

    Args:
        store: the store.
        version: its name; the version that was live before and is not withdrawn if None.
        report: receives what is passed over and applied.
        sign: keys that sign that the version is live; one of them must have signed the version.

    Returns:
        The name of the version.

    Raises StoreError, TrustError.
    """
    _, state = StoreState.read(store)
    if version is None:
        version = _find_before(store, state, report)
    _switch_to(store, version, "store rollback", "roll back", report, sign)
    return version


def _find_before(store: Store, state: StoreState, report: Report) -> str:
    """The version that was live before and is not withdrawn; those that are passed over are reported.

    Raises StoreError if there is none.
    """
    order = _list_former(state)
    before = next((name for name in order if not state.versions[name].withdrawn), None)
    passed = order if before is None else order[: order.index(before)]
    over = f"{', '.join(passed)}: withdrawn or rolled back before; `--to VERSION` insists"
    if before is None:
        raise StoreError(
            f"{store.address}: there is no older version to go back to" + (f" but {over}" if passed else "")
        )
    if passed:
        report(f"passed over {over}")
    return before


def _list_former(state: StoreState) -> list[str]:
    """The versions that were live before, the last one first."""
    were_live = [name for name, facts in state.versions.items() if facts.seq and name != state.live]
    return sorted(were_live, key=lambda name: -state.versions[name].seq)


def promote_version(
    store: Store, version: str, report: Report = lambda line: None, sign: SigningKeys | None = None
) -> None:
    """Make a complete version live, such as a staged one, with all items that were upserted since it was staged.

    Args:
        store: the store.
        version: its name.
        report: receives what is applied.
        sign: keys that sign that the version is live; one of them must have signed the version.

    Raises StoreError, TrustError.
    """
    _switch_to(store, version, "store promote", "promote", report, sign)


def withdraw_version(store: Store, version: str) -> None:
    """Let services that are pinned to a version serve what is live, until it is staged, promoted or published again.

    Raises StoreError if it is not there, or live.
    """
    while True:
        raw, state = StoreState.read(store)
        state.require_version(store, version)
        if version == state.live:
            raise StoreError(
                f"{store.address}: {version} is live; `corank store rollback` goes back to the one before"
            )
        if state.versions[version].withdrawn:
            return
        logged = record_unchanged(store, state, "withdraw", beside=version)
        if store.swap(raw, state.with_withdrawn(version).to_bytes(), logged):
            return


def _switch_to(
    store: Store, version: str, command: str, what: str, report: Report, sign: SigningKeys | None
) -> None:
    """Make a complete version live; one that is live already is signed anew, as after a store was restored.

    Raises StoreError if it is not there, or is live already and keys are missing; TrustError.
    """
    _, state = StoreState.read(store)
    state.require_version(store, version)
    if version == state.live and sign is None:
        raise StoreError(f"{store.address}: {version} is live already")
    with (
        claim_version(store, version, command, report) as claim,
        tempfile.TemporaryDirectory(prefix="corank-") as folder,
    ):
        facts = StoreState.read(store)[1].require_version(store, version)
        trust = sign.public() if sign is not None else None
        bundle = fetch_bundle(store, version, Path(folder), trust=trust)
        if sign is not None:
            content = signed_content(read_stored_manifest(store, version, trust)[1])
            signatures = sign.add(content, facts.signatures)
            facts = facts.model_copy(update={"signatures": signatures})
        make_live(store, version, Funnel(bundle), facts, claim, what, report, sign=sign)


def remove_versions(store: Store, keep: int = 1, report: Report = lambda line: None) -> list[str]:
    """Remove all versions but the live one, the `keep` that were live last before it, and those that are to come.

    What was withdrawn or rolled back is not among the `keep`. To come are versions that were staged after the live one
    was first published, and not withdrawn since; they are reported, as is what a service is pinned to, which stays,
    too. Incomplete versions are removed if nobody is writing them, and journal entries once every version contains
    them.

    Returns:
        The names of the removed versions.

    Raises StoreError.
    """
    _, state = StoreState.read(store)
    state.require_live(store)
    names = {*state.versions, *state.claims, *_find_names(store)} - _find_needed(state, keep)
    leases, _ = read_leases(store)
    for name in _find_to_come(state):
        report(f"{name} stays: it was staged after the live version; promote or withdraw it")
    for name in sorted(names & leases.keys()):
        report(f"{name} stays: {leases[name].describe()}")
    with ExitStack() as claims:
        claimed = {n for n in sorted(names - leases.keys()) if _try_claim(claims, store, n, report)}
        # from now on nobody else can make these live, or write them
        _, state = StoreState.read(store)
        needed = _find_needed(state, keep) | read_leases(store)[0].keys()
        removed = sorted(claimed & {*state.versions, *_find_names(store)} - needed)
        _remove_from_head(store, removed)
        for name in removed:
            for kind in ("items", "changed", "parts"):
                store.drop(f"{kind}/{name}")
            report(f"removed {name}")
    return removed


def _find_needed(state: StoreState, keep: int) -> set[str]:
    """The live version, those that a roll-back may go to next, and those that are to come."""
    order = [name for name in _list_former(state) if not state.versions[name].withdrawn]
    return {*order[:keep], *_find_to_come(state), *([] if state.live is None else [state.live])}


def _find_to_come(state: StoreState) -> list[str]:
    """The versions that were staged after the live one was published, but those that were withdrawn."""
    published = list(state.versions)
    since = published.index(state.live) if state.live is not None else -1
    return [n for n in published[since + 1 :] if not (state.versions[n].seq or state.versions[n].withdrawn)]


def _try_claim(claims: ExitStack, store: Store, name: str, report: Report) -> bool:
    """Claim a version, unless another process is at work on it, which is reported."""
    try:
        if is_content_name(name):
            claims.enter_context(claim_version(store, name, "store prune", wait=False))
    except BusyError as error:
        report(f"{name} stays: {error}")
        return False
    return True


def _remove_from_head(store: Store, names: list[str]) -> None:
    """Remove versions from the head, and what the journal and the log need no more; log it."""
    while True:
        raw, state = StoreState.read(store)
        after = _trim(state, {name: facts for name, facts in state.versions.items() if name not in names})
        keys = [journal_key(seq) for seq in range(state.journal_from, after.journal_from)]
        logged = record_unchanged(store, state, "prune", removed=names) if names or keys else {}
        old = {JOURNAL: keys, LOG: old_log_keys(store, state.seq), LEASES: read_leases(store)[1]}
        if (after == state and not names) or store.swap(raw, after.to_bytes(), logged, old):
            return


def _trim(state: StoreState, versions: dict[str, VersionFacts]) -> StoreState:
    """The state with some versions only, and the journal from the first change that these or later ones may need.

    A version needs the changes since it was live last, to be live again. A version that is yet to come needs those that
    its table may lack: it is taken to be no older than the newest table whose as-of is known.
    """
    applied = [state.applied_until(name)[0] for name in versions]
    gone = min([max(facts.base for facts in versions.values()), *applied])
    return state.model_copy(update={"versions": versions, "journal_from": max(state.journal_from, gone + 1)})

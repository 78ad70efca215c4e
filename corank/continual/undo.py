"""A period that went live undone, and whether the store serves what the history takes as live."""

import shutil
from collections.abc import Iterable
from pathlib import Path

from corank.continual.history import DailyHistory, find_live
from corank.continual.periods import Period
from corank.continual.setup import BUNDLE, RUN, DailySetup
from corank.continual.steps import PeriodSteps
from corank.core.errors import DataError, StoreError
from corank.serving.store.base import hide_password
from corank.serving.store.live_version import StoreState


def undo_period(setup: DailySetup, history: DailyHistory, name: str) -> None:
    """Go back to the live run before a period: in the store, if that serves what is undone, then in the history.

    Later periods are forgotten, and due again; the rows of this one train no model. If a call is killed in between,
    the next one does the rest.

    Args:
        setup: of the daily funnel.
        history: which is written.
        name: of the period.

    Raises DataError if the period did not go live, or there is nothing to go back to; StoreError.
    """
    records = history.without(name)
    live = find_live(records)
    assert live is not None
    packed = setup.packed_of(live.period)
    if packed is None or not packed.exists() or not (setup.of(live.period) / RUN).exists():
        raise DataError(
            f"{setup.of(live.period)}: the run of {live.period}, to which one would go back, is gone; `keep` of the "
            "settings says how many periods stay"
        )
    # those that are decided no more, and one that a killed call left
    known = {record.period for record in records}
    later = [folder for folder in setup.of(name).parent.iterdir() if folder.name not in known]
    undone = {record.model for record in records if record.decision == "undone"} | _exported_models(later)
    state = setup.read_store()
    if state is not None and _served_model(state) in undone:
        _roll_back(setup, state, live.period, live.version)
    history.write(records)
    for folder in later:
        shutil.rmtree(folder)
    setup.report(f"{name}: undone; {live.period} is live again")


def _roll_back(setup: DailySetup, state: StoreState, period: str, version: str | None) -> None:
    """Let the store serve the version of a period. Raises StoreError if it has it no more."""
    from corank.api.versions import roll_back  # which loads ONNX Runtime

    assert setup.store is not None
    if version not in state.versions:
        raise StoreError(
            f"{hide_password(setup.store)}: has no version of {period} any more; publish {setup.of(period) / BUNDLE}, "
            "then try again"
        )
    roll_back(setup.store, version, setup.report)


def check_store(setup: DailySetup, history: DailyHistory, due: Iterable[Period]) -> None:
    """Check that the store serves the model of the history's live run, which the next period continues.

    A model that is of no period is reported: it was published by hand, and the next period replaces it.

    Args:
        setup: of the daily funnel.
        history: of it.
        due: periods, of which one may have been published by a call that was killed before it wrote the history.

    Raises StoreError if it serves that of another period, as after `corank store rollback`.
    """
    live = history.live
    state = None if live is None or live.version is None else setup.read_store()
    if live is None or state is None:
        return
    served, store = _served_model(state), hide_password(str(setup.store))
    if served in {live.model, *_exported_models(setup.of(period.name) for period in due)}:
        return
    were_live = (record for record in history.records if record.decision in ("live", "undone"))
    which = next((record for record in were_live if record.model == served), None)
    if served is None or which is None:
        what = "no version is live" if served is None else f"serves model {served}, which is of no period"
        setup.report(f"{store}: {what}; candidates go on from {live.period} and are compared with it")
        return
    later = (r for r in history.records if r.begin > which.begin and r.decision == "live")
    undo = which if which.decision == "undone" else next(later)
    raise StoreError(
        f"{store}: serves the model of {which.period}, and {live.period} is live in {history.path}; "
        f"`--undo {undo.period}` goes back in both, or make {live.period} live again by "
        f"`corank store promote {store} {live.version}`"
    )


def _exported_models(folders: Iterable[Path]) -> set[str]:
    """The model versions that were exported in folders of periods."""
    steps = map(PeriodSteps, folders)
    return {one.find("export")["model"] for one in steps if one.is_done("export")}


def _served_model(state: StoreState) -> str | None:
    """The model version that a store serves; None if nothing is live."""
    return None if state.live is None else state.versions[state.live].model_version

"""One period from its tables to a live version: validated, judged, trained, compared, gated, verified, published."""

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from corank.analysis.html import write_page
from corank.analysis.verification import LoggedLoss, verify_bundle
from corank.api.config_source import OpenedConfig, to_yaml
from corank.api.evaluating import compare, evaluate
from corank.api.results import ComparisonResult
from corank.api.runs import pack
from corank.api.training import train
from corank.bundle.manifest import load_manifest
from corank.core.files import write_text
from corank.core.time import MILLISECOND
from corank.data.packed.dataset import PackedDataset
from corank.data.packed.inputs import find_versions, hash_versions
from corank.data.packing.packs import mark_continued
from corank.evaluation.rows import name_row, named_values
from corank.funnel.funnel import Funnel
from corank.training.drift.drift import measure_drift
from corank.training.export import export_bundle
from corank.training.run import Run
from corank_continual.periods.history import LEFT_OUT, Decision, PeriodRecord, find_live
from corank_continual.periods.settings import Period
from corank_continual.periods.setup import BUNDLE, PACKED, RUN, DailySetup, PeriodSteps
from corank_serve.api.stores import prune, publish


def _as_change(split: Mapping[str, str]) -> str:
    """A split as a change of the config."""
    parts = ", ".join(f'{name}: "{bounds}"' for name, bounds in split.items())
    return f"data.split={{{parts}}}"


@dataclass(frozen=True)
class PeriodTraining:
    """The training of one period, from the live run's state."""

    setup: DailySetup
    period: Period
    records: Sequence[PeriodRecord]
    """Of the periods before."""
    accepted: bool = False
    """Whether the tables are used even if validation refuses them."""

    @cached_property
    def live(self) -> PeriodRecord | None:
        """The record of the live run; None for the first period."""
        return find_live(self.records)

    @cached_property
    def since(self) -> int | None:
        """Where its training rows begin, ms UTC: where those of the live run ended, or a period left out; None: all."""
        if self.live is None:
            return None
        left_out = (r.end for r in self.records if r.decision in LEFT_OUT and r.end <= self.period.begin)
        return max([self.live.until or 0, *left_out])

    def run(self) -> PeriodRecord:
        """Do the steps that are left. Returns what is decided. Raises CorankError for a mistake of the user."""
        steps = PeriodSteps(self.folder)
        if not self.is_published:
            steps.begin(self._facts())
        fields: dict[str, Any] = {}
        decision, reasons = self._decide(steps, fields)
        compared = (steps.find("compare") or {}).get("document")
        if compared is not None:  # drawn when the candidate serves already: plots take seconds
            steps.do("page", lambda: self._write_page(compared))
        return PeriodRecord(
            period=self.period.name,
            begin=self.period.begin,
            end=self.period.end,
            decision=decision,
            reasons=reasons,
            since=self.since,
            until=self.period.end - self.setup.settings.holdout // MILLISECOND,
            seconds=steps.seconds,
            **fields,
        )

    @cached_property
    def is_published(self) -> bool:
        """Whether its version is live in the store, but a call was killed before it wrote the history.

        Then the period is decided, whatever changed since: its record states the published version.
        """
        if PeriodSteps(self.folder).find("verify") is None:
            return False
        state = self.setup.read_store()
        return state is not None and state.live == load_manifest(self.folder / BUNDLE).content

    def _facts(self) -> dict[str, Any]:
        """The inputs of the steps: if they change, as when tables are fixed, the steps are done again."""
        opened = self.setup.opened
        data, features = opened.settings.data, opened.settings.declared.features
        return {
            "config": to_yaml(opened.settings),
            "files": hash_versions(find_versions(data, features, opened.base)),
            "live": None if self.live is None else self.live.period,
            "changes": self._changes(),
        }

    def _decide(self, steps: PeriodSteps, fields: dict[str, Any]) -> tuple[Decision, list[str]]:
        """Do the steps until one of them refuses, and gather what they find."""
        report = self.setup.report
        if self.accepted and not self.is_published:  # recorded: a later call accepts them, too
            steps.do("accept", dict)
        if self.live is not None and steps.find("accept") is None:
            validated = steps.do("validate", self._validate)
            fields["drift"] = validated["drift"]
            if validated["reasons"]:
                return "refused by validation", validated["reasons"]
        report(f"{self.period.name}: packing")
        packed = steps.do("pack", self._pack)
        fields["rows"] = packed["rows"]
        if self.live is not None:
            report(f"{self.period.name}: judging the live run, of {self.live.period}")
            fields["live"] = steps.do("progress", lambda: self._judge_live(packed["location"]))
        report(f"{self.period.name}: training")
        steps.do("train", self._train)
        compared = steps.do("compare", lambda: self._compare(packed["location"]))
        fields |= {"candidate": compared["candidate"], "reference": compared["live"] or {}}
        if not self.is_published and (refused := self._refusals(compared)):
            return "refused by the gate", refused
        fields["model"] = steps.do("export", self._export)["model"]
        verified = steps.do("verify", self._verify)
        if verified["reasons"]:
            return "refused by verification", verified["reasons"]
        if self.setup.settings.store is not None:
            fields["version"] = steps.do("publish", self._publish)["version"]
        return "live", []

    @property
    def folder(self) -> Path:
        """Of the period."""
        return self.setup.of(self.period.name)

    @property
    def live_run(self) -> Path:
        """The folder of the live run."""
        assert self.live is not None
        return self.setup.of(self.live.period) / RUN

    @property
    def overrides(self) -> list[str]:
        """Changes of the config: those of the settings, the split of the period, and where it is packed."""
        return [*self._changes(), f"packed={(self.folder / PACKED).absolute()}"]

    def _changes(self) -> list[str]:
        """Changes of the settings, and the split of the period."""
        settings = self.setup.settings
        split = self.period.split(self.since, settings.holdout, settings.wait)
        return [*([] if self.live is None else settings.changes), _as_change(split)]

    def _validate(self) -> dict[str, Any]:
        """Compare the period's tables, the holdout's rows among them, with what the live run was trained on."""
        split = {"train": self.period.as_range()} | self.period.trained(self.setup.settings.wait)
        opened = OpenedConfig.open(self.setup.config, [*self.setup.settings.changes, _as_change(split)])
        validation = measure_drift(opened.settings, opened.base, Run.open(self.live_run), self._open_packed)
        write_text(self.folder / "validation.report.json", validation.to_json())
        return {"reasons": validation.refusals, "drift": validation.drift}

    def _pack(self) -> dict[str, Any]:
        """Pack the period. Returns where, relative to the period's folder, and candidates by split."""
        packed = self._open_packed()
        mark_continued(str(packed.location))  # the next period will, and the log grows while this one trains
        rows = {name: sum(s.candidates for s in shards) for name, shards in packed.manifest.splits.items()}
        return {"location": os.path.relpath(str(packed.location), self.folder), "rows": rows}

    def _open_packed(self) -> PackedDataset:
        """Pack the period from the live run's state, unless that is done."""
        before = None if self.live is None else self.live_run
        return pack(self.setup.config, self.overrides, self.setup.report, continue_from=before).packed

    def _judge_live(self, packed: str) -> dict[str, float]:
        """Figures of the live run on the new training rows."""
        return named_values(
            evaluate(self.live_run, "train", bootstrap=False, on=self.folder / packed)["rows"]
        )

    def _train(self) -> dict[str, Any]:
        before = None if self.live is None else self.live_run
        result = train(
            self.setup.config,
            [*self.overrides, "baseline=false"],
            resume=True,
            folder=self.folder / RUN,
            report=self.setup.report,
            continue_from=before,
        )
        return {"epoch": result.epoch}

    def _compare(self, packed: str) -> dict[str, Any]:
        """Figures of the candidate, and of the live run if there is one, on the second half of the holdout."""
        run = self.folder / RUN
        if self.live is None:
            alone = evaluate(run, split="test")
            figures = {"candidate": named_values(alone["rows"]), "reasons": alone.get("reasons", {})}
            return figures | {"live": None, "document": None}
        document = compare(run, self.live_run, split="test", on=self.folder / packed).document
        candidate, live = ({name_row(row): row[side] for row in document["rows"]} for side in "ab")
        reasons = document.get("reasons", {})
        return {"candidate": candidate, "live": live, "reasons": reasons, "document": document}

    def _write_page(self, document: dict[str, Any]) -> dict[str, Any]:
        """Write the page of the comparison. Raises CorankError."""
        write_page(ComparisonResult(document).view(), self.folder / "comparison.html")
        return {}

    def _refusals(self, compared: Mapping[str, Any]) -> list[str]:
        """The conditions of the gate that do not hold."""
        earlier = [record.candidate for record in self.records if record.decision == "live"]
        gate = self.setup.settings.gate
        reasons = compared.get("reasons", {})  # which a period that an earlier release began lacks
        checked = [c.check(compared["candidate"], compared["live"], earlier, reasons) for c in gate]
        for one in checked:
            self.setup.report(f"gate: {one.describe()}: {'met' if one.met else 'NOT met'}")
        return [one.describe() for one in checked if not one.met]

    def _export(self) -> dict[str, Any]:
        """Export the candidate as if the log ended with the period, even if later ones are due or exist, too."""
        # what a killed call exported was not published; a bundle counts how often it was exported
        shutil.rmtree(self.folder / BUNDLE, ignore_errors=True)
        run = Run.open(self.folder / RUN)
        packed = run.packed()
        model, calibrators, weights = run.networks(packed)
        until = self.period.end - 1
        bundle = export_bundle(
            self.folder / BUNDLE,
            run.config,
            packed,
            model,
            calibrators,
            items_as_of=self.setup.items_as_of,
            weights=weights,
            until=until,
            later=True,
            measure=LoggedLoss(run, packed),
            templates=run.templates,
        )
        return {"model": bundle.manifest.model_version}

    def _verify(self) -> dict[str, Any]:
        run = Run.open(self.folder / RUN)
        verified = verify_bundle(run, Funnel.open(self.folder / BUNDLE), self.setup.settings.verify)
        return {"rows": verified.rows, "reasons": [f"verification: {line}" for line in verified.reasons]}

    def _publish(self) -> dict[str, Any]:
        setup = self.setup
        assert setup.store is not None
        users = None if setup.settings.users is None else str(setup.base / setup.settings.users)
        version = publish(self.folder / BUNDLE, setup.store, users, setup.report).version
        prune(setup.store, setup.settings.keep, setup.report)
        return {"version": version}

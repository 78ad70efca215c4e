"""The results of `explain`, `study`, `sweep` and `tune`."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import polars as pl

from corank.api.results.document_result import PlottedResult, frame
from corank.core.extras import name_missing_extra

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN_FEATURES = 20
_BOUNDED = {"value": pl.Float64, "low": pl.Float64, "high": pl.Float64}


@dataclass(frozen=True, eq=False, repr=False)
class ExplanationResult(PlottedResult):
    """The worth of each feature of a run to each stage, and its online latency.

    Example:
        >>> corank.explain("shop/runs/shop", most=50).tables["features"].columns[:5]
        ['feature', 'side', 'kind', 'stage', 'metric']
    """

    @property
    def headline(self) -> str:
        """Split and candidates."""
        document = self.document
        return f"{document['split']}: what AUC and GAUC lose without a feature, {document['candidates']:,} candidates"

    @property
    def tables(self) -> dict[str, pl.DataFrame]:
        """`features`: a row a feature, stage and metric; `latency`: microseconds of a request, a row a feature."""
        features = self.document["features"]
        latency = [{"feature": name, **feature["microseconds"]} for name, feature in features.items()]
        texts = dict.fromkeys(("feature", "side", "kind", "stage", "metric"), pl.String)
        return {
            "features": frame(list(self._rows()), {**texts, **_BOUNDED}),
            "latency": pl.DataFrame(latency, infer_schema_length=None),
        }

    def plot(self, metric: str = "auc") -> "Figure":
        """Draw what a metric loses without each of the features that are worth most to the last stage."""
        with name_missing_extra("plot()"):
            from corank.api.results.figures import draw_bounded

        panels: dict[str, dict[str, Any]] = {}
        for row in self._rows():
            if row["metric"] == metric and row["value"] is not None:
                panels.setdefault(row["stage"], {})[row["feature"]] = (row["value"], row["low"], row["high"])
        last = panels.get(list(self.document["stages"])[-1], {})
        worth = sorted(last, key=lambda name: -last[name][0])[:SHOWN_FEATURES]
        shown = {s: {name: rows[name] for name in worth if name in rows} for s, rows in panels.items()}
        return draw_bounded(shown, from_zero=True)

    def _rows(self) -> Iterator[dict[str, Any]]:
        for name, feature in self.document["features"].items():
            for stage, metrics in feature["stages"].items():
                for metric, drop in metrics.items():
                    low, high = drop["interval"] or (None, None)
                    key = {"feature": name, "side": feature["side"], "kind": feature["kind"]}
                    yield {**key, "stage": stage, "metric": metric, "value": drop["value"]} | {
                        "low": low,
                        "high": high,
                    }


@dataclass(frozen=True, eq=False, repr=False)
class StudyResult(PlottedResult):
    """Nine questions about joint training, answered on a log by training variants of a config.

    Example:
        >>> study = corank.study("shop/config.yaml", seeds=1, questions=[1], rates=[1])
        >>> study.tables["differences"].columns
        ['question', 'arm', 'metric', 'value', 'low', 'high']
    """

    @property
    def headline(self) -> str:
        """Trainings, seeds and requests."""
        document = self.document
        trials = f"{document['trials']} trials, {document['seeds']} seeds an arm"
        return f"{document['name']}: {trials}, {document['requests']:,} requests"

    @property
    def tables(self) -> dict[str, pl.DataFrame]:
        """`verdicts`: a row a sentence; `differences`: each variant less the config as written, with intervals."""
        texts = dict.fromkeys(("question", "arm", "metric"), pl.String)
        verdicts = [
            {"question": number, "title": question["title"], "verdict": line}
            for number, question in self.document["questions"].items()
            for line in question["verdict"]
        ]
        return {
            "verdicts": frame(verdicts, dict.fromkeys(("question", "title", "verdict"), pl.String)),
            "differences": frame(list(self._rows()), {**texts, **_BOUNDED}),
        }

    def plot(self, question: int | str | None = None) -> "Figure":
        """Draw what each variant gains or loses by the end-to-end figure.

        Args:
            question: its number; the first that compares variants unless given.
        """
        with name_missing_extra("plot()"):
            from corank.api.results.figures import draw_bounded

        end = [row for row in self._rows() if row["metric"] == self.document["end"]]
        number = str(question) if question is not None else next((row["question"] for row in end), "1")
        arms = {r["arm"]: (r["value"], r["low"], r["high"]) for r in end if r["question"] == number}
        return draw_bounded({self.document["questions"][number]["title"]: arms}, from_zero=True)

    def _rows(self) -> Iterator[dict[str, Any]]:
        for number, question in self.document["questions"].items():
            for arm, metrics in (question.get("differences") or {}).items():
                for metric, difference in metrics.items():
                    if difference is not None:
                        key = {"question": number, "arm": arm, "metric": metric}
                        yield key | {name: difference[name] for name in _BOUNDED}


@dataclass(frozen=True, eq=False, repr=False)
class SearchResult(PlottedResult):
    """A sweep or a tuning: the trials, the chosen config, and its figures on the test split.

    Example:
        >>> sweep = corank.sweep("shop/config.yaml", {"train.rank.lr": [0.003]}, seeds=1)
        >>> sweep.tables["test"].columns
        ['metric', 'value', 'low', 'high', 'n']
    """

    @property
    def headline(self) -> str:
        """The metric that chose, and the location of the chosen config."""
        document = self.document
        return f"{document['name']}: {document['metric']}, the chosen config is {document['config_file']}"

    @property
    def tables(self) -> dict[str, pl.DataFrame]:
        """`trials`: a row an arm or a trial, of its plain figures; `test`: the chosen config on the test split."""
        arms = self.document.get("arms", {})  # of a sweep, whose `trials` are a count
        rows = [self._of_arm(name, arm) for name, arm in arms.items()] or self.document["trials"]
        plain = [
            {n: v for n, v in row.items() if v is None or isinstance(v, str | int | float)} for row in rows
        ]
        texts, bounds = {"metric": pl.String}, {**_BOUNDED, "n": pl.Int64}
        test = [
            {"metric": name, **{key: figure.get(key) for key in bounds}}
            for name, figure in (self.document["test"] or {}).items()
        ]
        return {
            "trials": pl.DataFrame(plain, infer_schema_length=None),
            "test": frame(test, {**texts, **bounds}),
        }

    def _of_arm(self, name: str, arm: dict[str, Any]) -> dict[str, Any]:
        figure = arm["figures"].get(self.document["metric"]) or {}
        return {"arm": name, **{key: figure.get(key) for key in _BOUNDED}, **arm}

    def plot(self) -> "Figure":
        """Draw the chosen config's figures on the test split, with their intervals."""
        with name_missing_extra("plot()"):
            from corank.api.results.figures import draw_bounded

        rows = {r["metric"]: (r["value"], r["low"], r["high"]) for r in self.tables["test"].to_dicts()}
        return draw_bounded({self.document["name"]: rows}, from_zero=False)

"""Recipes: losses in addition to the clicks, by what a log holds of candidates that nobody was shown.

`corank simulate`, importers and examples write them. `scripts/bench defaults` measures them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from corank.data.tables import Table
from corank.features.log_schema import DataSettings


@dataclass(frozen=True)
class Recipe:
    """Losses in addition to each stage's clicks, for one kind of log."""

    losses: tuple[Mapping[str, Any], ...]
    """With the levels and stages of a simulated world."""
    measured: str
    """Where they did best."""

    @property
    def kinds(self) -> list[str]:
        """The kinds of its losses."""
        return [loss["kind"] for loss in self.losses]


RECIPES = {
    "levels": Recipe(
        (
            {
                "kind": "unexposed",
                "stage": "prerank",
                "from": ["retrieved"],
                "per_request": 10,
                "weight": 0.2,
            },
            {"kind": "in_batch", "stage": "prerank", "weight": 0.05, "temperature": 2},
        ),
        "simulated worlds (docs/results/defaults.md)",
    ),
    "exposures": Recipe(
        ({"kind": "distill", "teacher": "rank", "student": "prerank", "on": ["exposed"]},),
        "KuaiRand-Pure (docs/results/defaults.md)",
    ),
}
"""By what the log holds: candidates that were cut, or exposed ones alone."""
TAUGHT = (
    "a teacher that reads them kept more of the truly best in simulated worlds than levels did: "
    "examples/recipe_taught.yaml (docs/results/selection-bias.md)"
)


def unread_scores(log: Table, data: DataSettings) -> list[str]:
    """The columns of a log that look like production's scores, if `data.scores` names none."""
    if data.scores:
        return []
    return [name for name, kind in log.types.items() if "score" in name.lower() and kind.is_float()]

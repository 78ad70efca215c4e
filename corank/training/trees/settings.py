"""Settings of boosted trees that teach."""

from collections.abc import Sequence
from typing import Annotated

from annotated_types import Ge, Gt, Le
from pydantic import Field, PositiveFloat, PositiveInt

from corank.core.errors import ConfigError
from corank.core.settings import Settings
from corank.losses.base import Loss


class TreeTeacherSettings(Settings):
    """Gradient-boosted trees that are fitted before training, and teach by `distill`; neither evaluated nor shipped.

    A training candidate is scored by trees that did not see its request: of `folds` parts of the requests each is
    scored by trees that are fitted to the others. Needs the extra `trees`.
    """

    name: str = Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]*$")
    """By which losses know it."""
    label: str = "click"
    """What it predicts."""
    trees: Annotated[int, Ge(1), Le(10_000)] = 150
    """How many."""
    leaves: Annotated[int, Ge(2), Le(1024)] = 31
    """Of a tree, at most."""
    lr: PositiveFloat = 0.05
    """Factor of each tree's values."""
    min_rows: PositiveInt = 50
    """Training rows of a leaf, at least."""
    columns: Annotated[float, Gt(0), Le(1)] = 0.3
    """Share of the columns that a tree may split by, drawn for each."""
    folds: Annotated[int, Ge(2), Le(20)] = 3
    """Parts of the requests."""

    def check(self, key: str, labels: Sequence[str], taken: Sequence[str], losses: Sequence[Loss]) -> None:
        """Raise ConfigError, which begins with the key, if it contradicts the rest of the config.

        Args:
            key: where it is in the config.
            labels: those of the log.
            taken: names of stages, teachers and logged scores, and of the trees before it.
            losses: all of the config.
        """
        if self.label not in labels:
            raise ConfigError(f"{key}.label: no label '{self.label}'; data.labels are {', '.join(labels)}")
        if self.name in taken:
            raise ConfigError(f"{key}.name: a stage, a teacher or a score is called '{self.name}', too")
        pupils = [(n, loss) for n, loss in enumerate(losses) if self.name in loss.teachers]
        if not pupils:
            raise ConfigError(
                f"{key}: nobody learns from '{self.name}'; add a loss {{kind: distill, teacher: {self.name}, …}}"
            )
        for n, loss in pupils:
            if (label := getattr(loss, "label", self.label)) != self.label:
                raise ConfigError(
                    f"losses.{n}.label: '{self.name}' predicts {self.label}; received {label}; add another of "
                    "tree_teachers for it"
                )

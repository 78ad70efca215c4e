"""Settings of boosted trees that teach."""

from collections.abc import Sequence
from typing import Annotated

from annotated_types import Ge, Le
from pydantic import Field

from corank.core.errors import ConfigError
from corank.losses.base import Loss
from corank.models.settings.trees import BoostingSettings


class TreeTeacherSettings(BoostingSettings):
    """Gradient-boosted trees that are fitted before training, and teach by `distill`; neither evaluated nor shipped.

    A training candidate is scored by trees that did not see its request: of `folds` parts of the requests each is
    scored by trees that are fitted to the others. Needs the extra `trees`.
    """

    name: str = Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]*$")
    """By which losses know it."""
    label: str = "click"
    """The label that it predicts."""
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

"""Settings of a teacher."""

from typing import Annotated

from annotated_types import MinLen

from corank.core.errors import ConfigError
from corank.core.settings import describe_unknown
from corank.features.schema import Schema
from corank.models.settings.network import LayerSettings
from corank.models.settings.stage_context import StageContext


class TeacherSettings(LayerSettings):
    """Settings of a teacher."""

    scores: Annotated[list[str], MinLen(1)]
    """Logged scores (`data.scores`) that it sees besides every feature; a missing one counts as 0, and is marked."""

    def check(self, context: StageContext) -> None:
        """Raise ConfigError if it contradicts the rest of the config, such as a score that is not logged."""
        super().check(context)
        for score in self.scores:
            if score not in context.data.scores:
                raise ConfigError(
                    f"{context.key}.scores: {describe_unknown(score, context.data.scores)}, as data.scores names them"
                )

    def logged_inputs(self, schema: Schema) -> list[str]:
        """Its scores, too: what production never scored has none."""
        return [*self.scores, *super().logged_inputs(schema)]

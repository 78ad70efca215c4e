"""The settings of `corank daily`: a YAML file next to the config that it trains."""

from datetime import timedelta
from pathlib import Path
from typing import Annotated, Self

from pydantic import AfterValidator, Field, PositiveInt, model_validator

from corank.continual.gate import GateCondition
from corank.continual.periods import check_length
from corank.core.settings import Duration, Moment, Settings, validate
from corank.training.plain_config.yaml_reader import read_yaml_file


class DailySettings(Settings):
    """What is trained every period, when a candidate goes live, and where it is published.

    Example:
        config: config.yaml
        first: 2026-04-25
        gate:
          - rank.exposed.click.auc >= live - 0.002
          - rank.exposed.click.pcoc_calibrated in [0.9, 1.1]
        store: lmdb:store
    """

    config: str
    """The config that is trained; its path is relative to this file. Its `data.split` is not used."""
    first: Moment
    """In the first period; the first model is trained on all of the log until its holdout."""
    folder: str = "daily"
    """Of packed data, runs, bundles, the history and its page, relative to this file."""
    period: Annotated[Duration, AfterValidator(check_length)] = timedelta(days=1)
    """How often: `1d`, or hours that divide a day, such as `1h`."""
    holdout: Duration = timedelta(hours=2)
    """At the end of a period: half validates, half compares the candidate with the live run; on the next it trains."""
    delay: Duration = timedelta()
    """How long after a period its labels are known; it is trained then."""
    changes: list[str] = []
    """Changes of the config after the first period, `a.b=value`, such as `train.epochs=1`."""
    gate: list[GateCondition] = Field(min_length=1)
    """What a candidate must meet to go live."""
    store: str | None = None
    """The address of the store that is published to; a path of `lmdb:` is relative to this file. Without it the bundle
    alone is written."""
    users: str | None = None
    """A table of users that is published with a bundle: files, relative to this file."""
    verify: PositiveInt = 20
    """Logged requests whose online scores must equal those of the evaluation before a bundle is published."""
    keep: PositiveInt = 7
    """Periods whose packed data, runs and bundles stay, plus the live one's; older versions that the store keeps."""
    track: list[str] = []
    """Trackers that get the figures of each period, by name as in `corank train --track`: `mlflow`,
    `wandb,project=shop`. TensorBoard's files are written in any case, to `events/` of the folder."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not timedelta(0) < self.holdout < self.period:
            raise ValueError("holdout: must be above 0 and shorter than the period")
        return self


def read_settings(path: Path) -> DailySettings:
    """Read the settings of `corank daily`. Raises ConfigError, which names the file and the key."""
    return validate(DailySettings, read_yaml_file(path), str(path))

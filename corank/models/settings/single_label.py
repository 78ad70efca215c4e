"""What stage models of one label share."""

from collections.abc import Sequence
from typing import Any

from pydantic import model_validator

from corank.models.settings.stage import StageSettings


class SingleLabelSettings(StageSettings):
    """Settings of a stage that predicts one label, and orders by it unless its `value` says otherwise."""

    label: str = "click"
    """What it predicts."""

    @property
    def labels(self) -> Sequence[str]:
        """The label alone."""
        return [self.label]

    @model_validator(mode="before")
    @classmethod
    def _order_by_label(cls, value: Any) -> Any:
        return {"value": value.get("label", "click")} | value if isinstance(value, dict) else value

"""What the stages learn from; a new loss is a file here and a name in `Loss`."""

from typing import Annotated

from pydantic import Field

from corank.losses.base import Scope
from corank.losses.cascade import Cascade
from corank.losses.click import Click
from corank.losses.distill import Distill
from corank.losses.in_batch import InBatch
from corank.losses.levels import Levels
from corank.losses.total import Total
from corank.losses.unexposed import Unexposed

Loss = Annotated[
    Click | Unexposed | InBatch | Distill | Levels | Cascade,
    Field(discriminator="kind"),
]

__all__ = ["Cascade", "Click", "Distill", "InBatch", "Levels", "Loss", "Scope", "Total", "Unexposed"]

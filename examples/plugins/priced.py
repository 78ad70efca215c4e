"""A judgement: every item of the shop has a price."""

from collections.abc import Iterator

from corank.training.checks.findings import Finding
from corank.training.checks.judgements import JUDGEMENTS
from corank.training.checks.profile import Profile, of_tables


@JUDGEMENTS.register("priced")
@of_tables
def priced(profile: Profile) -> Iterator[Finding]:
    """Every item of the shop has a price."""
    for column in profile.columns:
        missing = column.missing["train"]
        if column.name == "price" and missing > 0.01:
            said = "items without a price; mend the export of the shop"
            yield Finding("error", "price", said, f"missing in {missing:.0%} of 'train'")

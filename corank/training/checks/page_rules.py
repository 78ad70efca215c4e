"""A finding on rules of the page that no page of the log could keep."""

from collections.abc import Iterator

import numpy as np
import polars as pl

from corank.core.page import PageSettings
from corank.core.page_rules import unavoidable
from corank.features.encoders import Encoders
from corank.features.log_schema import ITEM
from corank.features.page_columns import read_page_candidates
from corank.features.schema import Schema
from corank.training.checks.findings import Finding
from corank.training.checks.profile import Profile
from corank.training.checks.split_rows import SplitRows

SAMPLE = 200_000
"""Rows of the log that are looked at, of whole requests: about so many, drawn by a hash."""


def hopeless_rules(profile: Profile) -> Iterator[Finding]:
    """Rules that every page of the log would break."""
    page = profile.config.page
    for n in profile.hopeless:
        assert page is not None
        said = (
            f"no request of the log has the candidates for a page that keeps '{page.rules[n]}', so that every page "
            f"breaks it; look at the values of '{page.rules[n].of}', loosen the rule or drop it"
        )
        yield Finding("warning", f"stages.{len(profile.config.stages)}.rules.{n}", said)


def find_hopeless(
    page: PageSettings, rows: SplitRows, schema: Schema, items: pl.DataFrame | None
) -> list[int]:
    """Find the rules that no request can keep, if all its candidates came to the page.

    Args:
        page: the page.
        rows: the log.
        schema: the features.
        items: by ITEM, the columns of the item features; None if there is no table of items.
    """
    names = schema.operand_names("item").among([rule.of for rule in page.rules])
    columns = {name: schema.column(name) for name in names.names}
    columns = {name: ITEM if column == rows.data.item else column for name, column in columns.items()}
    chosen = rows.frame.select(*dict.fromkeys([ITEM, *rows.request]))
    count = int(rows.collect(chosen.select(pl.len())).item())
    if (step := -(-count // SAMPLE)) > 1:
        chosen = chosen.filter(pl.struct(*rows.request).hash(0) % step == 0)
    sample = rows.collect(chosen).sort(rows.request, maintain_order=True)
    if items is not None:
        sample = sample.join(items, on=ITEM, how="left", maintain_order="left")
    operands = Encoders(schema, {}).operands(names, lambda name: sample[columns[name]], len(sample))
    rules = read_page_candidates(page.by_value(), np.zeros(len(sample)), operands, None).rules
    sizes = sample.group_by(rows.request, maintain_order=True).len()["len"].to_numpy()
    ends = np.cumsum(sizes)
    requests = [slice(end - size, end) for end, size in zip(ends.tolist(), sizes.tolist(), strict=True)]
    return [
        n
        for n, rule in enumerate(rules)
        if requests
        and all(
            unavoidable(rule._replace(codes=rule.codes[some]), min(page.keep, some.stop - some.start))
            for some in requests
        )
    ]

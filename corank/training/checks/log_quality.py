"""Findings on what makes a log hard to learn from: unknown ids, columns that tell nothing or the wrong thing."""

from collections.abc import Iterable, Iterator

from corank.core.time import DAY
from corank.core.yaml_names import quote
from corank.data.null_texts import name_texts
from corank.metrics.metric import validation_metrics
from corank.training.checks.findings import Finding
from corank.training.checks.profile import ColumnProfile, Profile

UNKNOWN = 0.3
"""From this share of unknown ids on, something else must tell candidates apart."""
UNIQUE, FEWEST = 0.9, 100
"""An id with more values than this share of the rows is of no use, if there are so many rows."""
SHIFT = 0.05
"""Missing rates of two splits that differ by more are reported."""
_DROP = "--without drops it"
SINGLE = 0.5
"""From this share of requests without order on, metrics by request are of a few requests."""


def unknown_items(log: Profile) -> Iterator[Finding]:
    """Items that training never saw, where all their rates are of days before, or a feature reads their ids."""
    if unknown := _unknown(log.column("item")):
        schema, item = log.config.declared, log.config.data.item
        steps = {n: p.every for n, p in schema.priors().items() if schema.side(n) in ("item", "cross")}
        slow = [name for name, every in steps.items() if every >= DAY]
        faster = f"write features.{slow[0]}.every: 1h" if len(slow) == len(steps) > 0 else ""
        if then := faster or _drop_ids(log, item):
            yield Finding("advice", item, f"{_shares(unknown)} are items that training never saw; {then}")


def unknown_users(log: Profile) -> Iterator[Finding]:
    """Users that training never saw, unless each request is its own, where a feature reads their ids."""
    data = log.config.data
    unknown = {} if data.user in data.request else _unknown(log.column("user"))
    if unknown and (then := _drop_ids(log, data.user)):
        yield Finding("advice", data.user, f"{_shares(unknown)} are of users that training never saw; {then}")


def _drop_ids(log: Profile, column: str) -> str:
    """The options that drop the features of a column of ids; blank if there are none, or no others of their side."""
    schema = log.config.declared
    sides = {name: schema.side(name).replace("context", "user") for name in schema.inputs()}
    read = [name for name in sides if name in schema.columns() and schema.column(name) == column]
    others = {side for name, side in sides.items() if name not in read}
    dropped = " ".join(f"--without {name}" for name in read)
    return f"{dropped} drops their ids" if read and others >= {sides[name] for name in read} else ""


def unknown_values(log: Profile) -> Iterator[Finding]:
    """Values of other ids that training never saw."""
    for column, unknown in _worst_first((column, _unknown(column)) for column in log.others):
        said = f"many candidates have a value that training never saw; {_DROP}"
        yield Finding("advice", column.name, said, _shares(unknown))


def shifting_columns(log: Profile) -> Iterator[Finding]:
    """Columns that are missing more often in one split than in another."""
    shifts = []
    for column in log.columns:
        usual = column.missing.get("train", 0.0)
        rates = {split: rate for split, rate in column.missing.items() if abs(rate - usual) > SHIFT}
        shifts.append((column, {split: abs(rate - usual) for split, rate in rates.items()}))
    for column, shift in _worst_first(shifts):
        now = " and ".join(f"{column.missing[split]:.0%} of '{split}'" for split in shift)
        said = (
            "missing in another share of the candidates than in 'train', which a model takes for something that it is "
            f"not; {_DROP}"
        )
        figure = f"{column.missing.get('train', 0.0):.0%} of 'train', but {now}"
        yield Finding("advice", column.name, said, figure)


def misread_numbers(log: Profile) -> Iterator[Finding]:
    """Ids whose values are numbers but for a few texts."""
    data = log.config.data
    own = {"item": data.item, "user": data.user}
    for column in log.columns:
        if column.texts:
            texts = ", ".join(map(quote, [*(data.nulls or []), *column.texts]))
            said = (
                f"numbers but for {name_texts(column.texts)}, each value of which is an id of its own; if these stand "
                f"for missing values, write data.nulls: [{texts}]"
            )
            where = f"data.{column.name}" if column.name in own else f"features.{column.name}"
            yield Finding("warning", where, said)


def empty_columns(log: Profile) -> Iterator[Finding]:
    """Columns without a value."""
    for column in log.others:
        if column.missing.get("train") == 1:
            said = f"always missing in the split 'train'; {_DROP}"
            yield Finding("advice", column.name, said)


def constant_columns(log: Profile) -> Iterator[Finding]:
    """Columns with one value."""
    for column in log.others:
        if column.values == 1 and not column.missing.get("train"):
            said = f"the same value in all training rows; {_DROP}"
            yield Finding("advice", column.name, said)


def identifying_columns(log: Profile) -> Iterator[Finding]:
    """Ids with nearly one value a row."""
    for column in log.others:
        if column.familiar and column.rows >= FEWEST and (column.values or 0) > UNIQUE * column.rows:
            of = {"items": "items", "users": "users", "log": "candidates"}[column.source]
            said = f"nearly one value each; {_DROP}"
            yield Finding("advice", column.name, said, f"{column.values:,} values of {column.rows:,} {of}")


def unordered_requests(log: Profile) -> Iterator[Finding]:
    """A metric by request to stop by, where few requests show a 1 beside a 0."""
    stop = log.config.train.early_stop
    if stop is None:
        return
    stage, label, name = stop.metric.rsplit(".", 2)
    clicked = sum(count for n, count in log.requests["train"].positives[label].items() if n)
    ordered = log.train.mixed[label].requests
    if "request" in validation_metrics()[name].inputs and clicked and ordered < (1 - SINGLE) * clicked:
        few = f"only {ordered:,} have" if ordered else "none has"
        said = (
            f"of {clicked:,} requests of 'train' with a positive {few} a negative beside it, and '{stop.metric}' is of "
            f"these alone; write train.early_stop.metric: {stage}.{label}.auc"
        )
        yield Finding("advice", "train.early_stop.metric", said)


def _unknown(column: ColumnProfile) -> dict[str, float]:
    """Split → share of its candidates whose value training does not know, where that is much."""
    shares = {split: 1 - known.candidates for split, known in column.familiar.items()}
    return {split: share for split, share in shares.items() if share >= UNKNOWN}


def _shares(shares: dict[str, float]) -> str:
    """Shares by split in words.

    Example:
        >>> _shares({"valid": 0.5, "test": 0.75})
        "50% of the candidates of 'valid' and 75% of 'test'"
    """
    (first, share), *others = shares.items()
    return " and ".join(
        [f"{share:.0%} of the candidates of '{first}'", *(f"{other:.0%} of '{n}'" for n, other in others)]
    )


def _worst_first(
    found: Iterable[tuple[ColumnProfile, dict[str, float]]],
) -> list[tuple[ColumnProfile, dict[str, float]]]:
    """Features with a share by split, the largest first; without those that have none."""
    return sorted((one for one in found if one[1]), key=lambda one: -max(one[1].values()))

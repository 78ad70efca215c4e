"""What a page reads of items: the features that its rules and its similarity name, checked, and read of candidates.

Letters: n candidates · L values of a candidate, at most · d width of vectors.
"""

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from corank.core.errors import ConfigError
from corank.core.page import PageCandidates, PageRule, PageSettings, unit_vectors
from corank.core.page_conflicts import find_conflict
from corank.core.page_rules import RuleValues
from corank.core.settings import describe_unknown
from corank.core.types import Doubles, Hashes, Longs, Numbers
from corank.features.encoding import hash_numbers
from corank.features.feature_kind import FeatureKind
from corank.features.operands import Operands
from corank.features.schema import Schema

ZERO = hash_numbers(np.zeros(1, dtype=np.int64))[0]
"""The hash of 0, and of false, which an item with a flag does not have."""


def mark_page_features(features: Mapping[str, Any], page: PageSettings) -> dict[str, Any]:
    """The features of a config, plain values or settings, of which those that a page reads say so."""
    marked = dict(features)
    for name in page.features:
        feature = marked.get(name)
        if isinstance(feature, dict):
            marked[name] = feature | {"on_page": True}
        elif isinstance(feature, FeatureKind):
            marked[name] = feature.model_copy(update={"on_page": True})
    return marked


def check_page(page: PageSettings, schema: Schema, parts: Collection[str], quotas: Mapping[str, int]) -> None:
    """Raise ConfigError, which begins with the key, if a page does not fit the features and the stages before it.

    Args:
        page: its settings.
        schema: the features.
        parts: item parts, `STAGE.PART`.
        quotas: by stage what it keeps.
    """
    if page.name in quotas:
        raise ConfigError(f"name: two stages are called '{page.name}'")
    if page.keep > (quota := quotas[last := list(quotas)[-1]]):
        raise ConfigError(
            f"keep: '{page.name}' would fill {page.keep} slots from the {quota} that '{last}' leaves it; "
            f"let '{last}' keep more than the page has slots"
        )
    if page.item_part is not None and page.item_part not in parts:
        known = f"there are {', '.join(parts)}" if parts else "no stage stores any"
        raise ConfigError(f"by: no item part '{page.by}'; {known}; or name an item feature")
    for n, rule in enumerate(page.rules):
        _check_feature(schema, rule.of, f"rules.{n}.of", vector=False)
        for key, needed in (("slot", rule.slot), ("at_least", rule.at_least)):
            if needed is not None and needed > page.keep:
                raise ConfigError(f"rules.{n}.{key}: the page has {_slots(page.keep)}; received {needed}")
    _refuse_conflicts(page, schema)
    if page.by is not None and page.item_part is None:
        _check_feature(schema, page.by, "by", vector=True)


def _refuse_conflicts(page: PageSettings, schema: Schema) -> None:
    """Raise ConfigError, which names the rules, if no page can keep them, whatever its candidates are."""
    for name in dict.fromkeys(rule.of for rule in page.rules):
        counted = "number" in schema.features[name].uses
        rules = [rule for rule in page.rules if rule.of == name and (counted or not rule.counts_values)]
        if conflict := find_conflict(rules, page.keep):
            said = " and ".join(f"rules.{page.rules.index(rule)} ({rule})" for rule in conflict)
            raise ConfigError(
                f"{said}: no page of {_slots(page.keep)} can keep them together; change or drop one"
            )


def _slots(count: int) -> str:
    return f"{count} slot{'s' * (count != 1)}"


def _check_feature(schema: Schema, name: str, key: str, vector: bool) -> None:
    if name not in schema.features:
        hint = describe_unknown(name, schema.columns("item"), "item feature")
        raise ConfigError(
            f"{key}: {hint}; or declare it under features, such as {name}: {{side: item, kind: id, input: false}}"
        )
    feature = schema.columns().get(name)
    if feature is None or feature.side != "item":
        raise ConfigError(f"{key}: '{name}' is no feature of a column of items, which a page could read")
    fit = {"id", "key", "list", "vector"} if vector else {"id", "key", "list", "number"}
    if feature.uses.isdisjoint(fit):
        kinds = "a vector, an id or ids" if vector else "an id, ids or a number"
        raise ConfigError(f"{key}: '{name}' is of kind {feature.kind}; name {kinds}")


def read_page_candidates(
    page: PageSettings, value: Numbers, operands: Operands, vectors: Numbers | None
) -> PageCandidates:
    """What a page is filled from.

    Args:
        page: its settings.
        value: of the stage before: (n,).
        operands: those of the candidates' items that the page reads: (n).
        vectors: what similarity is of, if that is an item part or a vector; NaN or 0 where there is none: (n, d).

    Returns:
        The candidates, in their order.
    """
    if page.method == "value":
        unit: Doubles | None = None
    elif vectors is not None:
        unit = unit_vectors(vectors)
    else:
        assert page.by is not None
        unit = unit_vectors(_indicators(_codes(operands, page.by, each=True)))
    return PageCandidates(value, unit, [_read_rule(rule, operands) for rule in page.rules])


def _read_rule(rule: PageRule, operands: Operands) -> RuleValues:
    codes = _codes(operands, rule.of, rule.counts_values)
    if rule.at_most is not None:
        return RuleValues("at_most", rule.at_most, rule.within, False, codes)
    if rule.at_least is not None:
        return RuleValues("at_least", rule.at_least, rule.within, False, codes)
    assert rule.slot is not None
    return RuleValues("slot", rule.slot, None, rule.never, codes)


def _codes(operands: Operands, name: str, each: bool) -> Longs:
    """The values of a feature, numbered, or, unless `each` counts, 0 for an item that has the feature: (n, L)."""
    if name in operands.numbers:
        return np.where(operands.numbers[name] > 0, 0, -1)[:, None]
    if name in operands.keys:
        hashes = operands.keys[name][:, None]
    else:
        lists = operands.lists[name]
        hashes = np.zeros((operands.count, max(1, int(lists.length.max(initial=0)))), dtype=np.uint64)
        hashes[np.arange(hashes.shape[1]) < lists.length[:, None]] = lists.flat()
    if not each:
        has = (hashes != 0) & (hashes != ZERO)
        return np.where(has.any(axis=1), 0, -1)[:, None]
    return number_values(hashes)


def number_values(hashes: Hashes) -> Longs:
    """Number hashes from 0, −1 for 0, which is none: the shape of the hashes."""
    distinct, codes = np.unique(hashes, return_inverse=True)
    numbered: Longs = codes.reshape(hashes.shape) - (1 if len(distinct) and distinct[0] == 0 else 0)
    return numbered


def _indicators(codes: Longs) -> Doubles:
    """Which values each candidate has: (n, values)."""
    rows = np.zeros((len(codes), int(codes.max(initial=-1)) + 2))
    rows[np.arange(len(codes))[:, None], codes] = 1
    return rows[:, :-1]

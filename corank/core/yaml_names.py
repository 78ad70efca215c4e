"""Names as YAML reads them back, in configs that are written as text."""

import json

_OTHERS = ("null", "true", "false", "yes", "no", "on", "off", "y", "n", "nan", "inf")
"""Words that some reader of YAML takes for something else."""


def quote(name: str) -> str:
    """Quote a name unless YAML reads it as it stands, whatever is in it.

    Example:
        >>> quote("history.brand"), quote("item id"), quote("null")
        ('history.brand', '"item id"', '"null"')
    """
    plain = name.replace(".", "_").isidentifier() and name.lower() not in _OTHERS
    return name if plain else json.dumps(name, ensure_ascii=False)

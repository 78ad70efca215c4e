"""The kinds of features that corank comes with, a file each. All register in `FEATURE_KINDS`."""

FOREIGN_KINDS = {
    **dict.fromkeys(("category", "categorical", "string", "str"), "kind: id"),
    **dict.fromkeys(("numeric", "numerical", "float", "int", "dense"), "kind: number, or bucket to embed it"),
    **dict.fromkeys(("list", "multi", "sequence"), "kind: ids, with of: ITEM_FEATURE for a history of items"),
    **dict.fromkeys(
        ("date", "datetime", "timestamp"), "kind: time, and of kind age what it says of a request"
    ),
    "text": "kind: ids with separator: ' ' for its words, or kind: vector for its embedding",
    "embedding": "kind: vector",
}
"""Names that other libraries have for kinds."""

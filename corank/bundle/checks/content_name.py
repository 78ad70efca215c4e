"""The name of a bundle's content folder, which is the name of a version."""

import re

CONTENT = re.compile(r"[0-9a-f]{16}-[0-9]{1,19}-[0-9a-f]{8}")
"""The name of a content folder."""


def is_content_name(name: str) -> bool:
    """Whether a name is one that `write_bundle` gives: model version, `items_seq`, and a tag of its own."""
    return CONTENT.fullmatch(name) is not None

"""The names that parts of a bundle may have: those that are written, and no others.

Names come from a manifest, and a manifest may come from anybody who can write to a store.
"""

import re

from corank.core.storage.untrusted_files import is_plain_name

MOST_PARTS = 10_000
"""Parts of a bundle, at most."""

_COUNTS = r"(each|all)\.(offsets|periods|shown|positive)"
_LIST = r"list\d+\.(start|length|values)"
_VECTOR = r"vector\d+\.(row|values)"
_PART = re.compile(
    "|".join(
        (
            r"layout\.json",
            r"encoders/[^/]+",
            r"tables/[^/]+/(projection)?\d+\.npy",
            r"[^/]+\.onnx",
            rf"priors/\d+/(keys|values|smoothing|{_COUNTS})\.npy",
            r"retrieval/(facts\.json|queries\.npy|index\.faiss)",
            r"items/keys(\.offsets|\.text)?\.npy",
            rf"items/(ids|numbers|{_LIST}|{_VECTOR}|column\.[^/]+|part\.[^/]+)\.npy",
            rf"items/operands/(key\d+|number\d+|{_LIST})\.npy",
        )
    ),
    re.ASCII,
)


def is_part_name(name: str) -> bool:
    """Whether a part of a bundle may be called so.

    Example:
        >>> is_part_name("tables/shared/16.npy"), is_part_name("tables/../16.npy"), is_part_name("/etc/passwd")
        (True, False, False)
    """
    return _PART.fullmatch(name) is not None and all(map(is_plain_name, name.split("/")))

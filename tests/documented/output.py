"""Whether a block of output shows what was printed."""

import re

NUMBER = re.compile(r"[-+±−]?(?<![\w.])[-+±−]?(\d[\d,]*\.?\d*|\.\d+)(e[-+]?\d+)?(?![\d])")
HASH = re.compile(r"\b(?=[0-9a-f]*\d)[0-9a-f]{6,}\b")
LINES = re.compile(r"[─━═┄—-]{2,}")


def normalised(text: str) -> list[str]:
    """Lines in which numbers, hashes, rules and the width of spaces are alike; none that is empty."""
    lines = []
    for line in text.splitlines():
        line = LINES.sub("-", HASH.sub("H", line))
        line = " ".join(NUMBER.sub("N", line).split())
        lines += [line] if line else []
    return lines


def not_shown(shown: str, printed: str, unordered: bool = False) -> str | None:
    """The first line of what a page shows that was not printed, or not in this order; None if all were."""
    rest = normalised(printed)
    for line in normalised(shown):
        if line == "…":
            continue
        begins = line.endswith("…") and not line.endswith("N …")
        start = line.removesuffix("…").rstrip()
        place = next(
            (n for n, one in enumerate(rest) if one == line or (begins and one.startswith(start))), None
        )
        if place is None:
            return line
        rest = [*rest[:place], *rest[place + 1 :]] if unordered else rest[place + 1 :]
    return None

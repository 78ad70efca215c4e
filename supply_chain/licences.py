"""The licences of everything that is installed, from its own metadata; those that are not accepted are refused."""

import re
import sys
from collections.abc import Iterator
from importlib.metadata import Distribution, distributions
from typing import Any

ACCEPTED = {
    *(
        "MIT",
        "MIT-0",
        "MIT-CMU",
        "BSD",
        "BSD-2-Clause",
        "BSD-3-Clause",
        "0BSD",
        "ISC",
        "Apache-2.0",
        "HPND",
        "Zlib",
    ),
    *("PSF-2.0", "Python-2.0", "Unlicense", "CC0-1.0", "MPL-2.0", "OLDAP-2.8", "BSL-1.0", "CNRI-Python"),
    *("LLVM-exception", "GCC-exception-3.1", "NVIDIA"),
}
"""Licences under which corank may be used and passed on without conditions on its own code."""

_SPELLINGS = {
    r"mit( license)?|mit style|the mit license.*": "MIT",
    r"apache( software)?( license)?,?( version)? ?2(\.0)?|apache license|apache software license|apache": "Apache-2.0",
    r"(new |modified |3-clause )?bsd( license)?|bsd 3-clause.*|3-clause bsd license": "BSD-3-Clause",
    r"python software foundation license|psf.*": "PSF-2.0",
    r"mozilla public license 2\.0.*": "MPL-2.0",
    r"isc license.*": "ISC",
    r"openldap.*": "OLDAP-2.8",
    r".*nvidia.*": "NVIDIA",
}

KNOWN: dict[str, str] = {"axe-playwright-python": "MIT AND MPL-2.0", "promql-parser": "MIT"}
"""Package → its licence, where its metadata do not say: read by hand in its source."""


def licence_of(package: Distribution) -> str:
    """Read a package's licence as an SPDX expression, or as its metadata have it."""
    meta: Any = package.metadata  # the stubs of its type lack `get`
    if package.name.lower() in KNOWN:
        return KNOWN[package.name.lower()]
    if meta.get("License-Expression"):
        return str(meta["License-Expression"])
    classified = [
        line.rpartition(" :: ")[2] for line in meta.get_all("Classifier") or [] if "License ::" in line
    ]
    named = [name for name in classified if name != "OSI Approved"] or [
        (meta.get("License") or "not given").strip().splitlines()[0]
    ]
    return " OR ".join(_spdx(name) for name in named)


def _spdx(name: str) -> str:
    for pattern, spdx in _SPELLINGS.items():
        if re.fullmatch(pattern, name.strip(), re.IGNORECASE):
            return spdx
    return name.strip()


def is_accepted(expression: str) -> bool:
    """Whether an SPDX expression is accepted: one of its alternatives consists of accepted licences alone.

    Example:
        >>> is_accepted("GPL-3.0-only OR MIT")
        True
    """
    while inner := re.search(r"\(([^()]*)\)", expression):
        found = "MIT" if is_accepted(inner[1]) else "refused"
        expression = expression[: inner.start()] + found + expression[inner.end() :]
    return any(
        all(part.strip() in ACCEPTED for part in re.split(r" AND | WITH ", alternative))
        for alternative in re.split(r" OR ", expression)
    )


def refused_licences() -> Iterator[str]:
    """List the installed packages whose licence is not accepted."""
    for package in sorted(distributions(), key=lambda package: package.name.lower()):
        licence = licence_of(package)
        if package.name != "corank" and not is_accepted(licence):
            yield f"{package.name} {package.version}: {licence}"


if __name__ == "__main__":
    refused = list(refused_licences())
    for line in refused:
        sys.stderr.write(f"licence not accepted: {line}; accept it in supply_chain/licences.py, or drop it\n")
    sys.exit(bool(refused))

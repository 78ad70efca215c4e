"""Locks → a software bill of materials in CycloneDX 1.6, the same bytes for the same locks."""

import json
from typing import Any
from urllib.parse import quote
from uuid import NAMESPACE_URL, uuid5

from supply_chain.lock import LOCKS, ROOT, LockedPackage, read_lock

SBOM = ROOT / "sbom.cdx.json"


def make_sbom() -> str:
    """Make the SBOM of the locks as JSON.

    A component has no hashes of its own: a version has several files, and which one is installed is known on the
    machine alone. Their hashes stand among the properties.
    """
    packages = list(dict.fromkeys(package for lock in LOCKS.values() for package in read_lock(lock)))
    content: dict[str, Any] = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "component": {"type": "application", "bom-ref": "corank", "name": "corank"},
            "lifecycles": [{"phase": "pre-build"}],
        },
        "components": [_component(package) for package in sorted(packages)],
        "dependencies": [{"ref": "corank", "dependsOn": sorted(map(_purl, packages))}],
    }
    serial = uuid5(NAMESPACE_URL, json.dumps(content, sort_keys=True))
    return json.dumps(content | {"serialNumber": f"urn:uuid:{serial}"}, indent=1) + "\n"


def _purl(package: LockedPackage) -> str:
    return f"pkg:pypi/{package.name.lower()}@{quote(package.version)}"


def _component(package: LockedPackage) -> dict[str, Any]:
    return {
        "type": "library",
        "bom-ref": _purl(package),
        "name": package.name,
        "version": package.version,
        "purl": _purl(package),
        "properties": [{"name": "corank:sha256", "value": value} for value in package.hashes],
    }


if __name__ == "__main__":
    SBOM.write_text(make_sbom(), encoding="utf-8")

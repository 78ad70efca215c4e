"""What corank is built from: every version locked by hash, listed in an SBOM, under a licence that is accepted."""

import json
import re
import tomllib
from importlib.metadata import distribution, distributions

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from supply_chain.licences import is_accepted
from supply_chain.lock import LOCKS, ROOT, TIERS, TORCH, read_lock
from supply_chain.sbom import SBOM, make_sbom

INSTALLED = {canonicalize_name(one.name) for one in distributions()}
LOCKED = {package.name.lower(): package for lock in LOCKS.values() for package in read_lock(lock)}


def test_every_dependency_is_locked_by_hash() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    groups = project["dependency-groups"]
    developed = [
        line for name in groups.keys() - {"release"} for line in groups[name] if isinstance(line, str)
    ]
    by_extra = project["project"]["optional-dependencies"]
    (everything,) = by_extra["all"]
    assert set(Requirement(everything).extras) == by_extra.keys() - {"all"}
    extras = [line for lines in by_extra.values() for line in lines]
    wanted = [*project["project"]["dependencies"], *extras, *developed]
    names = {re.split(r"[^A-Za-z0-9._-]", line)[0].lower() for line in wanted} - {"corank"}
    assert names - LOCKED.keys() == set()
    assert [name for name, package in LOCKED.items() if not package.hashes] == []


@pytest.mark.parametrize("tier", TIERS)
def test_a_tier_is_installed_with_all_that_its_packages_need(tier: str) -> None:
    locks = [LOCKS[name] for name in (*TIERS[tier], tier, *TORCH)]
    names = {canonicalize_name(package.name) for lock in locks for package in read_lock(lock)}
    for name in names:
        # libraries of CUDA are installed on other machines than this
        lines = () if name not in INSTALLED else distribution(name).requires or ()
        needed = [
            part for part in map(Requirement, lines) if not part.marker or part.marker.evaluate({"extra": ""})
        ]
        assert {canonicalize_name(part.name) for part in needed} <= names, name
    group = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["dependency-groups"].get(
        tier, []
    )
    assert {canonicalize_name(Requirement(line).name) for line in group if isinstance(line, str)} <= names


def test_a_lock_names_no_index_and_no_file() -> None:
    for lock in LOCKS.values():
        for line in lock.read_text(encoding="utf-8").splitlines():
            assert re.fullmatch(
                r"#.*|[A-Za-z0-9._-]+(\[.*\])?==\S+( ;.*)? \\|    --hash=sha256:[0-9a-f]{64}( \\)?", line
            ), line


def test_the_sbom_is_that_of_the_locks_and_valid() -> None:
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    text = SBOM.read_text(encoding="utf-8")
    assert text == make_sbom(), "out of date: run scripts/sbom"
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    listed = {(part["name"].lower(), part["version"]) for part in json.loads(text)["components"]}
    assert {(name, package.version) for name, package in LOCKED.items()} <= listed


@pytest.mark.parametrize(
    ("expression", "accepted"),
    [
        ("MIT", True),
        ("GPL-3.0-only OR MIT", True),
        ("(Apache-2.0 OR GPL-3.0-only) AND MIT", True),
        ("Apache-2.0 WITH LLVM-exception AND MIT", True),
        ("AGPL-3.0-only", False),
        ("(Apache-2.0 OR MIT) AND GPL-3.0-only", False),
        ("not given", False),
        ("", False),
    ],
)
def test_a_licence_is_accepted_if_all_of_one_alternative_is(expression: str, accepted: bool) -> None:
    assert is_accepted(expression) is accepted

"""Manifests that a page shows, and that no file has, are valid Kubernetes."""

import pytest
import yaml
from kubernetes_validate import validate

from tests.documented.pages import Page


@pytest.mark.parametrize("version", ["1.31", "1.37"])
def test_the_job_that_trains_on_several_machines_is_valid(version: str) -> None:
    blocks = Page.read("docs/operations/scaling.md").blocks
    (job,) = (block.code for block in blocks if block.language == "yaml" and "kind: Job" in block.code)
    assert validate(yaml.safe_load(job), version, strict=True)

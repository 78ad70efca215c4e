"""Artifacts in a server that speaks S3's protocol, and the cache through which they are read."""

from pathlib import Path

import pytest

from tests.support.artifact_conformance import ArtifactConformance, ObjectPlace
from tests.support.object_store import ObjectStore


class TestObjects(ArtifactConformance):
    """The contract, in an object store."""

    @pytest.fixture
    def place(self, object_store: ObjectStore, tmp_path: Path) -> ObjectPlace:
        return ObjectPlace(object_store, tmp_path)

"""What corank promises is what the kept lists say: a change of either is a line in CHANGELOG.md."""

import json
from difflib import unified_diff
from pathlib import Path
from typing import Any

import pytest

import corank
from corank.analysis.logged_request import logged_request
from corank.training.run import Run
from tests.api.public_api import KEPT, document_keys, list_promises
from tests.support.shared import copy_run

DOCUMENTS = KEPT.with_name("documents.json")
"""By function: the keys of its document, which its command prints by `--json`."""
ADVICE = "if that is meant, say it in CHANGELOG.md, and run `python -m tests.api.public_api`"


def test_names_commands_config_and_parts_are_those_of_the_kept_list() -> None:
    kept = KEPT.read_text(encoding="utf-8").splitlines()
    changed = [line for line in unified_diff(kept, list_promises(), lineterm="", n=0) if line[0] in "+-"][2:]
    assert not changed, "\n".join([f"the public interface changed; {ADVICE}:", *changed])


@pytest.mark.slow
def test_documents_have_the_keys_of_the_kept_list(
    world: Path, trained: Run, trained_bundle: Path, tmp_path: Path
) -> None:
    store = f"lmdb:{tmp_path / 'store'}"
    funnel, other = corank.Funnel.open(trained_bundle), copy_run(trained, tmp_path / "other")
    documents: dict[str, Any] = {
        "check": json.loads(corank.check(world / "config.yaml").to_json()),
        "evaluate": json.loads(corank.evaluate(trained.folder).to_json()),
        "compare": json.loads(corank.compare(trained.folder, other.folder).to_json()),
        "publish": json.loads(corank.publish(trained_bundle, store).to_json()),
        "rank": funnel.rank({**logged_request(trained, "test", 0), "trace": True}),
    }
    found = {name: sorted(set(document_keys(document))) for name, document in documents.items()}
    kept = json.loads(DOCUMENTS.read_text(encoding="utf-8"))
    (tmp_path / DOCUMENTS.name).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    assert found == kept, f"if that is meant, say it in CHANGELOG.md, and take {tmp_path / DOCUMENTS.name}"

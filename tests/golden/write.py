"""Writes the golden files of this release: packed data, a run with kept predictions, bundle, store, served log.

And what was read out of them then: `expected.json`.
"""

import json
import os
import tarfile
import tempfile
from pathlib import Path

import corank
from corank.analysis.logged_request import logged_request
from corank.core.version import corank_version
from corank.funnel.request import Request
from corank_serve.log.request_log import RequestLog

FOLDER = Path(__file__).parent
SMALL = {
    "[512, 128, 64, 32]": "[8, 4]",
    "[128, 128, 128]": "[8]",
    "kind: id}": "kind: id, dim: 4}",
    "kind: ids}": "kind: ids, dim: 4}",
    "2026-03-10}": "2026-03-09}",
    "valid: 2026-03-09": "valid: 2026-03-07",
    "requests: 256": "requests: 32",
}
"""Of the simulated world's config: what makes a model of a few kilobytes."""
REQUESTS = 5
"""Requests that are ranked and logged."""
SECOND = 1_780_000_000
"""When the tables were written."""


def write_files(folder: Path) -> None:
    """Write all files into a folder, and what is read out of them."""
    corank.simulate(folder, requests=120, candidates=12, items=80, users=40)
    config = folder / "config.yaml"
    for table in folder.rglob("*.parquet"):
        os.utime(table, (SECOND, SECOND))  # whole, as archives keep it: packed data know their tables by it
    text = config.read_text(encoding="utf-8")
    for large, small in SMALL.items():
        assert large in text, f"the simulated config has no {large}"
        text = text.replace(large, small)
    config.write_text(text, encoding="utf-8")
    run = corank.train(config, folder=folder / "run").run
    evaluated = corank.evaluate(run.folder)
    corank.export(run.folder, folder / "bundle")
    corank.publish(folder / "bundle", f"lmdb:{folder / 'store'}")
    funnel, log = corank.Funnel.open(folder / "bundle"), RequestLog(folder / "served")
    requests = [logged_request(run, "test", n) for n in range(REQUESTS)]
    for request in requests:
        log.add(funnel, funnel.run(Request.parse(request)))
    log.write()
    expected = {
        "rows": json.loads(evaluated.to_json())["rows"],
        "requests": requests,
        "answers": [funnel.rank(request) for request in requests],
    }
    (folder / "expected.json").write_text(json.dumps(expected), encoding="utf-8")


def main() -> None:
    """Write them, packed, beside this file."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / corank_version()
        write_files(folder)
        with tarfile.open(FOLDER / f"{corank_version()}.tar.xz", "w:xz", preset=9) as archive:
            for path in sorted(folder.rglob("*")):
                if path.is_file():
                    archive.add(path, Path(corank_version()) / path.relative_to(folder))


if __name__ == "__main__":
    main()

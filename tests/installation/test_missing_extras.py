"""Without an extra: commands that need it name it in one line; all others work."""

import re
from pathlib import Path

from corank.core.lazy import EXTRA_OF
from corank.training.run import Run
from tests.support.base_installation import run_without_extras
from tests.support.shared import copy_run

TRAINING = {
    "train": ["CONFIG"],
    "experiment": ["CONFIG", "structures"],
    "tune": ["CONFIG"],
    "report": ["RUN"],
    "explain": ["RUN"],
    "export": ["RUN", "OUT"],
    "evaluate": ["RUN"],
    "compare": ["RUN", "OTHER"],
    "predict": ["RUN", "LOG", "OUT"],
    "simulate": ["OUT"],
}
"""Commands that need the extra `train`, and their arguments."""


def test_a_command_names_the_extra_that_it_lacks(world: Path, trained: Run, tmp_path: Path) -> None:
    out, other = tmp_path / "out", copy_run(trained, tmp_path / "other")
    arguments = {
        "CONFIG": world / "config.yaml",
        "RUN": trained.folder,
        "OTHER": other.folder,
        "OUT": out,
        "LOG": world / "log" / "*.parquet",
    }
    commands = [
        [name, *(str(arguments.get(word, word)) for word in words)] for name, words in TRAINING.items()
    ]
    for (name, *_), ended in zip(commands, run_without_extras(commands), strict=True):
        line = r"error: .+ needs (\w+); in corank's checkout.*: pip install '\.\[train\]'\n"
        match = re.fullmatch(line, ended.err)
        assert ended.code == 1 and match and EXTRA_OF[match[1]] == "train", (name, ended)
    assert not out.exists()


def test_a_log_is_checked_packed_and_replayed_without_extras(
    world: Path, trained: Run, tmp_path: Path
) -> None:
    config, packed = str(world / "config.yaml"), tmp_path / "packed"
    commands = [
        ["check", config],
        ["pack", config, "--set", f"packed={packed}"],
        ["request", str(trained.folder)],
    ]
    assert [ended.code for ended in run_without_extras(commands)] == [0, 0, 0]
    assert (packed / "manifest.json").is_file()


def test_a_table_of_a_lakehouse_names_its_extra(world: Path, tmp_path: Path) -> None:
    tables = {"delta": f"delta://{tmp_path}/log", "iceberg": "iceberg://shop.lake.log"}
    commands = [["check", str(world / "config.yaml"), "--set", f"data.log={uri}"] for uri in tables.values()]
    for extra, ended in zip(tables, run_without_extras(commands), strict=True):
        assert ended.code == 1
        assert ended.err.endswith(f"pip install '.[{extra}]'\n"), ended


def test_a_store_an_object_and_a_signature_name_their_extra(trained_bundle: Path, tmp_path: Path) -> None:
    bundle, key = str(trained_bundle), tmp_path / "public.pem"
    key.write_text("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n")
    wanted = {
        ("publish", bundle, "redis://localhost:1"): "redis",
        ("store", "ls", "redis+cluster://localhost:1"): "redis",
        ("publish", "s3://bucket/bundle", f"lmdb:{tmp_path}/store"): "objects",
        ("publish", bundle, f"lmdb:{tmp_path}/store"): None,
        ("store", "ls", f"lmdb:{tmp_path}/store"): None,
        ("rank", bundle, "request.json", "--trust", str(key)): "sign",
        ("follow", "items", "kafka://a/t", f"lmdb:{tmp_path}/store"): "kafka",
        ("import", "--help"): None,
    }
    for (command, extra), ended in zip(wanted.items(), run_without_extras(list(wanted)), strict=True):
        assert ended.code == (extra is not None), (command, ended)
        assert extra is None or ended.err.endswith(f"pip install '.[{extra}]'\n"), (command, ended)

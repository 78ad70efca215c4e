"""A config is YAML 1.2, each key once, and is read in bounded time whatever is in it."""

import os
from pathlib import Path

import pytest

from corank.core.errors import ConfigError
from corank.training.config.config_file import read
from corank.training.config.yaml_values import DEEPEST, LARGEST, read_yaml, read_yaml_file
from tests.support.configs import TEXT, refused, shop
from tests.support.hostile_configs import LAUGHS, make_world, read_mutations


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return shop(tmp_path)


SCALARS: dict[str, object] = dict(
    [
        *(("030", 30), ("1:30", "1:30"), ("0o17", 15), ("0x1F", 31), ("1_000", "1_000"), ("0b11", "0b11")),
        *(("-7", -7), ("+7", 7), ("1e3", 1000.0), (".5", 0.5), ("5.", 5.0), ("-.inf", float("-inf"))),
        *(("yes", "yes"), ("on", "on"), ("True", True), ("FALSE", False), ("tRUE", "tRUE")),
        *(("~", None), ("null", None), ("", None), ("nULL", "nULL")),
        *(("2026-04-29", "2026-04-29"), ("2026-02-30", "2026-02-30"), ("=", "="), ('"030"', "030")),
        *(("!!str 7", "7"), ("!!int '7'", 7), ("! 7", "7"), ("'<<'", "<<")),
    ]
)


def test_scalars_are_those_of_the_core_schema() -> None:
    for text, value in SCALARS.items():
        parsed = read_yaml(text, "text")
        assert parsed == value and type(parsed) is type(value), text


def test_a_key_that_is_given_twice_is_refused_with_both_lines(path: Path) -> None:
    path.write_text(f"{TEXT}name: again\n", encoding="utf-8")
    assert refused(path) == "line 28, column 1: key 'name' is in line 1 already; drop one"
    path.write_text(TEXT.replace("weight: 0.5", "weight: 0.5, weight: 2"), encoding="utf-8")
    assert "key 'weight' is in line 25 already" in refused(path)


# text → what its error says
REFUSED = {
    "a: {<<: {b: 1}}": "line 1, column 5: '<<' merges mappings in YAML 1.1 alone",
    "a: &b 1": "line 1, column 4: anchor '&b' is refused; write the value out",
    "a: [&b {c: 1}]": "line 1, column 5: anchor '&b' is refused",
    "&b a: 1": "line 1, column 1: anchor '&b' is refused",
    "? [a]\n: b": "a key must be text; write it in quotes",
    "1: a": "a key must be text; write it in quotes",
    "a: !!python/object/apply:os.system [id]": "line 1, column 4: tag '!!python/object/apply:os.system'",
    "a: !!set {b, c}": "tag '!!set' does not fit",
    "a: !!int x": "tag '!!int' does not fit",
    "a: !!timestamp 2026-04-29": "tag '!!timestamp' does not fit",
    "--- a\n--- b": "a second document begins",
    "a: *b": "line 1, column 4: alias '*b' is refused; write the value out",
    'a: "\\0"': "text with a NUL",
    "a: " + "9" * 5000: "expected a whole number of at most 64 bits; received 9999",
    "a: 9223372036854775808": "expected a whole number of at most 64 bits",
    "a: 1e999": "expected a number that a 64-bit float can hold",
    LAUGHS: "is refused; write the value out",
    "[" * 70: f"nested more than {DEEPEST} levels deep",
    "{a: " * 2000: f"nested more than {DEEPEST} levels deep",
    "- " * 2000 + "a": f"nested more than {DEEPEST} levels deep",
}  # fmt: skip


@pytest.mark.parametrize("text", REFUSED)
def test_what_is_not_plain_yaml_is_refused_by_line(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
    assert REFUSED[text] in refused(path)


def test_a_file_without_end_is_not_read_to_the_end(path: Path) -> None:
    path.write_bytes(b"#" * (LARGEST + 1))
    assert refused(path) == f"larger than {LARGEST:,} bytes, so it is no config; name another file"
    with pytest.raises(ConfigError, match="larger than"):
        read_yaml_file(Path("/dev/zero"))


NO_YAML = {
    "a: [": "line 2, column 1: while parsing a flow node, did not find expected node content",
    "a: b: c": "line 1, column 5: mapping values are not allowed in this context",
    "a: 'b": "line 2, column 1: while scanning a quoted scalar, found unexpected end of stream",
    "a: \x01": "control characters are not allowed",
}


def test_what_is_not_yaml_is_told_in_one_line(path: Path) -> None:
    for text, said in NO_YAML.items():
        path.write_text(f"{text}\n", encoding="utf-8")
        assert refused(path).startswith("not valid YAML: ") and said in refused(path)
        assert "\n" not in refused(path)


def test_bytes_of_an_override_that_are_not_utf_8_are_refused(path: Path) -> None:
    override = os.fsdecode(b"name=caf\xe9")
    assert refused(path, override) == f"--set {override}: not UTF-8; write it in that encoding"


def test_numbers_are_finite_and_lists_numbered_from_0(path: Path) -> None:
    for key, number in (
        ("losses.0.weight", ".nan"),
        ("stages.0.min_score", "-.inf"),
        ("train.table.lr", ".inf"),
    ):
        assert f"{key}: Input should be a finite number" in refused(path, f"{key}={number}")
    for index in ("-1", "+1", "1_0", "٠", " 0", "99", "1" * 5000):
        assert refused(path, f"stages.{index}.keep=2").endswith(": the config has no such place")
        assert refused(path, f"stages.{index}={{}}").endswith(": the config has no such place")


def test_days_and_times_are_read_from_text_that_is_one(path: Path) -> None:
    for day in ("2026-02-30", "20260429", "1777420800", "soon", "2026-4-9", "[2026]", "true"):
        assert refused(path, f"data.split.valid={day}").startswith("data.split.valid: ")
    for day in ("2026-04-28", "2026-04-28T06:00", "'2026-04-28 06:00:00'", "2026-04-28T06:00:00Z"):
        split = read(path, [f"data.split.valid={day}"]).data.split
        assert split.describe().startswith("valid from 2026-04-28")


def test_a_faulty_value_is_cut_to_what_a_message_has_room_for(path: Path) -> None:
    assert len(refused(path, f"train.epochs=[{'x, ' * 20_000}x]")) < 500
    assert len(refused(path, f"train.{'x' * 20_000}=1")) < 500


def test_mutated_configs_are_read_or_refused(tmp_path: Path) -> None:
    outcome = read_mutations(make_world(tmp_path), 300, seed=0)
    assert (outcome.failed, outcome.hung) == (0, 0), outcome.first
    assert outcome.accepted < 150

"""Mutated configs: of their values, their lines and their bytes; and what reading and checking them leads to."""

import random
from pathlib import Path
from typing import Any

import yaml

import corank
from corank.datasets.feed.simulate import simulate_world
from tests.support.configs import TEXT
from tests.support.hostile_cases import Outcome, attempt
from tests.support.hostile_input import mutate

ROOT = Path(__file__).parents[2]

LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)
TOKENS = [
    *("&a ", "*a", "<<: *a", "---\n", "...\n", "%YAML 1.1\n", "\t", "? ", "| ", "> ", "'", '"', "#", "\r"),
    *("!!set ", "!!python/name:os.system", "!!binary ", "!!int x", "! ", "{", "}", "[", "]", ": ", "- "),
    *(",", "\n", "030", "1:30", "0o17", "0x1f", "1_000", ".inf", "-.inf", ".nan", "1e999", "2026-02-30"),
    *("~", "yes", "on", '"\\0"', '"\\ud800"', '"\\U0001F600"', "\u2028", "\ufeff", "\x85", "9" * 5000),
    *("[" * 300, "- " * 300, "{a: " * 300, LAUGHS),
]
VALUES: list[Any] = [
    *(None, True, False, 0, -1, 1, 7, 2**31, 2**63 - 1, -(2**63), 2**64, 10**400, -0.0, 0.5, 1e308, 1e-308),
    *(float("inf"), float("-inf"), float("nan"), "", " ", "x", "-1", "1_0", "click", "rank", "prerank"),
    *("exposed", "user_id", "item_id", "time", "level", "a.b", "../x", "a" * 20_000, "\u0000", "粗排"),
    *("e\u0301", "%s{0}", "click * (", "(" * 400 + "click", "click ** click ** click", "9 ** 9 ** 9"),
    *("click.__class__", "1d", "-1d", "9" * 30 + "d", "2026-04-29", "2026-02-30", "9999-12-31", "0001-01-01"),
    *("2026-04-29T06:00:00+23:59", "batch", "catalogue", "**", "[", "*.parquet", "UTC", "Asia/Shanghai"),
    *("../../etc/localtime", [], {}, [[]], [None], {"": None}, ["click", "click"], [0, 0], [{}] * 50),
    {"column": "is_click"},
]


def base_configs(world: Path) -> list[str]:
    """The configs that are mutated: examples, of which some fit a simulated world, the importers', the world's."""
    paths = [*(ROOT / "examples").glob("*.yaml"), *ROOT.glob("corank*/datasets/*.yaml")]
    texts = [path.read_text(encoding="utf-8") for path in sorted(paths)]
    simulated = (world / "config.yaml").read_text(encoding="utf-8")
    return [*texts, TEXT, *[simulated] * 4]


def mutate_config(random_: random.Random, text: str) -> bytes:
    """Change the values, the lines or the bytes of a config, up to three times."""
    content = text.encode()
    for _ in range(random_.choice([1, 1, 1, 2])):
        change = random_.choice([_change_value, _change_value, _change_value, _change_line, _change_bytes])
        content = change(random_, content)
    return content


def _change_value(random_: random.Random, content: bytes) -> bytes:
    try:
        value = yaml.load(content, yaml.CSafeLoader)
    except (yaml.YAMLError, ValueError):
        return _change_bytes(random_, content)
    new = random_.choice([random_.choice(VALUES), random_.choice(VALUES), _inner(random_, value)])
    return yaml.dump(mutate(random_, value, new), allow_unicode=True, sort_keys=False).encode()


def _inner(random_: random.Random, value: Any) -> Any:
    """A part of the config itself, to stand where another belongs."""
    while isinstance(value, dict | list) and value and random_.random() < 0.8:
        value = random_.choice(list(value.values()) if isinstance(value, dict) else value)
    return value


def _change_line(random_: random.Random, content: bytes) -> bytes:
    lines = content.splitlines(keepends=True) or [b""]
    at, other = random_.randrange(len(lines)), random_.randrange(len(lines))
    match random_.randrange(5):
        case 0:
            lines.insert(other, lines[at])
        case 1:
            lines[at], lines[other] = lines[other], lines[at]
        case 2:
            del lines[at]
        case 3:
            lines[at] = b" " * random_.randrange(1, 9) + lines[at]
        case _:
            lines[at] *= random_.choice([2, 50, 2000])
    return b"".join(lines)


def _change_bytes(random_: random.Random, content: bytes) -> bytes:
    at = random_.randrange(len(content) + 1)
    end = min(len(content), at + random_.choice([0, 0, 1, 3, 20]))
    new = random_.choice([random_.choice(TOKENS).encode("utf-8"), random_.randbytes(2), b""])
    return content[:at] + new + content[end:]


def make_world(folder: Path) -> Path:
    """Write a world that is small enough to be checked thousands of times."""
    simulate_world(folder / "world", requests=40, candidates=10, users=5, items=20)
    return folder / "world"


def read_mutations(world: Path, cases: int, seed: int) -> Outcome:
    """Read mutated configs, and check them against the tables of a world; only a CorankError may come of it.

    Args:
        world: of `make_world`; mutated configs are written to this folder, and removed.
        cases: how many.
        seed: of the mutations.
    """
    corank.check(world / "config.yaml")  # what the first check imports is no config's fault
    random_, outcome, bases = random.Random(seed), Outcome(cases), base_configs(world)
    path = world / "mutated.yaml"
    for _ in range(cases):
        path.write_bytes(mutate_config(random_, random_.choice(bases)))
        attempt(outcome, lambda: corank.check(path), repr(path.read_bytes()[:1000]))
        path.unlink()
    return outcome

"""Hostile input: requests to a running `corank serve`, bundles and stores, served logs, configs, topics followed.

Nothing may end in a traceback, a crash, a 5xx or a hang, touch a file of others, or make memory grow. `--only` names
the parts to run; `--cases` is the number of cases of each.
"""

import argparse
from collections.abc import Callable

from benchmarks import harness
from benchmarks.robustness.fuzz_bundles import fuzz_bundles
from benchmarks.robustness.fuzz_configs import fuzz_configs
from benchmarks.robustness.fuzz_follow import fuzz_follow
from benchmarks.robustness.fuzz_http import fuzz_http
from benchmarks.robustness.fuzz_served_logs import fuzz_served_logs

PARTS: dict[str, tuple[Callable[[int, int], dict[str, float]], int, int]] = {
    "http": (fuzz_http, 12_000, 10_000),
    "bundles": (fuzz_bundles, 20_000, 20_000),
    "logs": (fuzz_served_logs, 5_000, 5_000),
    "configs": (fuzz_configs, 5_000, 5_000),
    "follow": (fuzz_follow, 5_100, 5_100),
}
"""By name the function, which takes cases and a seed; the cases of a full run; and how many of them must be counted."""
NONE = ("failed", "hung", "escaped", "lost", "wronged", "unpublished")
"""Figures that must be 0."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=PARTS, action="append", help="a part to run; all unless given")
    parser.add_argument("--cases", type=int, help="cases of each part")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    figures: dict[str, float] = {}
    aims: dict[str, tuple[str, float]] = {}
    for name in arguments.only or PARTS:
        run, cases, least = PARTS[name]
        outcome = run(arguments.cases or cases, arguments.seed)
        figures |= {f"{name}.{key}": value for key, value in outcome.items()}
        if "cases" in outcome:
            aims[f"{name}.cases"] = (">=", least)
        aims |= {f"{name}.{key}": ("<=", 0) for key in NONE if key in outcome}
        if "rss_end_mib" in outcome:
            aims[f"{name}.rss_end_mib"] = ("<=", outcome["rss_start_mib"] * 1.1)
    harness.report("fuzz", figures, aims, arguments.json)


if __name__ == "__main__":
    main()

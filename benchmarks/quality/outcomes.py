"""Columns that are known only after the click: how many of those that are planted in a log pass, and what honest ones.

Logs are drawn, of 300, 3,000 and 30,000 requests of 10 candidates: 20 columns tell what happened (flags, counts,
amounts, values that are null without a click, times after it, some of the request), and 40 honest ones go with clicks
more or less. `corank check` is asked for a config with a feature of each, and `corank import lists` for the same log.
  SIZE.check.passed       planted columns that `check` does not refuse, the most of all drawings
  SIZE.check.refused      honest columns that it refuses
  SIZE.import.passed      planted columns that the importer makes a feature of
  SIZE.import.left_out    honest columns that it leaves out
  real.…                  the same of KuaiRand-Pure's columns, if its folder is given: what follows on a click, and what
                          is known before
"""

import argparse
import tempfile
from pathlib import Path

import polars as pl
from rich.console import Console

from benchmarks import harness
from corank.data.outcomes import where_label, why_outcome
from corank.datasets.kuairand import LOGS
from tests.support.outcome_logs import draw_outcome_log, left_out_by_import, refused_by_check, write_log

SIZES = (300, 3000, 30_000)
_AFTER = ("long_view", "play_time_ms", "comment_stay_time", "is_comment")
"""Of KuaiRand: those that are hardly there without a click. A like or a forward does not need one."""
_BEFORE = ("user_id", "video_id", "date", "hourmin", "duration_ms", "tab", "is_rand")


def judge(requests: int, seed: int) -> dict[str, list[str]]:
    """Draw a log, and name what passes and what is left out wrongly."""
    log = draw_outcome_log(requests, seed)
    with tempfile.TemporaryDirectory() as folder:
        write_log(log, Path(folder))
        refused, left_out = refused_by_check(Path(folder)), left_out_by_import(log, Path(folder))
    return {
        "check.passed": sorted(log.planted.keys() - refused),
        "check.refused": sorted(log.honest.keys() & refused),
        "import.passed": sorted(log.planted.keys() - left_out),
        "import.left_out": sorted(log.honest.keys() & left_out),
    }


def judge_real(folder: Path) -> dict[str, list[str]]:
    """Name the same of KuaiRand's columns against its clicks."""
    source = folder / "data" if (folder / "data").is_dir() else folder
    log = pl.concat([pl.read_csv(source / name) for name in LOGS if (source / name).is_file()])
    clicked, moment = (log["is_click"] == 1).to_numpy(), log["time_ms"].to_numpy()
    late = {n for n in (*_AFTER, *_BEFORE) if why_outcome(n, log[n], clicked, where_label("click"), moment)}
    return {"passed": sorted({*_AFTER} - late), "left_out": sorted({*_BEFORE} & late)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("real", type=Path, nargs="?", help="KuaiRand-Pure, whole or a slice")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--drawings", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    say = Console(stderr=True).print
    figures: dict[str, harness.Figure] = {}
    for requests in arguments.sizes:
        for seed in range(arguments.drawings):
            for kind, names in judge(requests, seed).items():
                key = f"{requests}.{kind}"
                figures[key] = max(int(figures.get(key, 0)), len(names))
                if names:
                    say(f"{key}, drawing {seed}: {', '.join(names)}")
    if arguments.real is not None:
        for kind, names in judge_real(arguments.real).items():
            figures[f"real.{kind}"] = len(names)
            say(f"real.{kind}: {', '.join(names) or 'none'}")
    aims = {key: ("<=", 0 if key.endswith("passed") else 1) for key in figures}
    harness.report("outcomes", figures, aims, arguments.json)


if __name__ == "__main__":
    main()

"""Candidates a second of training by two processes; references: one process, processes that share nothing, TorchRec.

All train on this machine's two cores: one process of two threads, or two processes of one thread each. A batch has so
many requests for all processes together. Rounds of all modes are interleaved, so that a machine that slows down slows
all. Bytes are those that a rank sends, beside the formula of docs/operations/scaling.md.
"""

import argparse
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

from benchmarks import harness
from benchmarks.torchrec_tables import install_torchrec
from benchmarks.training_ranks import Mode, Steps, TrainingGroup, prepare, run_here
from tests.support.network import ADDRESSES, Hosts, can_make_hosts, hosts_at_rate

GIGABIT = 1.0
AIMS = {
    "sharded_share": (">=", 0.9),
    "sharded_share@2048": (">=", 0.97),
    "times_torchrec": (">=", 2.0),
    "times_torchrec@2048": (">=", 2.0),
    "bytes_share": ("<=", 1.05),
    "bytes_share@2048": ("<=", 1.05),
    "network_share": (">=", 0.9),
    "network_share@2048": (">=", 0.9),
}


def measure(groups: Sequence[TrainingGroup], rounds: int, steps: int) -> list[list[Steps]]:
    """Take steps with each group in turn, for some rounds. Returns the rounds of each group."""
    taken = [[group.step(steps) for group in groups] for _ in range(rounds)]
    return [list(of_group) for of_group in zip(*taken, strict=True)]


def candidates_per_second(found: Sequence[Steps]) -> float:
    """The median over rounds."""
    return median(part.candidates / part.seconds for part in found)


def share(found: Sequence[Steps], reference: Sequence[Steps]) -> float:
    """The median over rounds of a mode's speed relative to a reference in the same round."""
    pairs = zip(found, reference, strict=True)
    return median((a.candidates / a.seconds) / (b.candidates / b.seconds) for a, b in pairs)


def formula(found: Steps, ranks: int, dim: int = 16) -> float:
    """Bytes a candidate that a rank of sharded tables sends: docs/operations/scaling.md, "Cost model"."""
    share_elsewhere = (ranks - 1) / ranks
    rows = found.distinct * (8 * dim + 4) * share_elsewhere
    return rows + 8 * found.layer_weights * share_elsewhere / (found.candidates_a_step / ranks)


def compare(
    folder: Path, requests: int, rounds: int, steps: int, path: Sequence[str] | None
) -> dict[str, float]:
    """The figures of one batch size; TorchRec's if `path` leads to it."""
    two: list[Callable[[list[str]], list[str]]] = [run_here, run_here]
    groups: dict[Mode, TrainingGroup] = {"single": TrainingGroup("single", folder, requests, [run_here], 2)}
    modes: list[Mode] = ["sharded", "replicated", "ceiling"]
    if path:
        modes.append("torchrec")
    for mode in modes:
        groups[mode] = TrainingGroup(mode, folder, requests, two, 1, path=path or ())
    by_mode = dict(zip(groups, measure(list(groups.values()), rounds, steps), strict=True))
    for group in groups.values():
        group.close()
    figures: dict[str, float] = {str(mode): candidates_per_second(parts) for mode, parts in by_mode.items()}
    for mode in modes:
        figures[f"{mode}_share"] = share(by_mode[mode], by_mode["single"])
    if path:
        figures["times_torchrec"] = share(by_mode["sharded"], by_mode["torchrec"])
    last = by_mode["sharded"][-1]
    figures |= {
        "bytes_per_candidate": sum(last.sent.values()),
        "bytes_per_candidate.formula": formula(last, 2),
        "bytes_per_candidate.replicated": sum(by_mode["replicated"][-1].sent.values()),
        "bytes_share": sum(last.sent.values()) / formula(last, 2),
        "distinct_rows_per_candidate": last.distinct,
    }
    for part, seconds in sorted(last.waited.items()):
        figures[f"ms.{part.replace(' ', '_')}"] = 1000 * seconds
    figures["ms.step"] = 1000 * last.seconds / steps
    figures["collectives"] = last.collectives
    return figures


def compare_network(folder: Path, requests: int, rounds: int, steps: int) -> dict[str, float]:
    """Two ranks on two hosts joined at 1 Gbit/s, compared with the same two on one host and the formula."""
    with hosts_at_rate(GIGABIT) as hosts:
        apart = TrainingGroup("sharded", folder, requests, _on(hosts), 1, address=ADDRESSES[0])
        near = TrainingGroup("sharded", folder, requests, [run_here, run_here], 1)
        on_one, on_two = measure([near, apart], rounds, steps)
        near.close()
        apart.close()
    shares = []
    for here, there in zip(on_one, on_two, strict=True):
        candidates = here.candidates / 2
        predicted = here.seconds + candidates * formula(here, 2) / (GIGABIT * 1e9 / 8)
        shares.append(predicted / there.seconds)
    return {"network": candidates_per_second(on_two), "network_share": median(shares)}


def _on(hosts: Hosts) -> list[Callable[[list[str]], list[str]]]:
    """Runners of commands on each host; gloo needs the device, since the host's name leads nowhere."""
    return [
        lambda arguments, host=host: hosts.command(  # type: ignore[misc]
            host, ["env", f"GLOO_SOCKET_IFNAME={hosts.device(host)}", *arguments]
        )
        for host in (0, 1)
    ]


def measure_memory(rows: int) -> dict[str, float]:
    """Peak memory of a rank that holds its part of a table of so many rows of 16, with its optimiser's state."""
    figures = {}
    for world in (1, 2, 4):
        group = TrainingGroup("memory", Path(), rows, [run_here] * world, 1)
        figures[f"memory_mib.{world}"] = group.step(1).peak_rss_mib
        group.close()
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--sizes", type=int, nargs="+", default=[512, 2048])
    parser.add_argument("--rows", type=int, default=50_000_000, help="of the table whose memory is measured")
    arguments = parser.parse_args()
    figures: dict[str, harness.Figure] = {}
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        prepare(folder, requests=24_576)
        refusal = install_torchrec(folder / "torchrec")
        path = [str(folder / "torchrec")] if refusal is None else None
        if refusal is not None:
            figures["torchrec"] = f"not measured: {refusal}"
        for size in arguments.sizes:
            steps = max(2, 6 * 512 // size)
            comparison = compare(folder, size, arguments.rounds, steps, path)
            if can_make_hosts():
                comparison |= compare_network(folder, size, arguments.rounds, steps)
            figures |= {
                name if size == 512 else f"{name}@{size}": value for name, value in comparison.items()
            }
        figures |= measure_memory(arguments.rows)
    harness.report("scale_train", figures, {k: a for k, a in AIMS.items() if k in figures}, arguments.json)


if __name__ == "__main__":
    main()

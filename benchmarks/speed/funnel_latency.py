"""Latency of one request: 1,000 candidates out of 1,000,000 items, 100 of which reach the ranker.

In process, `prerank` is the time from the query's input and the candidates' rows to the kept ones. `floor` is its query
tower, gather, product and partition alone, on a matrix in memory, without calibration and order. `funnel` is the whole
request; `parsed` includes reading it. Over HTTP, `corank serve` on one core takes turns with two services written for
this one model (rivals.py), which must give the same scores: requests a second of each when saturated by 32 clients, and
latency at 70 % of that. `http_tail` is p99 / p50 there, `queue_tail` that of the same arrivals at a queue whose
requests all take the same time, than which no worker that answers one at a time can be expected to do better. `packed`
is the same service asked in MessagePack, `batch` in batches of 16 (requests a second); `after_candidates` is the time
from when a caller knows its candidates to the answer, with the query sent along, or sent ahead (`/rank/ahead`).

`--before DIR`, a checkout of an earlier commit, adds ratios to that: `before_` figures over HTTP, in which its service
takes turns with the others, and `plain.1000` ones in process. `alone` is one client, whose requests come one after the
other: µs from one answer to the next, the client's own time included. `--parts` prints the parts of a request alone, in
process, at 1,000, 5,000 and 10,000 candidates, of bundles with plain columns, ids of text, and all kinds of features.
"""

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from benchmarks import harness
from benchmarks.checkout import ROOT, Checkout
from benchmarks.load import (
    Sent,
    answers,
    arrivals,
    arriving,
    free_port,
    message,
    on_core,
    run,
    saturated,
    serving,
)
from benchmarks.million import CANDIDATES, Kind, Million, million
from benchmarks.speed.request_parts import bundle_of, part_figures
from benchmarks.speed.rivals import RIVALS
from benchmarks.speed.transports import BATCH, ahead_figures, batches, packed
from corank.funnel.funnel import Funnel
from corank.funnel.ranking import Ranking
from corank.funnel.request import Request
from corank.funnel.stage_scorer import Candidates, ScorerInputs, open_graph
from tests.support.service import ANY_TIME

REQUESTS, CHECKED = 300, 20
CLIENTS = 32
"""That ask at once when a server is saturated; those of batches are few, since its queue holds 64 requests."""
SHARE = 0.7
"""Of the saturated rate, at which waits are measured."""
TOLERANCE = 1e-5
CORANK = [sys.executable, "-c", "from corank.cli.main import main; main()"]
AIMS = {
    "prerank_times_floor": ("<=", 1.2),
    "funnel_us": ("<=", 400.0),
    "http_times_naive": (">=", 25.0),
    "http_times_tuned": (">=", 1.2),
    "packed_times_tuned": (">=", 1.0),
    "http_times_before": (">=", 2.0),
    "http_alone_times_before": ("<=", 0.85),
    "http_tail": ("<=", 3.0),
    "plain.1000.whole_times_before": ("<=", 0.8),
    "plain.1000.batch_of_8_times_before": ("<=", 0.55),
}
SIZES = (CANDIDATES, 5_000, 10_000)
KINDS: tuple[Kind, ...] = ("plain", "text", "features")
Answer = dict[str, Any]


def in_turn(calls: Mapping[str, Callable[[int], object]], rounds: int) -> dict[str, NDArray[np.float64]]:
    """Seconds of every call of each, by number of the request; at one time each is at another request.

    So all see the same requests, and none finds in the cache what another has just read.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    for n in range((1 + rounds) * REQUESTS):  # the first round warms up
        for at, (name, call) in enumerate(calls.items()):
            number = (n + at * REQUESTS // len(calls)) % REQUESTS
            began = time.perf_counter()
            call(number)
            times[name].append(time.perf_counter() - began)
    return {name: np.array(seconds[REQUESTS:]) for name, seconds in times.items()}


def prerank(funnel: Funnel, requests: Sequence[Request]) -> dict[str, Callable[[int], object]]:
    """The floor, and the funnel's own way from the query's input and the candidates' places to those it keeps."""
    stage, *_ = funnel.manifest.stages
    received = [funnel.encode(request) for request in requests]
    name, inputs = (
        f"query.{stage.tables}",
        ScorerInputs(stage, funnel.scorer.folder, funnel.scorer.layout, funnel.scorer.tables[stage.tables]),
    )
    query_inputs = [inputs.query(one.query, {}) for one in received]
    everyone, quotas = np.arange(CANDIDATES), {s.name: s.keep for s in funnel.manifest.stages}

    def ours(n: int) -> None:
        ranked = Ranking(requests[n])
        ranked.begin(funnel.manifest, quotas)
        candidates = Candidates(received[n], everyone, {name: query_inputs[n]})
        score = funnel.scorer.evaluate(stage, candidates)[1]
        ranked.cut(stage, everyone, score)

    tower = open_graph(funnel.scorer.folder / f"{stage.name}.query.onnx")
    vectors = np.array(funnel.request_encoder.items.layers[0].parts[f"{stage.name}.vector"].decode())
    taken = np.empty((CANDIDATES, vectors.shape[1]), dtype=np.float32)

    def floor(n: int) -> None:
        query = tower.run(None, {"query": query_inputs[n]})[0][0]
        np.take(vectors, received[n].positions, axis=0, out=taken, mode="clip")
        np.argpartition(taken @ query, -stage.keep)[-stage.keep :]

    return {"floor": floor, "prerank": ours}


def in_process(made: Million, rounds: int) -> dict[str, float]:
    funnel, asked = Funnel.open(made.bundle), made.requests(REQUESTS)
    requests = [Request.parse(one) for one in asked]
    whole = {
        "funnel": lambda n: funnel.rank(requests[n]),
        "parsed": lambda n: funnel.rank(Request.parse(asked[n])),
    }
    with on_core(0):
        times = in_turn(prerank(funnel, requests), rounds) | in_turn(whole, rounds)
    figures: dict[str, float] = {}
    for name, seconds in times.items():
        figures[f"{name}_us"], figures[f"{name}_p99_us"] = (np.percentile(seconds, [50, 99]) * 1e6).tolist()
    return figures | {"prerank_times_floor": figures["prerank_us"] / figures["floor_us"]}


def parts(folder: Path | None, before: Checkout | None, rounds: int) -> dict[str, float]:
    """Of every kind of bundle, in a folder each."""
    figures: dict[str, float] = {}
    for kind in KINDS:
        with million(folder if folder is None or kind == "plain" else folder / kind, kind) as made:
            for candidates in SIZES:
                figures |= part_figures(made, codes(made, before), candidates, rounds)
    return figures


def codes(made: Million, before: Checkout | None) -> dict[str, tuple[Checkout, Path]]:
    """The working tree and the earlier commit, each with its bundle."""
    checkouts = {"now": (Checkout(ROOT), made.bundle)}
    return checkouts if before is None else checkouts | {"before": (before, bundle_of(made, before))}


def commands(made: Million, before: Checkout | None) -> dict[str, list[object]]:
    servers: dict[str, list[object]] = {
        "http": [*CORANK, "serve", made.bundle, *ANY_TIME],
        **{name: [sys.executable, "-m", "benchmarks.speed.rivals", name, made.folder] for name in RIVALS},
    }
    if before is not None:
        earlier = ["env", f"PYTHONPATH={before.root}", CORANK[0], "-P", *CORANK[1:]]
        servers["before"] = [*earlier, "serve", bundle_of(made, before), *ANY_TIME]
    return servers


def check_alike(ports: Mapping[str, int], messages: Sequence[bytes]) -> None:
    """That all keep the same, with the same scores."""
    ours, *others = ([scores(body) for body in run(answers(port, messages))] for port in ports.values())
    for other in others:
        for one, another in zip(ours, other, strict=True):
            assert one.keys() == another.keys(), f"{one} and {another}"
            assert max(abs(score - another[id_]) for id_, score in one.items()) < TOLERANCE


def scores(body: bytes) -> dict[int, float]:
    return {item["id"]: item["score"] for item in msgspec.json.decode(body)["items"]}


def over_http(made: Million, rounds: int, seconds: float, before: Checkout | None) -> dict[str, float]:
    asked = made.requests(REQUESTS)
    messages = [message(msgspec.json.encode(one)) for one in asked]
    started = commands(made, before)
    ports = {name: free_port() for name in started}
    with ExitStack() as servers:
        for name, command in started.items():
            servers.enter_context(serving([*command, "--port", ports[name]], ports[name]))
        check_alike(ports, messages[:CHECKED])
        # of the one server in other forms, each in its turn
        sent = {name: (port, messages, 1, CLIENTS) for name, port in ports.items()} | {
            **{
                f"{name}_alone": (ports[name], messages, 1, 1) for name in ("http", "before") if name in ports
            },
            "packed": (ports["http"], [packed(one) for one in asked], 1, CLIENTS),
            "batch": (ports["http"], batches(asked), BATCH, 2),
        }
        taken = [
            {
                name: many * run(saturated(port, payloads, seconds, clients))
                for name, (port, payloads, many, clients) in sent.items()
            }
            for _ in range(rounds)
        ]
        rates = {name: float(np.median([one[name] for one in taken])) for name in sent}
        ahead = run(ahead_figures(ports["http"], asked, 1))
        waits = {
            name: waiting(port, messages, SHARE * rates[name], rounds * seconds)
            for name, port in ports.items()
        }
    alone = {name: 1e6 / rates.pop(name) for name in ("http_alone", "before_alone") if name in rates}
    figures = {f"{name}_rps": rate for name, rate in rates.items()}
    figures |= {f"{name}_us": micros for name, micros in alone.items()}
    if before is not None:
        ratios = [one["before_alone"] / one["http_alone"] for one in taken]
        figures["http_alone_times_before"] = float(np.median(ratios))
    for name, waited in waits.items():
        figures[f"{name}_p50_ms"], figures[f"{name}_p99_ms"] = waited.percentile(50), waited.percentile(99)
        figures[f"{name}_refused"] = waited.failed
    others = [name for name in ports if name != "http"]
    figures["http_tail"] = figures["http_p99_ms"] / figures["http_p50_ms"]
    figures["queue_tail"] = queue_tail(rates["http"], rounds * seconds)
    figures["http_tail_times_queue"] = figures["http_tail"] / figures["queue_tail"]
    figures["packed_times_tuned"] = float(np.median([one["packed"] / one["tuned"] for one in taken]))
    figures["batch_times_http"] = float(np.median([one["batch"] / one["http"] for one in taken]))
    return (
        figures
        | ahead
        | {
            f"http_times_{other}": float(np.median([one["http"] / one[other] for one in taken]))
            for other in others
        }
    )


def waiting(port: int, messages: Sequence[bytes], rate: float, seconds: float) -> Sent:
    sent = Sent()
    run(arriving(port, messages, rate, seconds, sent))
    return sent


def queue_tail(saturated_rate: float, seconds: float) -> float:
    """p99 / p50 of the time in a queue, at SHARE of what it can do, whose requests all take the same time."""
    waited, free = [], 0.0
    for due in arrivals(SHARE * saturated_rate, seconds):
        free = max(free, due) + 1 / saturated_rate
        waited.append(free - due)
    middle, tail = np.percentile(waited, [50, 99])
    return float(tail / middle)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--folder", type=Path, help="where the bundle of a million items is kept")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0, help="of load in a round")
    parser.add_argument("--before", type=Path, help="a checkout of an earlier commit")
    parser.add_argument("--parts", action="store_true", help="the parts of a request alone")
    options = parser.parse_args()
    before = options.before and Checkout(options.before.resolve())
    if options.parts:
        harness.report("funnel_latency", parts(options.folder, before, options.rounds), {}, options.json)
        return
    with million(options.folder) as made:
        figures = in_process(made, options.rounds)
        if before is not None:
            figures |= part_figures(made, codes(made, before), CANDIDATES, options.rounds)
        figures |= over_http(made, options.rounds, options.seconds, before)
    aims = {name: aim for name, aim in AIMS.items() if name in figures}
    harness.report("funnel_latency", figures, aims, options.json)


if __name__ == "__main__":
    main()

"""Latency of a whole funnel, measured on this machine on bundles that are exported before any training.

Latency depends on shapes, which are features, widths and quotas, and not on weights. So a funnel is timed once for all
its trainings, and a funnel that is too slow is not trained.

Letters: N calls.
"""

import hashlib
import json
import os
import platform
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import msgspec
import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray

from corank.analysis.logged_request import logged_request
from corank.analysis.search.search_folder import packed_path
from corank.analysis.trials.trial_data import TrialData
from corank.core.calibration import Platt
from corank.core.files import write_text
from corank.core.version import corank_version
from corank.data.dataset import PackedDataset
from corank.serving.funnel.funnel import Funnel
from corank.serving.funnel.request import Request
from corank.training.config import Config
from corank.training.config_file import plain
from corank.training.export import export_bundle
from corank.training.run import Run, build_model

REQUESTS, ROUNDS = 8, 30
"""Logged requests that are timed, and how often each: 240 calls a quota."""
WARM_ROUNDS = 2
STEADY, TRIES = 0.1, 2
"""Width of an interval, as a share of its median, at which a measurement is not repeated; and measurements at most."""
IDLE = ("dropout", "table_gradient", "cuts", "min_score", "deadline_ms", "value", "labels")
"""Settings of a stage that its latency hardly depends on, other than by the number of labels."""


@dataclass(frozen=True)
class FunnelLatency:
    """Microseconds of a request: the median of all calls, with the 95 % interval of that median."""

    median: float
    low: float
    high: float
    calls: int

    def __str__(self) -> str:
        return f"{self.median:,.0f} µs [{self.low:,.0f}, {self.high:,.0f}]"


@dataclass(frozen=True)
class LatencyMeter:
    """Times funnels by their shape, and stores the measurements in a folder."""

    folder: Path
    data: TrialData
    _known: dict[str, dict[int, FunnelLatency]] = field(default_factory=dict)

    def measure(self, config: Config, quotas: Sequence[int]) -> dict[int, FunnelLatency]:
        """Latency by quota of the first stage. Raises DataError, BundleError, RequestError."""
        shape = self._shape(config, quotas)
        if shape not in self._known:
            self._known[shape] = self._load(shape, quotas) or self._measure(config, quotas, shape)
        return self._known[shape]

    def fastest(self, quotas: Sequence[int]) -> FunnelLatency | None:
        """The lowest of all latencies that were measured at these quotas, by their upper ends."""
        measured = [self._load(path.stem, quotas) for path in sorted(self.folder.glob("*.json"))]
        latencies = [one for by_quota in measured if by_quota for one in by_quota.values()]
        return min(latencies, key=lambda one: one.high, default=None)

    def _shape(self, config: Config, quotas: Sequence[int]) -> str:
        stages = []
        for n, stage in enumerate(plain(config)["stages"]):
            settings = {key: value for key, value in stage.items() if key not in IDLE}
            stages.append(settings | {"labels": len(config.stages[n].labels)} | ({} if n else {"keep": None}))
        packed = self.data.of(config)
        machine = [
            platform.node(),
            platform.machine(),
            os.cpu_count(),
            onnxruntime.__version__,
            corank_version(),
        ]
        parts = [stages, plain(config)["features"], list(quotas), packed.manifest.fingerprint, machine]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:24]

    def _load(self, shape: str, quotas: Sequence[int]) -> dict[int, FunnelLatency] | None:
        """The stored measurement; None if there is none, or it is damaged."""
        try:
            document = json.loads((self.folder / f"{shape}.json").read_text(encoding="utf-8"))
            latencies = {m: FunnelLatency(**document[str(m)]) for m in quotas}
            numbers = [(one.low, one.median, one.high) for one in latencies.values()]
            return latencies if all(0 < low <= middle <= high for low, middle, high in numbers) else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _measure(self, config: Config, quotas: Sequence[int], shape: str) -> dict[int, FunnelLatency]:
        packed = self.data.of(config)
        with tempfile.TemporaryDirectory(prefix="corank") as folder:
            funnel = export_untrained(Path(folder) / "bundle", config, packed)
            requests = _usual_requests(Path(folder) / "run", config, packed, self.data.base)
            latencies = time_until_steady(funnel, requests, config.stages[0].name, quotas)
        text = json.dumps({m: asdict(one) for m, one in latencies.items()})
        write_text(self.folder / f"{shape}.json", text)
        return latencies


def export_untrained(path: Path, config: Config, packed: PackedDataset) -> Funnel:
    """Open the bundle of a config whose weights are as they are drawn. Raises BundleError."""
    torch.manual_seed(config.train.seed)
    model = build_model(config, packed)
    calibrators = {stage.name: dict.fromkeys(stage.labels, Platt(1.0, 0.0)) for stage in config.stages}
    return Funnel(export_bundle(path, config, packed, model, calibrators))


def _usual_requests(folder: Path, config: Config, packed: PackedDataset, base: Path) -> list[Request]:
    """Validation requests whose numbers of candidates are nearest to the median, as a service would get them."""
    sizes = np.concatenate([np.diff(shard.request_start) for shard in packed.splits["valid"]])
    nearest = np.argsort(np.abs(sizes - np.median(sizes)), kind="stable")[:REQUESTS]
    run = Run.create(folder, config.model_copy(update={"packed": packed_path(packed, base)}), base)
    return [Request.parse(logged_request(run, "valid", int(n))) for n in nearest]


def time_until_steady(
    funnel: Funnel, requests: Sequence[Request], stage: str, quotas: Sequence[int]
) -> dict[int, FunnelLatency]:
    """Latency by quota: the first measurement whose intervals are narrow, or the narrowest of `TRIES`."""
    best: tuple[float, dict[int, FunnelLatency]] | None = None
    for _ in range(TRIES):
        times = time_quotas(funnel, requests, stage, quotas)
        latencies = {m: median_interval(times[:, n]) for n, m in enumerate(quotas)}
        width = max((one.high - one.low) / one.median for one in latencies.values())
        if best is None or width < best[0]:
            best = width, latencies
        if width <= STEADY:
            break
    assert best is not None
    return best[1]


def time_quotas(
    funnel: Funnel, requests: Sequence[Request], stage: str, quotas: Sequence[int]
) -> NDArray[np.float64]:
    """Microseconds of `Funnel.rank` by the quota of a stage: (N, len(quotas)), N = `ROUNDS` · len(requests).

    A round runs all quotas, so that a slow spell of the machine affects all of them. Raises RequestError.
    """
    variants = [
        [msgspec.structs.replace(request, keep={stage: keep}, trace=False) for keep in quotas]
        for request in requests
    ]
    times = np.empty((WARM_ROUNDS + ROUNDS, len(requests), len(quotas)))
    for of_round in times:
        for n, each in enumerate(variants):
            for m, request in enumerate(each):
                began = time.perf_counter_ns()
                funnel.rank(request)
                of_round[n, m] = (time.perf_counter_ns() - began) / 1000
    return times[WARM_ROUNDS:].reshape(-1, len(quotas))


def median_interval(times: NDArray[np.float64]) -> FunnelLatency:
    """The median with its distribution-free 95 % interval: order statistics n/2 ± 1.96 √n/2 (N,)."""
    ordered = np.sort(times)
    n, half = len(ordered), 0.98 * np.sqrt(len(ordered))
    low, high = max(0, int(np.floor(n / 2 - half))), min(n - 1, int(np.ceil(n / 2 + half)))
    return FunnelLatency(float(np.median(ordered)), float(ordered[low]), float(ordered[high]), n)


def describe_machine() -> str:
    """The machine that latencies were measured on."""
    return f"{platform.machine()}, {os.cpu_count()} cores, onnxruntime {onnxruntime.__version__}, one thread"

"""Cases: a random world that is packed, with a model of random weights and its bundle."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from pydantic import TypeAdapter

from corank.analysis.logged_request import logged_request
from corank.bundle.bundle import Bundle, write_content
from corank.bundle.item_records import ItemRecords
from corank.bundle.manifest import BundleManifest
from corank.core.artifact import ArtifactWriter
from corank.core.calibration import Platt
from corank.data.packed.dataset import PackedDataset, prior_folder
from corank.distributed.ranks import Ranks
from corank.evaluation.predictions import Calibrators
from corank.funnel.funnel import Funnel
from corank.models.joint import JointModel
from corank.training.config.config import Config
from corank.training.export import export_bundle
from corank.training.model_building import build_model
from corank.training.number_sample import fit_networks
from corank.training.packed_data import open_packed, pack_config
from corank.training.run import Run
from tests.support.random_config import world_config
from tests.support.random_tables import write_tables
from tests.support.random_worlds import Drawn

_CALIBRATORS: TypeAdapter[Calibrators] = TypeAdapter(Calibrators)


def write_bundle(
    path: Path, manifest: BundleManifest, fill: Callable[[Path], BundleManifest | None]
) -> Bundle:
    """Write a bundle, whatever bundle was there before."""
    with ArtifactWriter.lock(path, BundleManifest, "export") as writer:
        return write_content(writer, manifest, fill)


@dataclass(frozen=True)
class Case:
    """A packed world and a model of random weights; nothing was trained."""

    base: Path
    config: Config
    packed: PackedDataset
    model: JointModel
    calibrators: Calibrators
    items: pl.DataFrame

    @classmethod
    def of(cls, base: Path, drawn: Drawn) -> "Case":
        """Write the tables of a world to `base`, pack them and draw a model."""
        rng = np.random.default_rng(drawn["seed"])
        items = write_tables(base, drawn, rng)
        config = Config.model_validate(world_config(drawn))
        packed = pack_config(config, base)
        model = random_model(config, packed, drawn["seed"])
        calibrators = {
            s.name: {label: Platt(float(rng.uniform(0.3, 2)), float(rng.normal())) for label in s.labels}
            for s in config.stages
        }
        (base / "calibrators.json").write_bytes(_CALIBRATORS.dump_json(calibrators))
        return cls(base, config, packed, model, calibrators, items)

    @classmethod
    def open(cls, base: Path, drawn: Drawn) -> "Case":
        """Read the case that `of` wrote to `base`."""
        config = Config.model_validate(world_config(drawn))
        packed = open_packed(config, base)
        calibrators = _CALIBRATORS.validate_json((base / "calibrators.json").read_bytes())
        items = pl.read_parquet(base / "items.parquet")
        return cls(base, config, packed, random_model(config, packed, drawn["seed"]), calibrators, items)

    @property
    def run(self) -> Run:
        return Run(self.base / "run", self.config, self.base)

    @cached_property
    def funnel(self) -> Funnel:
        """The funnel of the case's bundle, which is exported if it is not there."""
        if not (self.base / "bundle").exists():
            export_bundle(self.base / "bundle", self.config, self.packed, self.model, self.calibrators)
        return Funnel.open(self.base / "bundle")

    @property
    def since(self) -> int:
        """From when on the bundle's snapshots of priors are those that requests are packed with."""
        return max([0, *self.funnel.manifest.priors.values()])

    def request(self, split: str, number: int) -> dict[str, Any]:
        """A logged request, by way of JSON."""
        request: dict[str, Any] = json.loads(json.dumps(logged_request(self.run, split, number)))
        return request


def bare_funnel(packed: PackedDataset, path: Path) -> Funnel:
    """A funnel that encodes requests as a bundle of `packed` does, but has no stages: quickly made."""
    priors = packed.priors.as_of(packed.schema.snapshots(), packed.schema.priors(), packed.manifest.last)
    manifest = BundleManifest(
        name="bare",
        model_version="0" * 16,
        items_seq=1,
        data=packed.data,
        features=packed.manifest.features,
        stages=[],
        sources=packed.manifest.sources,
        priors=dict(priors.cut or {}),
        item_columns=packed.manifest.item_columns,
    )

    def fill(folder: Path) -> None:
        packed.encoders.save(folder / "encoders")
        ItemRecords.of_packed(packed, priors, *packed.newest_items()).save(folder / "items")
        for n, rates in enumerate(priors.rates.values()):
            rates.save(prior_folder(folder, n))

    return Funnel(write_bundle(path, manifest, fill))


def random_model(config: Config, packed: PackedDataset, seed: int) -> JointModel:
    """Weights of the size of a trained model's; embeddings, and what begins at zero, far from it."""
    torch.manual_seed(seed % 2**31)
    model = build_model(config, packed).eval()
    fit_networks(model, packed, Ranks())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith("tables.") or (parameter.dim() > 1 and not parameter.any()):
                parameter.normal_()
            elif parameter.dim() < 2 or not parameter.any():
                parameter.add_(torch.randn_like(parameter) * 0.3)
            else:
                parameter.mul_(2)
    return model

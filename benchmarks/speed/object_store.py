"""Throughput of published artifacts on loopback, beside raw requests, obstore's file system of fsspec, and local files.

The server is moto's, in a process of its own, so that all figures but those of local files are bounded by it: read the
ratios. `fetch` checks every byte by SHA-256 and writes it to the cache; `raw` keeps nothing; `fsspec` writes files and
checks nothing; `local` copies the same files and computes their SHA-256.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import boto3
import numpy as np
import obstore
from obstore.fsspec import FsspecStore
from obstore.store import from_url

from benchmarks import harness
from corank.core.artifact import File, measure_files, new_content
from corank.core.artifact_cache import ArtifactCache
from corank.core.artifact_objects import TRANSFERS, Published, Publisher
from corank.core.objects import ObjectUrl
from corank.training.run_publisher import RunManifest

AIMS = {"fetch.times_local": (">=", 0.5)}
MIB = 2**20
URL = ObjectUrl.parse("s3://bench/artifact")


@contextmanager
def server() -> Iterator[None]:
    """A server that speaks S3's protocol, which the environment leads to."""
    command = [sys.executable, "-c", "from moto.server import main; main(['-H', '127.0.0.1', '-p', '0'])"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        lines = iter(process.stderr.readline, "")
        address = next(line.split()[-1] for line in lines if "Running on" in line)
        ThreadPoolExecutor(1).submit(lambda: [None for _ in lines])  # a full pipe would stop it
        os.environ |= {
            "AWS_ACCESS_KEY_ID": "bench",
            "AWS_SECRET_ACCESS_KEY": "bench",
            "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": address,
        }
        boto3.client("s3", region_name="us-east-1", endpoint_url=address).create_bucket(Bucket=URL.bucket)
        yield
    finally:
        process.kill()
        process.wait()


def seconds(function: Callable[[], object]) -> float:
    """How long a call takes."""
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def publish(folder: Path) -> None:
    """Publish anew: nothing that is there is of the same content."""
    for path in folder.iterdir():
        with path.open("r+b") as file:
            file.write(os.urandom(16))
    manifest = RunManifest(content=new_content(), files=measure_files(folder))
    Publisher.open(URL, RunManifest).publish(folder, manifest)


def fetch(cache: Path) -> None:
    """Fetch all into an empty cache."""
    shutil.rmtree(cache, ignore_errors=True)
    ArtifactCache(cache, 2**40).fetch(Published.open(URL, RunManifest))


def read_raw(objects: list[str]) -> None:
    """Read all objects by obstore, and keep nothing."""
    store = from_url(str(URL), client_options={"allow_http": True})
    with ThreadPoolExecutor(TRANSFERS) as pool:
        list(pool.map(lambda name: [None for _ in obstore.get(store, name).stream()], objects))


def read_fsspec(objects: list[str], folder: Path) -> None:
    """Copy all objects to files by obstore's file system of fsspec."""
    files = FsspecStore("s3", client_options={"allow_http": True})
    with ThreadPoolExecutor(TRANSFERS) as pool:
        list(
            pool.map(
                lambda n: files.get_file(f"{URL}/{objects[n]}", str(folder / str(n))), range(len(objects))
            )
        )


def copy_local(folder: Path, target: Path) -> None:
    """Copy the files, and compute their SHA-256."""

    def copy(path: Path) -> None:
        shutil.copyfile(path, target / path.name)
        with (target / path.name).open("rb") as file:
            File.measure(file)

    with ThreadPoolExecutor(TRANSFERS) as pool:
        list(pool.map(copy, folder.iterdir()))


def one_round(folder: Path, scratch: Path) -> dict[str, float]:
    """Seconds of each way, one after another."""
    took = {"publish": seconds(lambda: publish(folder))}
    remote = Published.open(URL, RunManifest)
    objects = [f"{place}/{name}" for name, place in remote.manifest.places.items()]
    ways: dict[str, Callable[[], object]] = {
        "fetch": lambda: fetch(scratch / "cache"),
        "raw": lambda: read_raw(objects),
        "fsspec": lambda: read_fsspec(objects, scratch),
        "local": lambda: copy_local(folder, scratch),
        "cached": lambda: ArtifactCache(scratch / "cache", 2**40).fetch(remote),
    }
    return took | {name: seconds(way) for name, way in ways.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--files", type=int, default=32)
    parser.add_argument("--mib", type=float, default=16, help="of a file")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary, server():
        folder, scratch = Path(temporary, "folder"), Path(temporary, "scratch")
        folder.mkdir()
        scratch.mkdir()
        for n in range(options.files):
            (folder / f"part{n}").write_bytes(os.urandom(int(options.mib * MIB)))
        rounds = [one_round(folder, scratch) for _ in range(1 + options.rounds)][1:]  # the first warms up
    size = options.files * options.mib
    took = {name: np.array([one[name] for one in rounds]) for name in rounds[0]}
    figures: dict[str, harness.Figure] = {
        f"{name}.mib_per_second": float(size / np.median(values))
        for name, values in took.items()
        if name != "cached"
    }
    figures |= {
        f"fetch.times_{other}": float(np.median(took[other] / took["fetch"]))
        for other in ("raw", "fsspec", "local")
    }
    figures["cached.milliseconds"] = float(np.median(took["cached"]) * 1e3)
    harness.report("object_store", figures, AIMS, options.json)


if __name__ == "__main__":
    main()

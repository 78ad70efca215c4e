"""The reader of bundles in C++: built, run and compared with test cases of a bundle."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import onnxruntime
import pytest

import corank

CLIENTS = Path(__file__).parents[2] / "clients"
CPP_PROGRAM = "corank-rank"
REQUIRED = "CORANK_REQUIRE_CLIENT"
"""Set by .ci/run where the reader can be built: it is an error then if it cannot."""
HEADERS = ("onnxruntime/onnxruntime_cxx_api.h", "nlohmann/json.hpp", "openssl/evp.h")
"""Headers that the client in C++ includes, below /usr/include."""


def require_cpp() -> None:
    """Skip the test where what the client in C++ is built with is missing."""
    if shutil.which("g++") is None:
        _lacks("g++")
    for header in HEADERS:
        if not (Path("/usr/include") / header).exists():
            _lacks(f"/usr/include/{header} (libonnxruntime-dev, nlohmann-json3-dev, libssl-dev)")


def cpp_client(folder: Path) -> list[str]:
    """Build the client in C++ with the wheel's ONNX Runtime; skips the test where that cannot be done."""
    require_cpp()
    library = next((Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so.*"))
    (folder / "libonnxruntime.so.1").symlink_to(library)
    program = folder / CPP_PROGRAM
    flags = ["-std=c++17", "-O0", "-I/usr/include/onnxruntime", f"-L{folder}", f"-Wl,-rpath,{folder}"]
    libraries = ["-l:libonnxruntime.so.1", "-lcrypto"]
    source = str(CLIENTS / "cpp" / "main.cpp")
    subprocess.run(["g++", *flags, source, "-o", str(program), *libraries], check=True)
    return [str(program)]


def _lacks(what: str) -> None:
    missing = pytest.fail if REQUIRED in os.environ else pytest.skip
    missing(f"the reader in C++ needs {what}")


def compare(client: list[str], bundle: Path, cases: Path) -> dict[str, float]:
    """The largest differences between a client and test cases of a bundle, by step. Raises if it fails."""
    results = cases.with_suffix(".found.jsonl")
    with cases.open("rb") as source, results.open("wb") as made:
        subprocess.run([*client, str(bundle), "--cases"], stdin=source, stdout=made, check=True)
    return {row["metric"]: row["value"] for row in corank.compare_cases(cases, results)["rows"]}


def rank_lines(client: list[str], bundle: Path, requests: list[Any]) -> list[dict[str, Any]]:
    """The answers of a client to requests."""
    lines = "".join(json.dumps(request) + "\n" for request in requests)
    done = subprocess.run([*client, str(bundle)], input=lines, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def refusal(client: list[str], bundle: Path) -> str:
    """A client's error for a bundle that it must refuse."""
    done = subprocess.run([*client, str(bundle)], input="", capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout
    return done.stderr

"""Key pairs, as openssl writes them."""

import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class KeyPair:
    """The PEM files of a key pair."""

    private: Path
    public: Path


def make_keys(folder: Path, name: str = "key", algorithm: str = "ed25519") -> KeyPair:
    """Make a key pair by the commands of docs/operations/access.md."""
    keys = KeyPair(folder / f"{name}.pem", folder / f"{name}.public.pem")
    generate = ["openssl", "genpkey", "-algorithm", algorithm, "-out", str(keys.private)]
    subprocess.run(generate, check=True, capture_output=True)
    keys.private.chmod(0o600)
    derive = ["openssl", "pkey", "-in", str(keys.private), "-pubout", "-out", str(keys.public)]
    subprocess.run(derive, check=True, capture_output=True)
    return keys

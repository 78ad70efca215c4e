import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import corank
from corank.bundle.bundle import Bundle
from corank.bundle.signatures import SigningKeys, TrustedKeys
from corank.core.artifact import digest
from corank.core.errors import CorankError, TrustError
from tests.support.shared import finished_bundle, finished_run
from tests.support.signing import KeyPair, make_keys


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> KeyPair:
    return make_keys(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> KeyPair:
    return make_keys(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory, keys: KeyPair) -> Path:
    """A signed bundle, which tests do not change."""
    bundle = tmp_path_factory.mktemp("signed") / "bundle"
    corank.export(finished_run().folder, bundle, sign=[keys.private])
    return bundle


def trusted(*files: Path) -> TrustedKeys:
    keyring = TrustedKeys.load(files)
    assert keyring is not None
    return keyring


def edited(bundle: Path, folder: Path, edit: Callable[[dict[str, Any]], None]) -> Path:
    """A copy of a bundle with another manifest."""
    shutil.copytree(bundle, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    edit(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def test_a_signed_bundle_opens_under_the_key_that_signed_it(signed: Path, keys: KeyPair) -> None:
    assert Bundle.open(signed, trust=trusted(keys.public)).manifest.signatures
    assert corank.Funnel.open(signed, trust=[keys.public]).manifest.content
    assert corank.Funnel.open(signed).manifest.content


def test_a_bundle_unsigned_or_of_another_key_is_refused_and_keys_are_named(
    signed: Path, keys: KeyPair, other: KeyPair
) -> None:
    content = Bundle.open(finished_bundle()).manifest.content
    one, two = str(trusted(keys.public)), str(trusted(other.public))
    with pytest.raises(TrustError, match=rf"{content} is not signed; trusted keys: {one}"):
        Bundle.open(finished_bundle(), trust=trusted(keys.public))
    with pytest.raises(TrustError, match=rf"is signed by {one}, which is not trusted; trusted keys: {two}"):
        Bundle.open(signed, trust=trusted(other.public))


@pytest.mark.parametrize("field", ["content", "stages", "files"])
def test_an_altered_manifest_is_refused_even_with_its_digest_mended(
    signed: Path, keys: KeyPair, tmp_path: Path, field: str
) -> None:
    def edit(manifest: dict[str, Any]) -> None:
        if field == "stages":
            manifest["stages"][0]["keep"] += 1
        elif field == "files":
            next(iter(manifest["files"].values()))["sha256"] = "0" * 64
        else:
            manifest[field] += "x"
        manifest["digest"] = digest(manifest)

    with pytest.raises(TrustError, match=f"was altered after {trusted(keys.public)} signed it"):
        Bundle.open(edited(signed, tmp_path / "bundle", edit), trust=trusted(keys.public))


@pytest.mark.parametrize("signatures", [3, [{"key": "x", "signature": "y"}], [{}] * 100])
def test_signatures_that_are_none_are_refused_by_name(
    signed: Path, keys: KeyPair, tmp_path: Path, signatures: object
) -> None:
    bundle = edited(signed, tmp_path / "bundle", lambda manifest: manifest.update(signatures=signatures))
    with pytest.raises(TrustError, match="signatures"):
        Bundle.open(bundle, trust=trusted(keys.public))
    with pytest.raises(CorankError, match="signatures"):
        Bundle.open(bundle)


def test_keys_rotate_by_two_signatures_or_by_two_trusted_keys(
    signed: Path, keys: KeyPair, other: KeyPair, tmp_path: Path
) -> None:
    run, keys_of_both = finished_run(), [keys.private, other.private]
    both = corank.export(run.folder, tmp_path / "both", sign=keys_of_both).bundle
    for public in (keys.public, other.public):
        assert Bundle.open(both.folder.parent, trust=trusted(public)).manifest == both.manifest
    several = tmp_path / "several.pem"
    several.write_bytes(other.public.read_bytes() + b"# the older one\n" + keys.public.read_bytes())
    assert Bundle.open(signed, trust=trusted(several))
    assert Bundle.open(signed, trust=trusted(other.public, keys.public))


def test_a_fingerprint_is_what_openssl_and_sha256sum_print(keys: KeyPair) -> None:
    command = f"openssl pkey -pubin -in {keys.public} -outform DER | sha256sum | cut -c -16"
    printed = subprocess.run(command, shell=True, check=True, capture_output=True, text=True).stdout
    assert printed.strip() == str(trusted(keys.public))


def test_a_refreshed_bundle_is_signed_only_with_sign(signed: Path, keys: KeyPair, tmp_path: Path) -> None:
    bundle = edited(signed, tmp_path / "bundle", lambda manifest: None)
    log, said = str(finished_run().base / "log" / "*.parquet"), list[str]()
    corank.refresh(bundle, log, report=said.append)
    assert any("the refreshed one is not" in line for line in said)
    with pytest.raises(TrustError, match="is not signed"):
        Bundle.open(bundle, trust=trusted(keys.public))
    corank.refresh(bundle, log, sign=[keys.private])
    assert Bundle.open(bundle, trust=trusted(keys.public))


def test_a_key_file_is_refused_by_what_is_wrong_with_it(keys: KeyPair, tmp_path: Path) -> None:
    rsa, protected = make_keys(tmp_path, "rsa", "RSA"), tmp_path / "protected.pem"
    protect = [*f"openssl pkey -in {keys.private} -aes256 -passout pass:x -out".split(), str(protected)]
    subprocess.run(protect, check=True, capture_output=True)
    public = keys.public.read_bytes()
    contents = {"text": b"no key", "public": public, "cut": public + public[:60]}
    contents["open"] = keys.private.read_bytes()
    text, own, cut, open_to_all = (tmp_path / name for name in contents)
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        (tmp_path / name).chmod(0o644 if name == "open" else 0o600)
    protected.chmod(0o600)
    for load, file, message in [
        (SigningKeys.load, rsa.private, "is a key of kind RSA; expected ed25519"),
        (TrustedKeys.load, rsa.public, "is a key of kind RSA; expected ed25519"),
        (SigningKeys.load, protected, "is protected by a passphrase"),
        (SigningKeys.load, open_to_all, f"others can read this private key; first chmod 600 {open_to_all}"),
        (SigningKeys.load, own, "is a public key; --sign takes the private key"),
        (TrustedKeys.load, keys.private, "is private; --trust takes the public key"),
        (SigningKeys.load, tmp_path / "absent", "cannot be read: No such file"),
        (SigningKeys.load, text, "is no private key in PEM form"),
        (TrustedKeys.load, cut, "expected public keys in PEM form"),
    ]:
        with pytest.raises(TrustError, match=message):
            load([file])

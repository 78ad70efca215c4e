"""Tokens: their file, its rotation, their scopes."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from corank.core.errors import ConfigError
from corank_serve.http import tokens as tokens_module
from corank_serve.http.access_control import AccessControl
from corank_serve.http.asgi import NOBODY, HttpCall, RefusedError
from corank_serve.http.tokens import Scope, ScopeName, Token, Tokens, add_token, read_tokens
from tests.support.service import call_of

LINE = {"name": "feed", "scope": "write", "sha256": "0" * 64}


@pytest.fixture(autouse=True)
def _always_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens_module, "RECHECK_SECONDS", 0.0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tokens"


def request(secret: str | None) -> HttpCall:
    headers = [(b"host", b"localhost")]
    if secret is not None:
        headers.append((b"authorization", f"Bearer {secret}".encode()))
    return call_of(headers)


def status(access: AccessControl, secret: str | None, needs: Scope) -> int:
    """200, or the status of the refusal."""
    try:
        access.authorize(request(secret), needs)
    except RefusedError as refused:
        return refused.status
    return 200


def caller(access: AccessControl, secret: str | None) -> str:
    """Who is known to read."""
    http = request(secret)
    access.authorize(http, Scope.READ)
    return http.caller


def test_a_token_is_printed_once_and_stored_as_a_hash(path: Path) -> None:
    secret = add_token(path, "feed", "write")
    assert path.stat().st_mode & 0o777 == 0o600
    assert secret not in path.read_text()
    assert read_tokens(path) == (Token.of(secret, "feed", "write"),)
    path.write_text(path.read_text().rstrip("\n"))
    add_token(path, "web", "read")
    assert [token.name for token in read_tokens(path)] == ["feed", "web"]
    with pytest.raises(ConfigError, match="a token's name"):
        add_token(path, "a b", "read")


FULL = """
import resource, sys
from pathlib import Path
from corank.core.errors import ConfigError
from corank_serve.http.tokens import add_token
path, size = Path(sys.argv[1]), int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
try:
    print(add_token(path, "web", "read"))
except ConfigError as error:
    sys.exit(f"error: {error}")
"""


def test_a_full_disk_leaves_the_file_as_it_was_and_prints_no_token(path: Path) -> None:
    def add(size: int) -> tuple[int, str, str]:
        done = subprocess.run([sys.executable, "-c", FULL, path, str(size)], capture_output=True, text=True)
        return done.returncode, done.stdout, done.stderr

    message = f"error: {path}: cannot be written: File too large\n"
    assert add(20) == (1, "", message)
    assert [*path.parent.iterdir()] == []
    real = path.with_name("real")
    secret = add_token(real, "feed", "write")
    real.write_text(content := f"# of the shop\n{real.read_text()}")
    real.chmod(0o640)
    path.symlink_to(real)
    assert add(len(content) + 20) == (1, "", message)
    assert real.read_text() == content and {*path.parent.iterdir()} == {path, real}
    code, out, err = add(2 * len(content))
    assert (code, err) == (0, "") and path.is_symlink()
    assert real.read_text().startswith(content) and real.stat().st_mode & 0o777 == 0o640
    assert read_tokens(path) == (Token.of(secret, "feed", "write"), Token.of(out.strip(), "web", "read"))


def test_tokens_that_are_made_at_once_are_all_kept(path: Path) -> None:
    names = [f"client{n}" for n in range(40)]
    with ThreadPoolExecutor(8) as pool:
        secrets = [*pool.map(lambda name: add_token(path, name, "read"), names)]
    assert {*read_tokens(path)} == {Token.of(s, name, "read") for s, name in zip(secrets, names, strict=True)}
    assert [*path.parent.iterdir()] == [path]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "tokens:1: not a token"),
        ("\n# a comment\n[]", "tokens:3: not a token"),
        (json.dumps(LINE | {"scope": "root"}), "Invalid enum value 'root'"),
        (json.dumps(LINE | {"sha256": "secret"}), "`$.sha256`"),
        (json.dumps(LINE | {"secret": "x"}), "unknown field `secret`"),
        (json.dumps(LINE | {"name": "a\nb"}), "`$.name`"),
        (json.dumps(LINE | {"rate": 5}), "unknown field `rate`; a proxy limits rates now"),
        ("x" * 2_000_000, "1,048,576 bytes at most"),
    ],
)
def test_a_file_that_is_wrong_is_refused_by_its_line(path: Path, content: str, message: str) -> None:
    path.write_text(content)
    path.chmod(0o600)
    with pytest.raises(ConfigError, match="tokens") as error:
        read_tokens(path)
    assert message in str(error.value)
    if content.startswith("{"):
        with pytest.raises(ConfigError):
            add_token(path, "feed", "write")
        assert path.read_text() == content


def test_a_file_that_others_may_read_or_the_group_write_is_refused(path: Path) -> None:
    add_token(path, "feed", "write")
    path.chmod(0o640)
    assert read_tokens(path)
    for mode in (0o644, 0o660):
        path.chmod(mode)
        with pytest.raises(ConfigError, match=f"mode {mode:04o}; run `chmod 600"):
            read_tokens(path)


@pytest.mark.parametrize(
    ("scope", "statuses"), [("read", (200, 403, 403)), ("write", (200, 200, 403)), ("admin", (200, 200, 200))]
)
def test_a_scope_allows_those_before_it(scope: ScopeName, statuses: tuple[int, ...]) -> None:
    access = AccessControl(tokens=Tokens([Token.of("s", "one", scope), Token.of("a", "other", "admin")]))
    assert tuple(status(access, "s", needs) for needs in Scope) == statuses
    assert caller(access, "s") == "one"


def test_who_reads_needs_a_token_once_there_is_one_for_it_and_who_writes_always() -> None:
    writers = AccessControl(tokens=Tokens([Token.of("w", "feed", "write")]))
    assert (status(writers, None, Scope.READ), status(writers, "wrong", Scope.READ)) == (200, 200)
    assert caller(writers, None) == NOBODY
    readers = AccessControl(tokens=Tokens([Token.of("w", "feed", "write"), Token.of("r", "web", "read")]))
    statuses = [status(readers, secret, Scope.READ) for secret in (None, "wrong", "r", "w")]
    assert statuses == [401, 401, 200, 200]
    assert [status(AccessControl(), secret, Scope.WRITE) for secret in (None, "", "x")] == [403, 403, 403]


def test_tokens_rotate_and_a_broken_file_changes_nothing(path: Path) -> None:
    said: list[str] = []
    old = add_token(path, "feed", "write")
    access = AccessControl(tokens=Tokens((), path, said.append))
    assert status(access, old, Scope.WRITE) == 200
    new = add_token(path, "feed", "write")
    assert [status(access, secret, Scope.WRITE) for secret in (old, new)] == [200, 200]
    path.write_text(path.read_text().splitlines()[1] + "\n")
    assert [status(access, secret, Scope.WRITE) for secret in (old, new)] == [401, 200]
    for broken in ("{", None):
        path.unlink() if broken is None else path.write_text(broken)
        assert [status(access, secret, Scope.WRITE) for secret in (old, new, new)] == [401, 200, 200]
    assert [line.partition(":")[0] for line in said[-2:]] == ["the tokens of before stay"] * 2
    # one that could never be read opens nothing
    access = AccessControl(tokens=Tokens([], path))
    assert [status(access, None, needs) for needs in Scope] == [401, 401, 401]

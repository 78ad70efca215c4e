from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx2
import pytest

from corank.core.errors import StoreError
from corank_serve.store.base import open_store
from corank_serve.store.publish import publish_bundle
from tests.support.redis_server import Server, redis_server
from tests.support.service import running_service
from tests.support.shared import derived

pytestmark = pytest.mark.store
SECRET = "s:e/c@r et%"
VARIABLE = "CORANK_REDIS_PASSWORD"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that wants a password."""
    with redis_server(tmp_path_factory.mktemp("server"), "--requirepass", SECRET) as started:
        yield started


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file of the password, which its owner alone can read."""
    path = tmp_path / "password"
    path.write_text(f"{SECRET}\n")
    path.chmod(0o600)
    return path


def test_a_password_comes_from_a_file_before_the_environment_and_is_in_no_message(
    server: Server, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, "wrong-one")
    with pytest.raises(StoreError, match=r"the server refuses: .*; check user, password") as raised:
        open_store(server.url)
    assert "wrong-one" not in str(raised.value)
    with closing(open_store(f"{server.url}?prefix=p&password_file={file}")) as store:
        assert store.head() is None
    file.chmod(0o640)
    with pytest.raises(StoreError, match=rf"others can read {file}; first chmod 600 {file}") as raised:
        open_store(f"{server.url}?password_file={file}")
    assert SECRET not in str(raised.value)


def test_a_file_without_one_password_is_refused(server: Server, file: Path) -> None:
    for content in (b"", b"\n", b"two\nlines\n", b"\xff\xfe"):
        file.write_bytes(content)
        with pytest.raises(StoreError, match=r"expected the password alone|the password cannot be read"):
            open_store(f"{server.url}?password_file={file}")
    file.unlink()
    with pytest.raises(StoreError, match=rf"the password cannot be read: .*{file.name}"):
        open_store(f"{server.url}?password_file={file}")


@pytest.mark.slow
@pytest.mark.parametrize("given", ["environment", "file"])
def test_a_service_of_several_workers_takes_it(
    server: Server, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    url = f"{server.url}?prefix={given}"
    if given == "environment":
        monkeypatch.setenv(VARIABLE, SECRET)
    else:
        url += f"&password_file={file}"
    with closing(open_store(url)) as store:
        first = publish_bundle(derived().base / "bundle", store)
    with running_service(url, tmp_path / "cache", workers=2) as (address, process):
        assert httpx2.post(f"{address}/rank", json=derived().request("test", 0)).status_code == 200
        words = [*process.cmdline(), *(word for one in process.children() for word in one.cmdline())]
        assert not any(SECRET in word for word in words)
    assert (tmp_path / "cache" / first).is_dir()

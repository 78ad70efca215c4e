"""URLs of object storage: accepted forms, and forms refused before anything is sent."""

from pathlib import Path

import pytest

from corank.core.errors import StorageError
from corank.core.objects import ObjectUrl, parse_location


def test_a_url_is_read_and_extended() -> None:
    url = ObjectUrl.parse("gs://shop/runs/may/")
    assert (url.scheme, url.bucket, url.key) == ("gs", "shop", "runs/may")
    assert str(url / "report.html") == "gs://shop/runs/may/report.html"
    assert url.root == "gs://shop"


def test_paths_stay_paths() -> None:
    assert parse_location("runs/shop") == Path("runs/shop")
    assert parse_location(Path("runs/shop")) == Path("runs/shop")
    assert parse_location("file:///srv/runs") == Path("/srv/runs")


@pytest.mark.parametrize(
    "text",
    [
        "s3://shop",
        "s3://shop/../etc",
        "s3://shop/a?versionId=1",
        "s3://shop/" + "a" * 2000,
        "http://shop/a",
    ],
)
def test_what_leads_nowhere_is_refused(text: str) -> None:
    with pytest.raises(StorageError, match=r"expected|no name of a bucket"):
        parse_location(text)


@pytest.mark.parametrize(
    "text",
    [
        "runs/" + "a" * 5000,
        "runs/\0",
    ],
)
def test_what_no_file_system_takes_is_refused(text: str) -> None:
    for location in (text, Path(text)) if "://" not in text else (text,):
        with pytest.raises(StorageError, match="no path: a name has more than 200 bytes"):
            parse_location(location)


def test_an_empty_path_is_not_the_working_directory() -> None:
    with pytest.raises(StorageError, match="a path is empty"):
        parse_location("")


def test_credentials_in_a_url_are_refused_and_not_repeated() -> None:
    with pytest.raises(StorageError, match="holds no credentials") as error:
        parse_location("s3://AKIA1234:hidden@shop/a")
    assert "hidden" not in str(error.value) and "AKIA1234" not in str(error.value)


def test_a_name_leads_below_the_url_alone() -> None:
    with pytest.raises(StorageError, match="expected a file or folder"):
        _ = ObjectUrl.parse("s3://shop/a") / "../b"
